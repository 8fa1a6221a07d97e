"""What is looked at before each step of many parameters, quickly."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import numpy as np
from torch import Tensor

from fastopt.arrays.checks import Array, address
from fastopt.interop.torch.parameters import Row
from fastopt.interop.torch.tensor_check import Expected, interface, read_counts
from fastopt.interop.torch.tensors import REAL
from fastopt.steps.memory_stepper import MemoryStepper


class Snapshot:
    """Parameters, states and gradients as machine code sees them.

    Parameters
    ----------
    rows : sequence of Row
    steps : MemoryStepper
        What steps them.
    """

    def __init__(self, rows: Sequence[Row], steps: MemoryStepper) -> None:
        self._params = [row.param for row in rows]
        sets: dict[tuple[str, ...], list[Any]] = {}
        for row in rows:
            sets.setdefault(row.tracked, []).append(row.state)
        self._sets = [(list(map(itemgetter, names)), own) for names, own in sets.items()]
        self._tensors = Expected(self._found())
        likes = [row.param if row.shadow is None else row.shadow for row in rows]
        self._grads = Expected(likes)
        # Signs that are yet to be applied are not seen by DLPack, and to ask each tensor takes 90 ns.
        # Such a tensor is the imaginary part of complex numbers, in every other place: what has an odd
        # stride is none.
        self._even = [i for i, own in enumerate(likes) if not any(s % 2 for s in own.stride())]
        self._table, self._ranges = steps.rows, steps.ranges
        takes: Any = steps.gradients
        takes.noted = np.zeros(len(rows), np.int64)
        self._takes = takes
        counts = [row.count for row in rows if row.count is not None]
        places = [(address(own), own.itemsize) for own in counts]
        self._places = np.array(places, np.int64).reshape(-1, 2)

    @classmethod
    def of(cls, rows: Sequence[Row], steps: Any) -> Snapshot | None:
        """None where it cannot be looked at like this."""
        simple = isinstance(steps, MemoryStepper) and all(row.param.dtype in REAL for row in rows)
        if not simple or not rows or interface() is None:
            return None
        made = cls(rows, steps)
        return made if made.is_same() else None

    def _found(self) -> list[Tensor]:
        """All tensors that are worked on, as they are in torch's state now."""
        found: list[Tensor] = [*self._params]
        for names, own in self._sets:
            for get in names:  # name by name: 60 ns for the three of Adam, and 100 row by row
                found.extend(map(get, own))
        return found

    def is_same(self) -> bool:
        """Whether all of them are the very tensors that there were, with the same memory."""
        try:
            return self._tensors.are(self._found())
        except KeyError:
            return False

    def note(self, grads: list[Any]) -> bool:
        """Write the addresses of the gradients into the table; False if one needs another look."""
        given = self._grads.note(grads, self._table, self._ranges, self._takes.noted)
        asked = (grad for i in self._even if (grad := grads[i]) is not None)
        self._takes.is_noted = given >= 0 and not any(map(Tensor.is_neg, asked))
        return bool(self._takes.is_noted)

    @property
    def given(self) -> Array | None:
        """Which rows have a gradient, if those of the coming step are noted."""
        return self._takes.noted == 0 if self._takes.is_noted else None

    def counts(self) -> Array:
        """How many steps torch has counted for each parameter."""
        found = np.empty(len(self._places), np.int64)
        read_counts()(self._places, found)
        return found
