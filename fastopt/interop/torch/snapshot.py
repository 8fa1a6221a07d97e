"""The fast check before each step that parameters and states are the same tensors as before."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import numpy as np
from torch import Tensor

from fastopt.arrays.checks import Array, address
from fastopt.executors.exchange import Expected, can_be_negated, interface
from fastopt.interop.torch.parameters import Row
from fastopt.interop.torch.tensor_check import note, read_counts
from fastopt.interop.torch.tensors import format_of


class Snapshot:
    """Parameters, states and gradients, checked and noted in machine code.

    Parameters
    ----------
    rows : sequence of Row
    steps : MemoryStepper or CudaStepper
        The stepper of these rows, with a table that gradients can be noted in.
    exchange : array
        torch's `interface`.

    Attributes
    ----------
    are_all_given : bool
        Whether all rows have a gradient, of those that were noted last.
    """

    are_all_given = False

    def __init__(self, rows: Sequence[Row], steps: Any, exchange: Array) -> None:
        self._params = [row.param for row in rows]
        sets: dict[tuple[str, ...], list[Any]] = {}
        for row in rows:
            sets.setdefault(row.tracked, []).append(row.state)
        self._sets = [(list(map(itemgetter, names)), states) for names, states in sets.items()]
        self._known = self._current()  # kept alive: they are known by identity
        self._tensors = Expected(self._known, exchange)
        likes = [(row.param if row.shadow is None else row.shadow).detach() for row in rows]
        self._grads = Expected(likes, exchange)
        # Asking each tensor for lazy negation takes 90 ns.
        self._even = [i for i, like in enumerate(likes) if can_be_negated(like.stride())]
        self._table, self._ranges = steps.rows, steps.ranges
        gradients = steps.gradients
        gradients.noted = np.zeros(len(rows), np.int64)
        self._all = np.ones(len(rows), np.bool_)
        self._gradients = gradients
        counts = [row.count for row in rows if row.count is not None]
        counts_at = [(address(count), count.itemsize) for count in counts]
        self._counts_at = np.array(counts_at, np.int64).reshape(-1, 2)

    @classmethod
    def of(cls, rows: Sequence[Row], steps: Any) -> Snapshot | None:
        """The snapshot of rows, or None if they cannot be checked in machine code."""
        real = all(format_of(row.param.dtype) and not row.capturable for row in rows)
        exchange = interface(type(rows[0].param)) if rows else None
        if not real or exchange is None or not steps.by_table:
            return None
        try:
            snapshot = cls(rows, steps, exchange)
        except (RuntimeError, BufferError):  # of torch: it cannot describe one of them
            return None
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
        noted = note(self._grads, grads, self._table, self._ranges, self._gradients.noted)
        negatives = (grad for i in self._even if (grad := grads[i]) is not None)
        self._gradients.is_noted = noted >= 0 and not any(map(Tensor.is_neg, negatives))
        self.are_all_given = noted == len(grads)
        return bool(self._gradients.is_noted)

    @property
    def has_gradient(self) -> Array | None:
        """Which rows have a gradient, if those of the coming step are noted."""
        if not self._gradients.is_noted:
            return None
        return self._all if self.are_all_given else self._gradients.noted == 0

    def counts(self) -> Array:
        """torch's step count of each parameter."""
        counts = np.empty(len(self._counts_at), np.int64)
        read_counts()(self._counts_at, counts)
        return counts
