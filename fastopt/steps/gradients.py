"""The gradients of a step: found in the caller's structure, checked, and noted in the table."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from fastopt.arrays import checks
from fastopt.arrays.checks import Array
from fastopt.arrays.device_array import AnyArray
from fastopt.arrays.object_layout import items_of
from fastopt.changes import Change, put
from fastopt.codecs.base import DType
from fastopt.codecs.formats import name_of
from fastopt.executors.cpu.columns import COUNT, GRAD, ITEMSIZE
from fastopt.executors.cpu.table import Table
from fastopt.steps.parameter_set import ParameterSet
from fastopt.steps.sparse.entries import RowGradient, is_sparse, take
from fastopt.steps.stepper import Setup


def check_gradients(
    setup: Setup,
    names: Sequence[str],
    grads: Sequence[Any],
    leaves: Sequence[AnyArray],
    also: Sequence[tuple[str, Array]] = (),
) -> None:
    """Check gradients, or raise.

    This is the rule; machine code lets through what surely keeps it. None leaves out one of several.
    `also` are further arrays that are cleared with them.
    """
    may_skip = not setup.structure.is_leaf or bool(also)
    cleared = list(also)
    for name, grad, param in zip(names, grads, leaves, strict=True):
        if grad is None and may_skip:
            continue
        checks.check_gradient(name, grad, param)
        setup.guarded.check_apart(name, grad)
        if setup.zero_grad:
            checks.check_is_written(name, grad)
        cleared.append((name, grad))
    if setup.zero_grad:
        checks.check_distinct(checks.memory_range(name, grad) for name, grad in cleared)


class Gradients:
    """Finds, checks and notes the gradients of an optimizer."""

    def __init__(self, parameters: ParameterSet, table: Table, setup: Setup) -> None:
        self._parameters, self._leaves = parameters, parameters.leaves
        self._structure, self._table, self._rows = setup.structure, table, table.rows
        self._setup, self._guarded, self._zero_grad = setup, setup.guarded, setup.zero_grad
        self._single = self._structure.is_leaf
        one = np.zeros(1, np.int64)
        # Written to in 33 ns; through the array it takes 51.
        self._one, self._one_at = one.data, checks.address(one)

    @cached_property
    def zero_items(self) -> int:
        """What the header check takes for `items` when the addresses of gradients are in the table."""
        self._zeros = np.zeros(max(len(self._leaves), 1), np.int64)  # kept alive
        return checks.address(self._zeros)

    def enter(self, grads: object) -> tuple[list[object], int]:
        """The gradients in the order of the table, and where the addresses of these objects are."""
        if self._single:  # a third of a microsecond less than to look into the list
            self._one[0] = id(grads)
            return [grads], self._one_at
        gradients = self._structure.find(grads, "grads")
        return gradients, items_of(gradients)

    def check(self, grads: list[Any]) -> tuple[dict[int, RowGradient], dict[int, DType], list[Change]]:
        """Check the gradients, which raises the errors.

        Returns
        -------
        dict
            Those that are sparse, by number: they have no place in the table.
        dict
            The dtypes of those in another format than before, which need other kernels.
        list
            What notes their addresses in the table.
        """
        names = self._structure.names("grads")
        for row, grad in enumerate(grads):
            if grad is not None:
                self._parameters.check_headers(row)
        sparse = self._take_sparse(names, grads)
        if sparse:
            grads = [grad if i not in sparse else None for i, grad in enumerate(grads)]
        also = [(names[i], array) for i, grad in sparse.items() for array in grad.memory()]
        check_gradients(self._setup, names, grads, self._leaves, also)
        has_gradient = [grad is not None for grad in grads]
        formats = {row: grad.dtype for row, grad in enumerate(grads) if grad is not None}
        formats |= {row: grad.values.dtype for row, grad in sparse.items()}
        dtypes = self._table.dtypes
        changed = {
            row: dtype for row, dtype in formats.items() if name_of(dtype) != name_of(dtypes[row])
        }
        addresses = [checks.address(g) if g is not None else 0 for g in grads]
        counts = [p.size * g for p, g in zip(self._leaves, has_gradient, strict=True)]
        noted = [
            put(self._rows, np.array(numbers, np.int64), np.s_[:, column])
            for column, numbers in ((GRAD, addresses), (COUNT, counts))
        ]
        return sparse, changed, noted

    def _take_sparse(self, names: list[str], grads: list[object]) -> dict[int, RowGradient]:
        """The sparse gradients, checked."""
        sparse = {}
        for index, (name, grad) in enumerate(zip(names, grads, strict=True)):
            if not is_sparse(grad):
                continue
            if self._setup.sparse is None:
                raise TypeError(
                    f"{name} must be a NumPy array, not {type(grad).__name__}: to take sparse "
                    "gradients, make the optimizer with sparse='exact' or sparse='lazy'"
                )
            gradient = take(name, grad, self._leaves[index], self._zero_grad)
            for array in gradient.memory():
                self._guarded.check_apart(f"values of {name}", array)
                if self._zero_grad:
                    checks.check_is_written(f"values of {name}", array)
            sparse[index] = gradient
        return sparse

    def share_memory(self) -> bool:
        """Whether any two of the gradients in the table overlap."""
        used = self._rows[self._rows[:, COUNT] > 0]
        starts = np.sort(used[:, GRAD])
        stops = np.sort(used[:, GRAD] + used[:, COUNT] * used[:, ITEMSIZE])
        return bool((stops[:-1] > starts[1:]).any())


class ListedGradients(Gradients):
    """Gradients that come as a list of arrays in the order of the table, for the package's own use.

    Attributes
    ----------
    noted : array of int64
        What the header check takes in the place of gradients whose addresses are in the table already.
    is_noted : bool
        Whether those of the coming step are: then they may be of any library.
    """

    noted: Array
    is_noted = False

    def enter(self, grads: Any) -> tuple[list[object], int]:
        """The list, and where the addresses of these objects are."""
        if self.is_noted:
            self.is_noted = False
            return grads, checks.address(self.noted)
        return grads, items_of(grads)

    def check(self, grads: list[Any]) -> tuple[dict[int, RowGradient], dict[int, DType], list[Change]]:
        """Copy what is in another order, or in memory that the step writes."""
        for i, grad in enumerate(grads):
            if grad is None:
                continue
            start, stop, _ = checks.memory_range("", grad)
            if not grad.flags.carray or self._guarded.meets(start, stop):
                grads[i] = grad.copy(order="C")
        return super().check(grads)
