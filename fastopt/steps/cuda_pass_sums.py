"""What is added up while a step is taken on a CUDA device."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from fastopt.arrays.checks import Array
from fastopt.changes import Change
from fastopt.executors.cuda import device
from fastopt.executors.cuda.pass_launches import StepTotals
from fastopt.executors.cuda.warp_sums import piece_of
from fastopt.steps.parameter_set import ParameterSet
from fastopt.steps.pass_sums import PassSums


class DevicePassSums(PassSums):
    """The sums of a step on a device, in whose memory they stay.

    Parameters
    ----------
    parameters : ParameterSet
    ordinal : int
        The number of the device.
    control : int
        The address of what was decided about the step, 0 where nothing is.

    Attributes
    ----------
    device : StepTotals
        The memory, and the launches behind those of a step.
    """

    def __init__(self, parameters: ParameterSet, ordinal: int, control: int) -> None:
        counts = [parameters.groups[group].terms for group in parameters.group_of]
        super().__init__(parameters.sizes, counts)
        jobs = (
            parameters.job(row, name, False) for row, name in enumerate(parameters.gradient_formats)
        )
        pieces = [piece_of(job) for job in jobs]
        self._ordinal = ordinal
        self.device = StepTotals(parameters.sizes, counts, pieces, control)

    def totals(self) -> Array:
        """As of `PassSums`; synchronizes."""
        with device.on(self._ordinal):
            return self.device.read()

    def placed(self, totals: Sequence[Sequence[float]]) -> list[Change]:
        """As of `PassSums`; synchronizes."""
        values = np.zeros(self.device.shape)
        for row, numbers in enumerate(totals):
            values[: len(numbers), row] = numbers
        return [partial(self._replace, values)]

    def _replace(self, values: Array) -> None:
        with device.on(self._ordinal):
            self.device.replace(values)
