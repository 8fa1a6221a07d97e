"""fastopt's optimizer over tensors: what a plan launches."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from fastopt.changes import Change
from fastopt.interop.torch.rows import Section
from fastopt.layouts.arrays import Array, address
from fastopt.optimizers.gradients import Gradients
from fastopt.optimizers.optimizer import Optimizer
from fastopt.optimizers.row_gradients import RowGradient


class Arrays(Gradients):
    """Gradients that come as a list of arrays in the order of the table.

    Attributes
    ----------
    noted : array of int64
        What the gate is given in the place of gradients whose addresses are in the table already.
    is_noted : bool
        Whether those of the coming step are: then they are tensors.
    """

    noted: Array
    is_noted = False

    def enter(self, grads: Any) -> tuple[list[Any], int]:
        """The list, and what the gate looks at."""
        if self.is_noted:
            self.is_noted = False
            return grads, address(self.noted)
        return super().enter(grads)

    def find(self, grads: Any) -> list[Any]:
        """The list itself."""
        found: list[Any] = grads
        return found

    def check(
        self, found: list[Any]
    ) -> tuple[dict[int, RowGradient], dict[int, np.dtype[Any]], list[Change]]:
        """Copy what is in another order, or in memory that the step writes."""
        for i, grad in enumerate(found):
            if grad is not None and (not grad.flags.carray or self._shares(grad)):
                found[i] = grad.copy(order="C")
        return super().check(found)

    def _shares(self, grad: Array) -> bool:
        start = address(grad)
        stop = start + grad.nbytes
        return any(start < end and first < stop for first, end, _ in self._guarded)


class Launch(Optimizer):
    """fastopt's optimizer over the arrays of rows on one device, with the states that they have.

    Parameters
    ----------
    sections : sequence of Section
    **options
        As of `Optimizer`.
    """

    _takes = Arrays

    def __init__(self, sections: Sequence[Section], **options: Any) -> None:
        self._sections = sections
        names = dict.fromkeys(chain.from_iterable(row.states for s in sections for row in s.rows))
        state = {
            name: [
                [row.states[name] for row in section.rows] if name in section.rows[0].states else None
                for section in sections
            ]
            for name in names
        }
        arrays = [[row.array for row in section.rows] for section in sections]
        super().__init__(arrays, [section.chain for section in sections], state=state, **options)
        steps: Any = self._steps
        if sections[0].device.type == "cuda":
            steps.device.take_in_order()

    def continue_from(self, steps: Sequence[int]) -> None:
        """Go on as if each array had taken so many steps."""
        own, count = self._steps, max(steps)
        if (lags := [count - step for step in steps]) != own.lags or count != own.count:
            own.continue_at(count, lags)
