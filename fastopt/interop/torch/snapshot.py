"""The fast check before each step that parameters and states are the same tensors as before."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import numpy as np
from torch import Tensor

from fastopt.arrays.checks import Array, address
from fastopt.interop.torch.parameters import Row
from fastopt.interop.torch.tensor_check import Expected, interface, read_counts
from fastopt.interop.torch.tensors import format_of
from fastopt.steps.memory_stepper import MemoryStepper


class Snapshot:
    """Parameters, states and gradients, checked and noted in machine code.

    Parameters
    ----------
    rows : sequence of Row
    steps : MemoryStepper
        The stepper of these rows.
    """

    def __init__(self, rows: Sequence[Row], steps: MemoryStepper) -> None:
        self._params = [row.param for row in rows]
        sets: dict[tuple[str, ...], list[Any]] = {}
        for row in rows:
            sets.setdefault(row.tracked, []).append(row.state)
        self._sets = [(list(map(itemgetter, names)), states) for names, states in sets.items()]
        self._tensors = Expected(self._current())
        likes = [row.param if row.shadow is None else row.shadow for row in rows]
        self._grads = Expected(likes)
        # DLPack does not show lazy negation, and asking each tensor for it takes 90 ns. Such a tensor
        # is the imaginary part of a complex one, so all of its strides are even.
        self._even = [i for i, like in enumerate(likes) if not any(s % 2 for s in like.stride())]
        self._table, self._ranges = steps.rows, steps.ranges
        gradients: Any = steps.gradients
        gradients.noted = np.zeros(len(rows), np.int64)
        self._gradients = gradients
        counts = [row.count for row in rows if row.count is not None]
        counts_at = [(address(count), count.itemsize) for count in counts]
        self._counts_at = np.array(counts_at, np.int64).reshape(-1, 2)

    @classmethod
    def of(cls, rows: Sequence[Row], steps: Any) -> Snapshot | None:
        """The snapshot of rows, or None if they cannot be checked in machine code."""
        simple = isinstance(steps, MemoryStepper) and all(format_of(row.param.dtype) for row in rows)
        if not simple or not rows or interface() is None:
            return None
        snapshot = cls(rows, steps)
        return snapshot if snapshot.is_same() else None

    def _current(self) -> list[Tensor]:
        """All parameters and states, as they are in torch's state now."""
        tensors: list[Tensor] = [*self._params]
        for names, states in self._sets:
            for get in names:  # name by name: 60 ns for the three of Adam, and 100 row by row
                tensors.extend(map(get, states))
        return tensors

    def is_same(self) -> bool:
        """Whether all are the same tensors as at construction, with the same memory."""
        try:
            return self._tensors.are(self._current())
        except KeyError:
            return False

    def note(self, grads: list[Any]) -> bool:
        """Note the addresses of gradients in the table; False if one is to be checked in Python."""
        noted = self._grads.note(grads, self._table, self._ranges, self._gradients.noted)
        negatives = (grad for i in self._even if (grad := grads[i]) is not None)
        self._gradients.is_noted = noted >= 0 and not any(map(Tensor.is_neg, negatives))
        return bool(self._gradients.is_noted)

    @property
    def has_gradient(self) -> Array | None:
        """Which rows have a gradient, if those of the coming step are noted."""
        return self._gradients.noted == 0 if self._gradients.is_noted else None

    def counts(self) -> Array:
        """torch's step count of each parameter."""
        counts = np.empty(len(self._counts_at), np.int64)
        read_counts()(self._counts_at, counts)
        return counts
