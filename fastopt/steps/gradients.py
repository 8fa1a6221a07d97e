"""The gradients of a step: found in what the caller gave, checked, and noted in the table."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastopt.arrays import checks
from fastopt.arrays.tree import Structure
from fastopt.changes import Change, put
from fastopt.codecs.formats import name_of
from fastopt.executors.cpu.columns import COUNT, GRAD, ITEMSIZE
from fastopt.executors.cpu.header_check import items_of
from fastopt.executors.cpu.table import Table
from fastopt.steps.parameter_set import ParameterSet
from fastopt.steps.sparse.entries import RowGradient, is_sparse, take


class Gradients:
    """How an optimizer takes its gradients.

    Attributes
    ----------
    known : int
        What to pass to the gate in the place of `items` when the addresses of the gradients are in
        the table already.
    """

    def __init__(
        self,
        structure: Structure,
        work: ParameterSet,
        table: Table,
        guarded: Any,
        zero_grad: bool,
        sparse: str | None,
    ) -> None:
        self._sparse = sparse
        self._structure, self._work = structure, work
        self._leaves = leaves = work.leaves
        self._table, self._rows = table, table.rows
        self._guarded = guarded
        self._zero_grad = zero_grad
        self._single, self._flat = structure.is_leaf, structure.is_flat_list
        one = np.zeros(1, np.int64)
        # Written to in 33 ns; through the array it takes 51.
        self._one, self._one_at = one.data, checks.address(one)
        self._zeros = np.zeros(max(len(leaves), 1), np.int64)
        self.known = checks.address(self._zeros)

    def find(self, grads: Any) -> list[Any]:
        """The gradients in the order of the table.

        A list of our own: a mapping may make its arrays when it is asked, and another thread may put
        others into the caller's list, but these must outlive the step.
        """
        if self._single:
            return [grads]
        if self._flat and type(grads) is list:
            found = grads.copy()
            if len(found) == len(self._leaves):  # of the copy: that list stays as it is
                return found
        return self._structure.match(grads, "grads")

    def enter(self, grads: Any) -> tuple[list[Any], int]:
        """The same, and where the gate finds the addresses of the gradient objects."""
        if self._single:  # a third of a microsecond less than to look into the list
            self._one[0] = id(grads)
            return [grads], self._one_at
        found = self.find(grads)
        return found, items_of(found)

    def check(
        self, found: list[Any]
    ) -> tuple[dict[int, RowGradient], dict[int, np.dtype[Any]], list[Change]]:
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
        for row, grad in enumerate(found):
            if grad is not None:
                self._work.check_headers(row)
        sparse = self._take_sparse(names, found)
        if sparse:
            found = [grad if i not in sparse else None for i, grad in enumerate(found)]
        for name, grad, param in zip(names, found, self._leaves, strict=True):
            if grad is None and (sparse or not self._single):
                continue
            checks.check_gradient(name, grad, param)
            checks.check_apart(name, grad, self._guarded)
            if self._zero_grad:
                checks.check_writeable(name, grad)
        given = [grad is not None for grad in found]
        if self._zero_grad:
            pairs = [(n, g) for n, g in zip(names, found, strict=True) if g is not None]
            pairs += [(names[i], own) for i, grad in sparse.items() for own in grad.memory()]
            checks.check_distinct(checks.memory_range(n, g) for n, g in pairs)
        formats = {row: grad.dtype for row, grad in enumerate(found) if grad is not None}
        formats |= {row: grad.values.dtype for row, grad in sparse.items()}
        before = self._table.dtypes
        changed = {
            row: dtype for row, dtype in formats.items() if name_of(dtype) != name_of(before[row])
        }
        addresses = [checks.address(g) if g is not None else 0 for g in found]
        counts = [p.size * g for p, g in zip(self._leaves, given, strict=True)]
        noted = [
            put(self._rows, np.array(numbers, np.int64), np.s_[:, column])
            for column, numbers in ((GRAD, addresses), (COUNT, counts))
        ]
        return sparse, changed, noted

    def _take_sparse(self, names: list[str], found: list[Any]) -> dict[int, RowGradient]:
        """The sparse ones among the gradients, checked."""
        taken = {}
        for index, (name, grad) in enumerate(zip(names, found, strict=True)):
            if not is_sparse(grad):
                continue
            if self._sparse is None:
                raise TypeError(
                    f"{name} must be a NumPy array, not {type(grad).__name__}: to take sparse "
                    "gradients, make the optimizer with sparse='exact' or sparse='lazy'"
                )
            gradient = take(name, grad, self._leaves[index], self._zero_grad)
            for own in gradient.memory():
                checks.check_apart(f"values of {name}", own, self._guarded)
                if self._zero_grad:
                    checks.check_is_written(f"values of {name}", own)
            taken[index] = gradient
        return taken

    def share_memory(self) -> bool:
        """Whether any two of the gradients in the table overlap."""
        used = self._rows[self._rows[:, COUNT] > 0]
        starts = np.sort(used[:, GRAD])
        stops = np.sort(used[:, GRAD] + used[:, COUNT] * used[:, ITEMSIZE])
        return bool((stops[:-1] > starts[1:]).any())
