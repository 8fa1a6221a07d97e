"""Parameters and states as floating-point numbers, whatever the formats that they are stored in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fastopt.arrays import checks, placement
from fastopt.arrays.tree import Structure
from fastopt.steps.group import Group
from fastopt.steps.stepper import Stepper


class Decoded:
    """The methods of optimizers that read and write decoded numbers."""

    __slots__ = ()

    _state: Mapping[str, Any]
    _structure: Structure
    _groups: list[Group]
    _leaves: list[Any]
    _steps: Stepper
    catch_up: Callable[..., None]

    def decoded(self, name: str) -> Any:
        """A state as floating-point numbers, decoded from the format that it is stored in.

        Parameters
        ----------
        name : str
            Of the state.

        Returns
        -------
        array, or structure of arrays like `params`
            Copies, shaped like the parameters; None where a chain does not have the state.
        """
        if name not in self._state:
            raise ValueError(f"name must be one of {list(self._state)}, got {name!r}")
        self.catch_up()
        numbers = [array for group in self._groups for array in group.decoded(name)]
        return self._structure.build(numbers)

    def decoded_params(self) -> Any:
        """The parameters as floating-point numbers, with what `master_bits` keeps beside them.

        Returns
        -------
        array, or structure of arrays like `params`
            Copies in the dtype of the arithmetic: float32, or float64 for parameters of float64.

        Examples
        --------
        >>> import numpy as np, fastopt
        >>> w = np.ones(2, np.float16)
        >>> opt = fastopt.SGD(w, lr=1e-4, master_bits=32)
        >>> opt.step(np.ones(2, np.float16))
        >>> w, opt.decoded_params()
        (array([1., 1.], dtype=float16), array([0.9999, 0.9999], dtype=float32))
        """
        self._steps.catch_up()
        self._steps.settle()
        params = [group.decoded_param(i) for group in self._groups for i in range(len(group.leaves))]
        return self._structure.build(params)

    def set_params(self, params: Any) -> None:
        """Give the parameters other values, with what `master_bits` keeps beside them.

        Writing into the arrays is as good without `master_bits`. With it the corrections, which nobody
        sees, would stay those of the old values: by half a unit of the 16-bit number at most they would
        make others of the new ones. States stay as they are; but while no step was taken, those that
        start from the parameters, such as an average of them, start from the new ones.

        Parameters
        ----------
        params : array, or structure of arrays like `params`
            Shaped alike, of float16, bfloat16, float32 or float64: rounded to float32 first where the
            parameters are narrower than float64.

        Raises
        ------
        TypeError, ValueError
            An array is not acceptable. Nothing was changed.
        """
        self._steps.catch_up()
        self._steps.settle()
        values = []
        names = self._structure.names("params")
        matched = self._structure.match(params, "params")
        for name, leaf, array in zip(names, self._leaves, matched, strict=True):
            entered = placement.enter(name, array)
            checks.check_readable(name, entered)
            checks.check_shape(name, entered, leaf)
            checks.check_is_written(name, leaf)
            values.append(_apart(placement.to_host(entered), self._steps.setup.guarded))
        for row in range(len(self._leaves)):
            self._steps.parameters.check_headers(row)
        remaining = iter(values)
        for group in self._groups:
            for index in range(len(group.leaves)):
                group.set_param(index, next(remaining))
                if self._steps.count == 0:
                    group.restart(index)


def _apart(values: checks.Array, guarded: checks.Guarded) -> checks.Array:
    """The values, copied if one of the arrays that are written to is among them."""
    start, stop, _ = checks.memory_range("", values)
    return values.copy() if guarded.meets(start, stop) else values
