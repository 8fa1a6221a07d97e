"""The gradients of a step: found in what the caller gave, checked, and noted in the table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastopt.executors import gate
from fastopt.layouts import arrays, tree
from fastopt.layouts.arrays import Array
from fastopt.layouts.columns import COUNT, GRAD, ITEMSIZE
from fastopt.layouts.table import Table


class Gradients:
    """How an optimizer takes its gradients.

    Attributes
    ----------
    ids : array
        Where `identify` notes the addresses of the gradient objects, for the gate.
    known : array
        Zeros, which tell the gate that the addresses of the gradients are in the table already.
    """

    def __init__(
        self, params: Any, leaves: Sequence[Array], table: Table, written: Any, zero_grad: bool
    ) -> None:
        self._params = params
        self._leaves = leaves
        self._rows = table.rows
        self._written = written
        self._zero_grad = zero_grad
        self._single = not tree.is_branch(params)
        branches = () if self._single else params
        self._flat = isinstance(params, (list, tuple)) and not any(map(tree.is_branch, branches))
        self.ids = np.zeros(len(leaves), np.int64)
        self.known = np.zeros(len(leaves), np.int64)

    def find(self, grads: Any) -> list[Any]:
        """The gradients in the order of the table.

        A list: a mapping may make its arrays when it is asked, and they must outlive the step.
        """
        if self._single:
            return [grads]
        if self._flat and type(grads) is list and len(grads) == len(self.ids):
            return grads
        return list(tree.leaves_like(self._params, grads, "grads"))

    def identify(self, found: list[Any]) -> Array:
        """Which objects the gradients are, for the gate to look at."""
        if self._single:
            self.ids[0] = id(found[0])
        else:
            gate.identify(found, self.ids)
        return self.ids

    def check(self, found: list[Any]) -> None:
        """Check the gradients, which raises the errors, and note their addresses in the table."""
        names = [tree.describe("grads", path) for path, _ in tree.leaves(self._params)]
        for name, grad, param in zip(names, found, self._leaves, strict=True):
            if grad is None and not self._single:
                continue
            arrays.check_gradient(name, grad, param)
            arrays.check_apart(name, grad, self._written)
            if self._zero_grad:
                arrays.check_writeable(name, grad)
        given = [grad is not None for grad in found]
        if self._zero_grad:
            pairs = zip(names, found, strict=True)
            arrays.check_distinct(arrays.memory_range(n, g) for n, g in pairs if g is not None)
        self._rows[:, GRAD] = [arrays.address(g) if g is not None else 0 for g in found]
        self._rows[:, COUNT] = [p.size * g for p, g in zip(self._leaves, given, strict=True)]

    def share_memory(self) -> bool:
        """Whether any two of the gradients in the table overlap."""
        used = self._rows[self._rows[:, COUNT] > 0]
        starts = np.sort(used[:, GRAD])
        stops = np.sort(used[:, GRAD] + used[:, COUNT] * used[:, ITEMSIZE])
        return bool((stops[:-1] > starts[1:]).any())
