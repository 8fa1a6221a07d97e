"""Steps with sparse gradients, and what can be read of an optimizer that takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from fastopt.executors.idle import idle_forms
from fastopt.layouts import arrays, tree
from fastopt.layouts.arrays import Array
from fastopt.layouts.columns import KERNEL
from fastopt.optimizers.checkpoint import Checkpoint
from fastopt.optimizers.group import Group
from fastopt.optimizers.hyperparameters import Hyperparameters
from fastopt.optimizers.row_gradients import RowGradient, is_sparse
from fastopt.optimizers.rows import Rows, split_numbers

MODES = ("exact", "lazy")


def check_mode(sparse: Any) -> str | None:
    """None or one of the names in `MODES`."""
    accepted = "'exact', 'lazy' or None"
    if sparse is not None and not isinstance(sparse, str):
        raise TypeError(f"sparse must be {accepted}, not {sparse!r}")
    if sparse is not None and sparse not in MODES:
        raise ValueError(f"sparse must be {accepted}, got {sparse!r}")
    return sparse


class RowSteps:
    """The parameters that got sparse gradients.

    Attributes
    ----------
    mode : str or None
    behind : bool
        Whether any rows have to catch up.
    """

    def __init__(
        self,
        mode: str | None,
        groups: Sequence[Group],
        hyper: Hyperparameters,
        table: Array,
        executor: str,
        compiled: bool,
    ) -> None:
        self.mode, self.behind = mode, False
        self._hyper, self._table = hyper, table
        self._how = mode == "exact", executor, compiled
        self._members = [
            (group, param, own)
            for group in groups
            for param, own in zip(group.leaves, group.slots(), strict=True)
        ]
        self._known: dict[int, Rows] = {}
        if mode == "exact":
            self._check_closed_forms()

    def _check_closed_forms(self) -> None:
        """See that there is a parameter whose chain has one."""
        refusal = None
        for index, (group, param, _) in enumerate(self._members):
            try:
                idle_forms(group.chain, split_numbers(group, self._hyper.of(index)), param.dtype)
            except ValueError as error:
                refusal = error
            else:
                return
        if refusal is not None:
            raise refusal

    def look_ahead(self, gradients: Mapping[int, RowGradient]) -> None:
        """Get ready for these gradients, or raise before anything is written."""
        for index in gradients:
            if index not in self._known:
                group, param, slots = self._members[index]
                self._known[index] = Rows(group, param, slots, self._hyper.of(index), *self._how)
            self._known[index].look_ahead(self._hyper.of(index))

    def step(self, gradients: Mapping[int, RowGradient], clears: bool) -> None:
        """Step the rows that have a gradient."""
        for index, gradient in gradients.items():
            code = int(self._table[index, KERNEL])
            self._known[index].step(gradient, code, self._hyper.of(index))
            for array in gradient.given if clears else ():
                array[...] = 0
        self.behind = any(rows.now for rows in self._known.values())

    def catch_up(self, found: Sequence[Any] | None = None) -> None:
        """Bring all rows up to date: of all parameters, or of those with dense ones among gradients."""
        for index, rows in self._known.items():
            if found is None or not (found[index] is None or is_sparse(found[index])):
                rows.catch_up()
        self.behind = any(rows.now for rows in self._known.values())

    def catch_up_rows(self, wanted: Mapping[int, Array]) -> None:
        """Bring some rows of some parameters up to date."""
        for index, some in wanted.items():
            if index in self._known:
                self._known[index].catch_up(some)

    @property
    def params_behind(self) -> bool:
        """Whether parameters, too, are not what they are with dense gradients."""
        return any(rows.now and rows.moves for rows in self._known.values())


class SparseGradients(Checkpoint):
    """The part of an optimizer that is read, after what is behind has caught up."""

    __slots__ = ("_row_steps",)

    _row_steps: RowSteps
    _leaves: list[Array]

    def _state_names(self) -> list[str]:
        return list(dict.fromkeys(name for group in self._groups for name in group.states))

    def _structure_of(self, name: str) -> Any:
        """One state of all groups, in the form of `params`; None where a chain does not have it."""
        own: list[Array | None] = []
        for group in self._groups:
            own += group.states.get(name, [None] * len(group.leaves))
        return tree.rebuild(self._params, iter(own))

    @property
    def sparse(self) -> str | None:
        """As chosen when the optimizer was made."""
        return self._row_steps.mode

    @property
    def params(self) -> Any:
        """The arrays being optimised, as they were given."""
        if self._row_steps.params_behind:
            self._row_steps.catch_up()
        return self._params

    @property
    def state(self) -> Mapping[str, Any]:
        """The state arrays by name, live: to read and to write to, but not to replace."""
        self.catch_up()
        return MappingProxyType(self._state)

    def catch_up(self, rows: Any = None) -> None:
        """Bring rows up to date that had no gradient lately, where ``sparse="exact"`` left them behind.

        Reading `state` or saving does so by itself. It is needed before parameters are read that
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
            if self._row_steps.behind:
                self._row_steps.catch_up()
            return
        wanted = {}
        paths = [path for path, _ in tree.leaves(self._params)]
        found = tree.leaves_like(self._params, rows, "rows")
        for index, (path, own) in enumerate(zip(paths, found, strict=True)):
            if own is not None:
                name = tree.describe("rows", path)
                wanted[index] = np.unique(arrays.check_rows(name, own, self._leaves[index]))
        self._row_steps.catch_up_rows(wanted)
