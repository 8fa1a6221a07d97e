"""Steps on a CUDA device: nothing is copied and nobody waits, unless an answer is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from fastopt.arrays.checks import Array, Range
from fastopt.arrays.tree import Structure
from fastopt.changes import Change, assign, make
from fastopt.executors.cuda import copies
from fastopt.executors.cuda.kernel_source import KEPT
from fastopt.steps.clipping import GradientStats, NormClip
from fastopt.steps.device_steps import DeviceSteps
from fastopt.steps.hyperparameters import Hyperparameters
from fastopt.steps.parameter_set import ParameterSet
from fastopt.steps.stepper import Stepper


class CudaStepper(Stepper):
    """Steps by launches that are prepared once.

    Parameters
    ----------
    work, hyper, watch
        As of `Stepper`.
    structure : Structure
        The form of the parameters.
    guarded : list of range
        Memory that no gradient may share.
    zero_grad : bool
        Clear the gradients on the way.
    capturable : bool
        The numbers of a step are in the memory of the device, for graphs.

    Attributes
    ----------
    device : DeviceSteps
        What launches.
    """

    _launches: ClassVar[type[DeviceSteps]] = DeviceSteps

    def __init__(
        self,
        work: ParameterSet,
        hyper: Hyperparameters,
        watch: NormClip,
        *,
        structure: Structure,
        guarded: list[Range],
        zero_grad: bool,
        capturable: bool,
    ) -> None:
        super().__init__(work, hyper, watch)
        copies.register()
        self.count = 0
        self._capturable = capturable
        self._skipped = 0  # steps left out, as far as is known
        self._since = 0  # steps since that was looked at
        self._left_out: list[bool] | None = None  # of the last step, where lags do not have it yet
        self._unsettled = False  # the last steps may have been left out, which only the device knows
        self.device = self._launches(
            structure,
            work,
            guarded,
            watched=watch.is_on,
            skips=watch.skip_nonfinite,
            zero_grad=zero_grad,
            capturable=capturable,
        )
        make(self.planned(hyper, self.scales))

    def planned(self, hyper: Hyperparameters, scales: bool) -> list[Change]:
        """What has launches read the numbers in these places, with kernels that scale or not."""
        return self.device.arranged(hyper.of, scales)

    def counted(self, count: int, lags: Sequence[int]) -> list[Change]:
        """What lets so many steps have been taken, and arrays left out of so many."""
        return [assign(self, "count", count)]

    @property
    def lags(self) -> list[int]:  # type: ignore[override]  # an attribute
        """For each array, how many steps it was left out of."""
        return self.hyper.lags

    @property
    def source(self) -> str:
        """The kernel of the first arrays and the function that it calls for each element."""
        return self.device.source

    @property
    def last(self) -> GradientStats | None:
        """What is known of the last gradients; waits for the device."""
        if self.watch.is_on and self.device.has_started:
            return GradientStats(*self.device.decided()[:2])
        return self.watch.last

    def step(self, grads: Any, grad_scale: Any, stream: Any) -> None:
        """Launch a step, or raise and change nothing."""
        if self._left_out is not None:  # the end of the last step was interrupted
            self._keep_up()
        if type(grad_scale) is not float or grad_scale != self.grad_scale:
            self.settle()
            self.set_grad_scale(grad_scale)
        elif self.varies or self.watch.varies:
            if self._capturable or self._since >= KEPT - 1:
                self.settle()
            self.hyper.fill(self.count, grad_scale)
        self.device.bind(grads)
        limit = self.watch.limit_at(self.count)
        self.device.expect(self.count, self._skipped)
        if self.device.start(stream, 1.0 / self.grad_scale, limit):
            self._count_step()
        # Else it was recorded for a graph, and is counted when that is replayed.

    def _count_step(self) -> None:
        left_out = self.device.left_out if self.device.leaves_out else None
        # In one line, behind the launch: all that an interrupt could find half done.
        self.count, self._unsettled, self._since, self._left_out = (
            self.count + 1,
            self.watch.skip_nonfinite,
            self._since + 1,
            left_out,
        )
        self._keep_up()

    def _keep_up(self) -> None:
        """Let arrays that were left out of the last step keep their own count, if it was taken."""
        if self._left_out is None:
            return
        if self._unsettled and self.device.decided()[1]:
            self._left_out = None
        else:
            lags = [lag + int(out) for lag, out in zip(self.lags, self._left_out, strict=True)]
            make([*self.lagging(lags), assign(self, "_left_out", None)])
        self.settle()

    def advance(self, stream: Any) -> None:
        """Get ready for the next replay of a graph that a step was captured in."""
        if not self._capturable:
            raise ValueError("advance is for an optimizer made with capturable=True, on a device")
        self.settle()
        self.hyper.fill(self.count, self.grad_scale)
        self.device.advance(stream, 1.0 / self.grad_scale, self.watch.limit_at(self.count))
        self.count, self._unsettled = self.count + 1, self.watch.skip_nonfinite

    def settle(self) -> None:
        """Count only the steps that were taken; waits for the device if that is not known."""
        self._keep_up()
        if self._unsettled:
            skipped = self.device.decided()[2]
            count = self.count - (skipped - self._skipped)
            self.count, self._skipped, self._since, self._unsettled = count, skipped, 0, False

    def catch_up(self, rows: Mapping[int, Array] | None = None) -> None:
        """Nothing is ever behind: sparse gradients are for memory."""
