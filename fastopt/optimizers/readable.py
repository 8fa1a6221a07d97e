"""What can be read of an optimizer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from fastopt.arrays import checks
from fastopt.arrays.checks import Array
from fastopt.optimizers.checkpoint import Checkpoint


class Readable(Checkpoint):
    """The part of an optimizer that is read: states and parameters after what is behind caught up."""

    __slots__ = ()

    _leaves: list[Array]

    def _state_names(self) -> list[str]:
        return list(dict.fromkeys(name for group in self._groups for name in group.states))

    def _stored(self, name: str) -> Iterator[Array | None]:
        """One state for each of all parameters, None where a chain does not have it."""
        for group in self._groups:
            yield from group.states.get(name, [None] * len(group.leaves))

    def _shown(self, name: str) -> Any:
        """The same in the form of `params`, with the arrays as the user knows them."""
        found = [array for group in self._groups for array in group.shown(name)]
        return self._structure.build_read_only(found)

    @property
    def executor(self) -> str:
        """As chosen when the optimizer was made."""
        return self._executor

    @property
    def skip_nonfinite(self) -> bool:
        """As chosen when the optimizer was made."""
        return self._watch.skip_nonfinite

    @property
    def zero_grad(self) -> bool:
        """As chosen when the optimizer was made."""
        return self._zero_grad

    @property
    def sparse(self) -> str | None:
        """As chosen when the optimizer was made."""
        return self._sparse

    @property
    def params(self) -> Any:
        """The arrays being optimised: those that were given, in containers that cannot be changed."""
        if self._steps.params_behind:
            self._steps.catch_up()
        return self._params

    @property
    def state(self) -> Mapping[str, Any]:
        """The state arrays by name, live: to read and to write to, but not to replace."""
        self.catch_up()
        return MappingProxyType(self._state)

    def decoded(self, name: str) -> Any:
        """A state as numbers to compute with, whatever it is stored in.

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
        numbers = [own for group in self._groups for own in group.decoded(name)]
        return self._structure.build(numbers)

    def catch_up(self, rows: Any = None) -> None:
        """Bring rows up to date that had no gradient lately, where ``sparse="exact"`` left them behind.

        Reading `state` does so by itself. It is needed before parameters are read, copied or saved that
        move without a gradient (with momentum or weight decay); other parameters never are behind.

        Parameters
        ----------
        rows : array of int, or structure of them like `params`, optional
            Only these rows, in time proportional to their number: those that the next gradient is
            taken at. None in a structure stands for no rows. By default all.

        Examples
        --------
        >>> import numpy as np, fastopt
        >>> w = np.ones((1000, 2))
        >>> opt = fastopt.SGD(w, lr=0.5, momentum=0.5, sparse="exact")
        >>> opt.step((np.array([3]), np.array([[1.0, 1.0]])))
        >>> opt.step((np.array([7]), np.array([[1.0, 1.0]])))
        >>> opt.catch_up(np.array([3, 4]))
        >>> w[3]
        array([0.25, 0.25])
        """
        if rows is None:
            self._steps.catch_up()
            return
        wanted = {}
        names, found = self._structure.names("rows"), self._structure.match(rows, "rows")
        for index, (name, own) in enumerate(zip(names, found, strict=True)):
            if own is not None:
                wanted[index] = np.unique(checks.check_rows(name, own, self._leaves[index]))
        self._steps.catch_up(wanted)
