"""A step in pieces on a CUDA device, for gradients that arrive in parts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from fastopt.executors import norm
from fastopt.executors.cuda.norm import SMALLER
from fastopt.steps.cuda_stepper import CudaStepper
from fastopt.steps.partial_step import AnyPartialStep


class DevicePartialStep(AnyPartialStep):
    """Pieces of an array on a device, where a norm that spans other processes is decided on the host.

    What comes between the pieces does not know streams, so the host waits for each of them. The
    parameters are those of `AnyPartialStep`.
    """

    def __init__(
        self, stepper: Callable[[], Any], across: norm.Reducer = norm.LOCAL, first: int = 0
    ) -> None:
        super().__init__(stepper, across, first)
        if not isinstance(stepper(), CudaStepper):
            raise TypeError("stepper must be of an array on a device")
        self._steps.device.start_at(first)
        self._stream = 0

    def begin(self, grad: Any, grad_scale: float, stream: Any = None) -> None:
        """Check an array that will hold the gradient, and get the hyperparameters of the step."""
        own = self._steps
        if type(grad_scale) is not float or grad_scale != own.grad_scale:
            own.set_grad_scale(grad_scale)
        elif own.varies:
            own.hyper.fill(own.count, grad_scale)
        own.device.bind(grad)
        own.device.expect(own.count, 0)  # what is skipped is not launched
        self._limit = own.watch.limit_at(own.count)
        self._stream = own.device.stream(stream)

    def decide(self) -> bool:
        """Look at the whole gradient, where its norm is wanted; whether the step is to be taken."""
        own = self._steps
        if not self.waits:
            return True
        size, finite = self._measure()
        factor = own.watch.conclude(size, finite, own.grad_scale, self._limit)
        last = own.watch.last
        if last is None:
            raise AssertionError("a conclusion is written down")
        own.device.decide(last.norm, factor or 0.0, last.skipped)
        return factor is not None

    def _measure(self) -> tuple[float, bool]:
        """The norm of the finite elements of all processes, and whether all are finite."""
        total, smaller, infinite = self._steps.device.measure(self._stream).tolist()
        size = math.sqrt(self._across.sum(math.nan if infinite else total))
        if math.isfinite(size):
            return size, True
        finite = self._across.max(infinite) == 0.0
        size = math.sqrt(self._across.sum(total))
        if not math.isfinite(size):  # squares of float64 overflow
            size = math.sqrt(self._across.sum(smaller)) / SMALLER
        return size, finite

    def run(self, start: int, stop: int) -> None:
        """Step the elements from `start` to `stop`, and wait until that is done."""
        self._steps.device.run(start, stop, self._stream)

    def end(self) -> None:
        """Count the step."""
        self._steps.count += 1
