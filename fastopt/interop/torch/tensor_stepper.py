"""The stepper of tensors on one device, which a plan launches."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import chain, compress, islice
from typing import Any

import numpy as np

from fastopt.arrays.checks import Array, address
from fastopt.changes import Change, put
from fastopt.executors.cpu.columns import STEPS
from fastopt.interop.torch.carried import Carried
from fastopt.interop.torch.param_groups import asgd_ahead
from fastopt.interop.torch.parameters import Section
from fastopt.interop.torch.tensor_check import note_steps
from fastopt.steps.build import build
from fastopt.steps.clipping import NormClip
from fastopt.steps.stepper import Stepper


class TensorStepper:
    """Steps the rows on one device, with their states.

    Parameters
    ----------
    sections : sequence of Section
        All or none of them for graphs.
    **options
        As of `steps.build.build`.

    Attributes
    ----------
    stepper : MemoryStepper or CudaStepper
    clip : NormClip
    carried : Carried or None
        Where anything is summed.
    """

    stepper: Any
    clip: NormClip

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
        chains = [section.chain for section in sections]
        if sections[0].capturable:
            from fastopt.interop.torch.graphs import GraphHyperparameters

            options |= {"capturable": True, "hyperparameters": partial(GraphHyperparameters, sections)}
        self._rows = [row for section in sections for row in section.rows]
        indices = [row.first for row in self._rows if row.first is not None]
        built = build(arrays, chains, state=state, listed=True, indices=indices or None, **options)
        self.stepper, self.clip = built.stepper, built.clip
        self.carried = Carried(self.stepper, sections) if _has_sums(self.stepper) else None
        # What torch computes a step ahead: NAdam's product, or ASGD's rate and share.
        self._scalars = [
            (row.count, row.product if row.rate is None else row.rate, row.share) for row in self._rows
        ]
        # For machine code: the addresses of torch's counts and of these, and their new values.
        self._locations = np.array(
            [[word for number in numbers for word in _location(number)] for numbers in self._scalars],
            np.int64,
        ).reshape(-1, 6)
        self._has_gradient = np.zeros(len(self._rows), np.bool_)
        self._ahead = np.zeros((len(self._rows), 2))
        self._copies_back = [
            partial(row.part.copy_, row.shadow) for row in self._rows if row.shadow is not None
        ]
        self._has_products = any(row.product is not None for row in self._rows)
        self._has_rates = any(row.rate is not None for row in self._rows)
        self._note: Change | None = None
        if self.stepper.by_table and not self.stepper.hyper.is_on_device:
            noted = self.stepper.table.counts, self._has_gradient, self._locations, self._ahead
            self._note = partial(note_steps(), *noted)

    @property
    def taken(self) -> Array:
        """The step count of each array."""
        return np.array(self.stepper.table.counts[:, STEPS])

    def continue_from(self, steps: Array) -> None:
        """Set the step count of each array, unless the device counts them."""
        if self.stepper.hyper.is_on_device:
            return
        if (self.stepper.table.counts[:, STEPS] != steps).any():
            count = int(steps.max())
            self.stepper.continue_at(count, (count - steps).tolist())
            if (sums := self.stepper.pass_sums) is not None:
                sums.since = count

    def step(self, grads: list[object], has_gradient: Array, grad_scale: float) -> None:
        """Step, then update torch's counts and parameters with gaps; atomically in memory.

        `has_gradient` says which arrays have a gradient.
        """
        if self._has_products:
            counts = iter(self.taken.tolist())
            self._ahead[:, 0] = [p for s in self._sections for p in s.products_after(counts)]
        if self._has_rates:
            self._ahead[:] = self._rates_after()
        self._has_gradient[:] = has_gradient
        self.stepper.step_also(grads, grad_scale, [*self._noted(), *self._copies_back])

    def _rates_after(self) -> list[tuple[float, float]]:
        """ASGD's rate and share of the step after the coming one, for each row."""
        counts = iter(self.taken.tolist())
        return [
            asgd_ahead(section.group, count + 1)
            for section in self._sections
            for count in islice(counts, len(section.rows))
        ]

    def _noted(self) -> Sequence[Change]:
        """The changes that update torch's counts, and what it computes ahead, if there is a step."""
        if self._note is not None:
            return [self._note]
        return [
            put(scalar, number)
            for scalars, numbers in compress(
                zip(self._scalars, np.column_stack([self.taken + 1, self._ahead]), strict=True),
                self._has_gradient,
            )
            for scalar, number in zip(scalars, numbers, strict=True)
            if scalar is not None
        ]


def _has_sums(stepper: Stepper) -> bool:
    return bool(stepper.decisions.passes) or stepper.pass_sums is not None


def _location(number: Array | None) -> tuple[int, int]:
    """The address and the size in bytes of a scalar tensor, zeros for None."""
    return (0, 0) if number is None else (address(number), number.itemsize)
