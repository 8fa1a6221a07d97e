"""Which arrays on a device are stepped in one launch: those with the same job and hyperparameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastopt.executors.cuda import device
from fastopt.executors.cuda.batches import Batch
from fastopt.executors.cuda.control import Control
from fastopt.executors.cuda.kernel_source import KernelVariant
from fastopt.executors.cuda.kernels import kernels
from fastopt.executors.cuda.launches import LaunchHyper
from fastopt.executors.cuda.many_arrays import ManyArrays
from fastopt.executors.cuda.one_array import OneArray
from fastopt.kernels.job import Job
from fastopt.steps.cuda_clip import DeviceClip, GradientPass
from fastopt.steps.cuda_pass_sums import DevicePassSums
from fastopt.steps.cuda_sums import ChainPass, DeviceDecisions, DevicePass, Shared
from fastopt.steps.hyperparameters import Hyperparameters
from fastopt.steps.parameter_set import ParameterSet
from fastopt.steps.stepper import Setup


class BatchMaker:
    """Makes the batches of a stepper, and the launches for the sums of transforms.

    Parameters
    ----------
    parameters : ParameterSet
    setup : Setup
    decisions : DeviceDecisions
        What follows from the sums of transforms.
    pass_sums : DevicePassSums, optional
        What the step adds up, if it does.
    control : Control, optional
        Where it is kept what is decided about the step, if something is.
    clip : DeviceClip, optional
        What comes in front of the chain.
    recalls : bool
        Whether launches keep their hyperparameters, which a step after a skipped one recalls.

    Attributes
    ----------
    capturable : bool
        Whether graphs may record steps.
    """

    def __init__(
        self,
        parameters: ParameterSet,
        setup: Setup,
        decisions: DeviceDecisions,
        pass_sums: DevicePassSums | None,
        control: Control | None,
        *,
        clip: DeviceClip | None,
        recalls: bool,
    ) -> None:
        self._parameters, self._decisions = parameters, decisions
        self._sums_at = [0] * len(parameters.leaves)
        if pass_sums is not None:
            self._sums_at = pass_sums.device.pieces_at
        self.capturable = setup.capturable
        self._control_at = 0 if control is None else control.address
        self._clip = clip
        self._variant = KernelVariant(clip is not None, setup.capturable, recalls)
        pairs = zip(parameters.leaves, parameters.slots, strict=True)
        self._arrays = [[leaf, *slots] for leaf, slots in pairs]

    def batches(
        self,
        known: Mapping[Any, Batch],
        hyper: Hyperparameters,
        scales: bool,
        formats: Sequence[str],
        first: int,
    ) -> dict[Any, Batch]:
        """The batches by all that they depend on; `known` ones are kept.

        `formats` are those of the gradients, and `first` is the index of the first element.
        """
        rows_of: dict[tuple[int, Job], list[int]] = {}
        for row in range(len(self._arrays)):
            job = self._parameters.job(row, formats[row], scales)
            rows_of.setdefault((id(hyper.of(row)), job), []).append(row)
        batches: dict[Any, Batch] = {}
        for (numbers, job), rows in rows_of.items():
            key = *rows, numbers, first, job
            batches[key] = known.get(key) or self._batch(rows, formats[rows[0]], job, hyper, first)
        return batches

    def passes(
        self, batches: Mapping[Any, Batch], hyper: Hyperparameters, alone: bool
    ) -> list[DevicePass]:
        """The passes that sum, for these batches; whether `alone`, without other processes."""
        work = [(batch, job) for (*_, job), batch in batches.items()]
        shared = Shared(self._decisions, self._parameters, hyper, self._control_at, self._variant)
        front: list[DevicePass] = []
        if self._clip is not None:
            of_step = self._variant, work, hyper, alone
            front.append(GradientPass(self._clip, self._parameters, *of_step))
        passes = range(len(self._decisions.passes))
        return [*front, *(ChainPass(number, shared, work) for number in passes)]

    def _batch(
        self, rows: list[int], gradient: str, job: Job, hyper: Hyperparameters, first: int
    ) -> Batch:
        host: Any = hyper.of(rows[0])
        numbers = host if isinstance(host, LaunchHyper) else LaunchHyper(host, self.capturable)
        in_rows = len(rows) > 1 and numbers.are_in_rows
        variant = self._variant._replace(skips=self._decisions.may_skip, hyper_in_rows=in_rows)
        compiled = kernels(job, variant, device.architecture())
        kind = OneArray if len(rows) == 1 else ManyArrays
        decided = [self._decisions.decided[row] for row in rows]
        sums = [self._sums_at[row] for row in rows]
        arrays = [self._arrays[row] for row in rows]
        firsts = [first + self._parameters.indices[row] for row in rows]
        at = self._control_at, decided, sums
        return kind(rows, arrays, firsts, gradient, compiled, numbers, *at)

    def alone(self, row: int, batches: Sequence[Batch], first: int) -> OneArray:
        """The launches of an array by itself, with the device memory of the batch that it is in."""
        batch: Any = next(each for each in batches if row in each.rows)
        if isinstance(batch, OneArray):
            return batch
        launches: OneArray = batch.alone(row, self._arrays[row], first + self._parameters.indices[row])
        return launches
