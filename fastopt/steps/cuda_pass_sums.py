"""What is added up while a step is taken on a CUDA device."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from fastopt.arrays.checks import Array
from fastopt.changes import Change, make
from fastopt.executors.cuda import device
from fastopt.executors.cuda.pass_launches import StepTotals
from fastopt.executors.cuda.warp_sums import piece_of
from fastopt.executors.launching import UNDER_WAY
from fastopt.executors.norm import LOCAL, Reducer
from fastopt.steps.parameter_set import ParameterSet
from fastopt.steps.pass_sums import PassSums
from fastopt.steps.stats import Stats
from fastopt.steps.stepper import Setup


class DevicePassSums(PassSums):
    """The sums of a step on a device, in whose memory they stay.

    Parameters
    ----------
    parameters : ParameterSet
    setup : Setup
    ordinal : int
        The number of the device.
    control : int
        The address of what was decided about the step, 0 where nothing is.

    Attributes
    ----------
    device : StepTotals
        The memory, and the launches behind those of a step.
    """

    def __init__(self, parameters: ParameterSet, setup: Setup, ordinal: int, control: int) -> None:
        counts = [parameters.groups[group].terms for group in parameters.group_of]
        super().__init__(parameters.sizes, counts)
        jobs = (
            parameters.job(row, name, False) for row, name in enumerate(parameters.gradient_formats)
        )
        pieces = [piece_of(job) for job in jobs]
        self._ordinal, self._setup = ordinal, setup
        # A graph that captured a step would copy to the same memory at each replay.
        self._copies = bool(setup.statistics.names) and not setup.capturable
        self._scales: list[tuple[int, list[int], list[tuple[int, float]], float]] = []
        self.note(0, [0] * len(counts), 1.0)
        self.device = StepTotals(parameters.sizes, counts, pieces, control)

    def totals(self) -> Array:
        """As of `PassSums`; synchronizes."""
        with device.on(self._ordinal):
            return self.device.read()[1]

    def note(self, count: int, lags: Sequence[int], grad_scale: float) -> None:
        """Note what the scales of gradients are from a step count on, as they or lags have changed."""
        if not self._copies:  # all steps before are known whenever something is read
            self._scales.clear()
        elif len(self._scales) >= UNDER_WAY * 4:
            arrived = self.device.newest()
            known = 0 if arrived is None else arrived[0]
            old = [i for i, entry in enumerate(self._scales) if entry[0] <= known]
            del self._scales[: max(old, default=0)]
        self._scales.append((count, list(lags), self.scales, grad_scale))

    def factors(self, count: int) -> list[float]:
        """What the gradient of each array was multiplied by in its last one of so many steps."""
        since = [entry for entry in self._scales if entry[0] <= count] or self._scales
        _, lags, known, scale = since[-1]
        counts = [count - lag for lag in lags]
        return [
            1.0 / (last if steps == count else scale)
            for (steps, last), count in zip(known, counts, strict=True)
        ]

    def finish(self, stream: int, reducer: Reducer, *, in_parts: bool) -> None:
        """Add up the terms of a step in parts, also over processes, and have its statistics copied."""
        with device.on(self._ordinal):
            if in_parts:
                self.device.start(stream)
            make(self.reduced(reducer))
            if self._copies and reducer is LOCAL:
                self.device.send(stream)

    def statistics(self, parameters: ParameterSet, *, wait: bool) -> Stats | None:
        """Those of the last step, or of the newest that has arrived; None where there are none."""
        if not self._setup.statistics.names:
            return None
        with device.on(self._ordinal):
            latest = self.device.newest() if self._copies and not wait else self.device.read()
        if latest is None or latest[0] == self.since:
            return None
        count, totals = latest
        where = parameters.group_of, parameters.sizes, self.factors(count)
        return self._setup.statistics.read(totals, *where, self._setup.structure.build, count)

    def count_from(self, count: int) -> None:
        """Let so many steps have been taken, after which `note` comes; synchronizes."""
        self._scales.clear()
        with device.on(self._ordinal):
            self.device.count_from(count)

    def placed(self, totals: Sequence[Sequence[float]]) -> list[Change]:
        """As of `PassSums`; synchronizes."""
        values = np.zeros(self.device.shape)
        for row, numbers in enumerate(totals):
            values[: len(numbers), row] = numbers
        return [partial(self._put_in_place, values)]

    def _put_in_place(self, values: Array) -> None:
        with device.on(self._ordinal):
            self.device.replace(values)
