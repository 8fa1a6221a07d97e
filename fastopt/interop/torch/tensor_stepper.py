"""fastopt's optimizer over tensors: what a plan launches."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import chain, compress
from typing import Any

import numpy as np

from fastopt.arrays.checks import Array, address
from fastopt.changes import Change, make, put
from fastopt.executors.cpu.columns import STEPS
from fastopt.interop.torch.parameters import Section
from fastopt.interop.torch.tensor_check import note_steps
from fastopt.optimizers.optimizer import Optimizer
from fastopt.steps.gradients import Gradients
from fastopt.steps.memory_stepper import MemoryStepper
from fastopt.steps.sparse.entries import RowGradient


class ListedGradients(Gradients):
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


class TensorStepper(Optimizer):
    """fastopt's optimizer over the arrays of rows on one device, with the states that they have.

    Parameters
    ----------
    sections : sequence of Section
    **options
        As of `Optimizer`.
    """

    _takes = ListedGradients

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

        elif steps.compiled:
            steps.launch = steps.launch_also
        self._rows = [row for section in sections for row in section.rows]
        numbers = [(row.count, row.product) for row in self._rows]
        # For machine code: where torch's numbers are, and what becomes of them.
        self._places = np.array([[*_place(c), *_place(p)] for c, p in numbers], np.int64).reshape(-1, 4)
        self._before = np.zeros(len(self._rows), np.int64)
        self._given = np.zeros(len(self._rows), np.bool_)
        self._products = np.zeros(len(self._rows))

    @property
    def taken(self) -> Array:
        """How many steps each array has taken."""
        steps: Any = self._steps
        if isinstance(steps, MemoryStepper):
            return np.array(steps.table.counts[:, STEPS])
        return np.array([steps.count - lag for lag in steps.lags], np.int64)

    def continue_from(self, steps: Array) -> None:
        """Go on as if each array had taken so many steps."""
        if not np.array_equal(self.taken, steps):
            count = int(steps.max())
            self._steps.continue_at(count, (count - steps).tolist())

    def step_and_note(self, found: list[Any], steps: Array, given: Array, grad_scale: float) -> None:
        """Step, and let torch's numbers and the parameters with gaps follow; all or nothing in memory.

        `steps` is how many steps there were before, and `given` which arrays have a gradient.
        """
        own: Any = self._steps
        self._before[:], self._given[:] = steps, given
        numbers = iter(steps.tolist())
        self._products[:] = [p for section in self._sections for p in section.products_after(numbers)]
        also = self._noted()
        also += [partial(row.param.copy_, row.shadow) for row in self._rows if row.shadow is not None]
        in_memory = isinstance(own, MemoryStepper)
        if in_memory:
            own.also = also
        self.step(found, grad_scale=grad_scale)
        if not in_memory:
            make(also)

    def _noted(self) -> list[Change]:
        """What lets torch's numbers follow."""
        own: Any = self._steps
        if isinstance(own, MemoryStepper) and own.compiled:
            numbers = self._before, self._given, self._places, self._products
            return [partial(note_steps(), own.table.counts, *numbers)]
        changes = []
        for row, step, product in compress(
            zip(self._rows, self._before, self._products, strict=True), self._given
        ):
            changes += [put(row.count, step + 1)] if row.count is not None else []
            changes += [put(row.product, product)] if row.product is not None else []
        return changes


def _place(number: Array | None) -> tuple[int, int]:
    """Where a number is, and how many bytes it has."""
    return (0, 0) if number is None else (address(number), number.itemsize)
