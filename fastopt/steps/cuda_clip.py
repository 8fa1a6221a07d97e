"""`clip_norm` and `skip_nonfinite` on a CUDA device: the pass over gradients in front of the chain."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from fastopt.executors.cuda import device
from fastopt.executors.cuda.batches import Batch
from fastopt.executors.cuda.control import Control
from fastopt.executors.cuda.kernel_source import KernelVariant
from fastopt.executors.cuda.sum_kernels import conclude, gradient_sums
from fastopt.executors.cuda.sum_launches import Adding, Conclusion, PassMemory
from fastopt.executors.cuda.sum_source import ALL, FOLLOW
from fastopt.executors.norm import blocks
from fastopt.kernels.job import Job
from fastopt.steps.clipping import NormClip
from fastopt.steps.cuda_sums import DevicePass
from fastopt.steps.hyperparameters import Hyperparameters
from fastopt.steps.parameter_set import ParameterSet
from fastopt.steps.sums import SumPass
from fastopt.transforms.base import sums_in
from fastopt.transforms.gradient_clip import gradient_clip


class DeviceClip:
    """The transform of `clip_norm` and `skip_nonfinite`, and its device memory.

    Parameters
    ----------
    clip : NormClip
    parameters : ParameterSet
    control : Control
        Where kernels find the factor of gradients.

    Attributes
    ----------
    skips : bool
        Whether steps are skipped.
    control : Control
    memory : PassMemory
    numbers : tuple of float
        ``1 / grad_scale`` and the limit of the norm, of the coming step.
    """

    def __init__(self, clip: NormClip, parameters: ParameterSet, control: Control) -> None:
        self.skips, self.control = clip.skip_nonfinite, control
        sums, capacity = len(sums_in(clip.part).summands), max(blocks(parameters.sizes), 1)
        self.memory = PassMemory(sums, capacity, np.zeros((1, 1)), np.zeros(0, np.int64))
        self.numbers = 1.0, math.inf

    def norm(self) -> float:
        """The norm of the last gradients; synchronizes."""
        return float(self.memory.carried(1)[0, 0])


class GradientPass(DevicePass):
    """The launches of this pass.

    Parameters
    ----------
    clip : DeviceClip
    parameters : ParameterSet
    variant : KernelVariant
        Of the kernels of the step.
    work : sequence of (Batch, Job)
        The batches of the step.
    hyper : Hyperparameters
    alone : bool
        Whether no other process adds to the sums: then they are those of these gradients.
    """

    def __init__(
        self,
        clip: DeviceClip,
        parameters: ParameterSet,
        variant: KernelVariant,
        work: Sequence[tuple[Batch, Job]],
        hyper: Hyperparameters,
        alone: bool,
    ) -> None:
        wide = not alone or any(batch.gradient_format == "float64" for batch, _ in work)
        architecture, part = device.architecture(), gradient_clip(skips=clip.skips, wide=wide)
        sums = sums_in(part)
        everything = SumPass(dict.fromkeys(parameters.group_of, 0), len(sums.summands), False, {}, 0)
        super().__init__(everything, clip.memory, parameters, hyper)
        self._clip = clip
        for batch, _ in work:
            kernels = gradient_sums(batch.gradient_format, wide, architecture)
            self._adding.append(Adding(batch, kernels, 0, clip.memory, 0))
        variant = variant._replace(clipped=False)
        for dtype in dict.fromkeys(job.compute.name for _, job in work):
            conclusion = Conclusion(
                conclude(part, variant, True, dtype, architecture),
                1 + sums.from_host,
                variant,
                per_array=False,
                skips=sums.skips,
                mode=FOLLOW if self._concluding else ALL,
                memory=clip.memory,
                control=clip.control.address,
                stride_of_totals=0,
                rows=[0],
                decided=[clip.control.factor_at(dtype)],
                holders=[0],
            )
            self._concluding.append(conclusion)
            variant = variant._replace(skips=sums.skips)

    def set_numbers(self, count: int) -> None:
        """Take over the hyperparameters of a step; what is carried is only read by the host."""
        super().set_numbers(0)

    def _numbers(self, index: int) -> Sequence[float]:
        return self._clip.numbers
