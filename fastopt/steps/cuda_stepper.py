"""Steps on a CUDA device, without copies and synchronization unless a result is read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numba
import numpy as np

from fastopt.arrays.checks import Array
from fastopt.arrays.device_array import DeviceArray
from fastopt.changes import Change, assign, make, put
from fastopt.executors import launching
from fastopt.executors.cpu.columns import COUNT, GRAD, HYPER_LAG, ITEMSIZE, LENGTH, STATE
from fastopt.executors.cpu.table import CountedTable
from fastopt.executors.cuda import copies, device, driver_calls, streams
from fastopt.executors.cuda.control import Control
from fastopt.executors.cuda.kernel_source import KEPT
from fastopt.executors.cuda.quick_steps import QuickStep, quick_step
from fastopt.executors.launching import TAKEN, UNLIKE
from fastopt.executors.norm import LOCAL, Reducer
from fastopt.steps.clipping import GradientStats, NormClip
from fastopt.steps.cuda_batches import BatchMaker
from fastopt.steps.cuda_clip import DeviceClip
from fastopt.steps.cuda_lags import are_outdated, count_step
from fastopt.steps.cuda_launches import StepLaunches
from fastopt.steps.cuda_pass_sums import DevicePassSums
from fastopt.steps.cuda_skips import SkippedSteps
from fastopt.steps.cuda_sums import DeviceDecisions
from fastopt.steps.device_gradients import DeviceGradients
from fastopt.steps.device_headers import DeviceHeaders
from fastopt.steps.hyperparameters import Hyperparameters
from fastopt.steps.parameter_set import ParameterSet
from fastopt.steps.stats import Stats
from fastopt.steps.stepper import Setup, Stepper


class CudaStepper(Stepper):
    """Steps by launches that are prepared once.

    Where the norm spans other processes it is decided on the host; else the device decides, and the
    host learns what was skipped when it asks.

    Attributes
    ----------
    table : CountedTable
        The counts of all arrays, and the addresses of their gradients.
    driver : array or None
        What compiled code needs of the driver (`executors.launching`), None where nothing is compiled.
    launches : StepLaunches
    by_table : bool
        Whether gradients can be noted in the table.
    """

    def __init__(
        self, parameters: ParameterSet, hyper: Hyperparameters, clip: NormClip, setup: Setup
    ) -> None:
        super().__init__(parameters, hyper, clip, setup)
        copies.register()
        self.rows, guarded = np.zeros((len(parameters.leaves), STATE), np.int64), setup.guarded
        self.rows[:, ITEMSIZE] = [leaf.itemsize for leaf in parameters.leaves]
        self.rows[:, LENGTH] = self.rows[:, COUNT] = parameters.sizes
        self.table = CountedTable(self.rows)
        self.ranges = np.array([guarded.starts, guarded.stops], np.int64)
        leaves: list[DeviceArray] = list[Any](parameters.leaves)
        self.ordinal = next((device.ordinal(leaf) for leaf in leaves if leaf.size), device.current())
        bind = self._bind, self._take_formats
        self.gradients = DeviceGradients(setup, leaves, self.table, self.ordinal, *bind)
        with device.on(self.ordinal):
            self.driver = None if numba.config.DISABLE_JIT else driver_calls.calls(self.ordinal)
        self.by_table = self.driver is not None
        # torch's tensors are checked where the list of them is made.
        self._headers = DeviceHeaders([] if setup.listed else parameters.groups, self.by_table)
        self._quick: QuickStep | None = None
        self._device_clip: DeviceClip | None = None
        with device.on(self.ordinal):
            self._may_skip = clip.skip_nonfinite or self.decisions.may_skip
            control = Control() if clip.is_on or self._may_skip else None
            self.pass_sums: DevicePassSums | None = None
            if any(group.terms for group in parameters.groups):
                control_at = 0 if control is None else control.address
                self.pass_sums = DevicePassSums(parameters, setup, self.ordinal, control_at)
            totals = None if self.pass_sums is None else self.pass_sums.device
            self.decisions: DeviceDecisions = DeviceDecisions(parameters, lambda: self.count, totals)
            if clip.is_on and control is not None:
                self._device_clip = DeviceClip(clip, parameters, control)
        self._skips = SkippedSteps(self.table, self.ordinal, control)
        self._recalls = self._may_skip and not setup.capturable
        passes = self.decisions, self.pass_sums, control
        maker = BatchMaker(parameters, setup, *passes, clip=self._device_clip, recalls=self._recalls)
        self.launches = StepLaunches(maker, totals, self.ordinal, self.by_table)
        self._stream, self._is_capturing, self._has_started = 0, False, False
        # Whether the step that was begun was counted, by machine code, and whether all was run at once.
        self._is_counted, self._is_whole = False, True
        self._left = 0  # elements still to be stepped, below zero if there are none
        self._also: list[Change] = []  # what is made together with the next step
        self._left_out = [False] * len(leaves)  # the arrays that the last capture had no gradient for
        make(self.planned(hyper, self.scales))

    def planned(
        self, hyper: Hyperparameters, scales: bool, formats: list[str] | None = None
    ) -> list[Change]:
        """The changes that let launches read these hyperparameters, and scale gradients or not.

        Arrays that share them are sorted into batches. `formats` are those of the gradients, where
        they are others than before.
        """
        formats = formats or self.gradients.formats
        return [
            *self.launches.planned(hyper, scales, formats, self.first),
            assign(self, "_quick", None),
            self.gradients.forget,
            put(self.rows, hyper.lags, np.s_[:, HYPER_LAG]),
            assign(self.gradients, "formats", formats),
        ]

    def counted(self, count: int, lags: Sequence[int]) -> list[Change]:
        """The changes that set the step count and the lag of each array."""
        return self.table.counted(count, lags)

    @property
    def count(self) -> int:  # type: ignore[override]  # an attribute
        """The step count."""
        return self.table.count

    @property
    def lags(self) -> list[int]:  # type: ignore[override]  # an attribute
        """For each array, the number of steps without its gradient."""
        return self.table.lags

    @property
    def source(self) -> str:
        """The kernel of the first arrays and the function that it calls for each element."""
        return self.launches.batches[0].source

    def take_part(self, first: int, reducer: Reducer) -> None:
        """Step a shard of parameters of several processes."""
        self.first, self.reducer = first, reducer
        self.launches.is_alone = reducer is LOCAL
        make(self.planned(self.hyper, self.scales))

    @property
    def last(self) -> GradientStats | None:
        """The statistics of the last gradients; synchronizes."""
        if self._device_clip is not None and self._has_started:
            with self.launches.on():
                norm = self._device_clip.norm()
            return GradientStats(norm, self.clip.skip_nonfinite and math.isnan(norm))
        return self.clip.last

    def step(self, grads: object, grad_scale: object, stream: object) -> None:
        """Take a step, or raise and change nothing."""
        quick, also = self._quick, self._also
        if (
            quick is not None
            and stream is None
            and type(grad_scale) is float
            and grad_scale == self.grad_scale
            and (not also or len(also) == 1)  # torch's counts, which stay if there is no step
            and (not self._headers.others or self._headers.others_are_same())
        ):
            if self.varies:
                self.hyper.fill(self.count, grad_scale)
            # In a name of its own: the list must stay while compiled code reads it.
            arrays, items = self.gradients.enter(grads)
            status = make([partial(quick.take, items), *also])[0] if also else quick.take(items)
            if status == UNLIKE and not also and self.gradients.note_alike(arrays):
                status = quick.take(items)
            if status > TAKEN:  # gradients were bound whose addresses may not have been copied
                self._quick = None
            if status == TAKEN or driver_calls.was_taken(status):
                if also:
                    self._also = []
                return
        super().step(grads, grad_scale, stream)
        self._quick = self._next_quick()

    def step_also(self, grads: object, grad_scale: object, also: list[Change]) -> None:
        """Take a step and make further changes with it: they must see if there was a step."""
        waits = self._recalls and bool(also)  # for what only the device knows
        self._also = [] if waits else also
        try:
            self.step(grads, grad_scale, None)
        finally:
            self.gradients.is_noted = False
        if waits:
            try:
                self.settle()
            finally:  # whatever interrupts the wait, the step was taken
                make(also)
        if self._also:  # there was nothing to launch, or it was not launched in one
            make(self._also)
            self._also = []

    def _next_quick(self) -> QuickStep | None:
        """What steps with gradients like the last in one call, None if there is more to do."""
        gradients, expected = self.gradients, self.gradients.expected
        if self.launches.passes or self.setup.statistics.names or self.setup.capturable:
            return None
        if self.driver is None or expected is None or not all(gradients.has_gradient):
            return None
        stays = gradients.formats != gradients.formats_of_leaves or self.setup.zero_grad
        known = self.driver, self.rows, self.launches.table, self.launches.batches, self.ranges
        with device.on(self.ordinal):
            how = stays, expected, gradients.stream, gradients.moved, self._headers.expected
            return quick_step(*known, *how)

    def begin(self, grads: object, grad_scale: object, stream: object = None) -> None:
        """Find and check the gradients, and copy the hyperparameters of the step to the device."""
        self._quick = None
        self._headers.check()
        if self._has_started:  # the stream is known
            self._is_capturing = self.launches.captures(self._handle(stream))
        if self.table.lags_moved:
            self._arrange_lags(grads)
        if type(grad_scale) is not float or grad_scale != self.grad_scale:
            self.settle()
            self.set_grad_scale(grad_scale)
        elif self.varies or self.clip.varies or self.decisions.carries:
            if self._skips.unread >= KEPT - 1 or self.setup.capturable > self._is_capturing:
                self.settle()
            self.hyper.fill(self.count, grad_scale)
        if self.gradients.moved[0]:
            self.gradients.forget()
            self.launches.forget()
            self.gradients.moved[0] = 0
        self.gradients.take(grads)
        self._set_numbers()
        self.hyper.write(self.gradients.has_gradient, self.grad_scale, self.limit)
        if self._may_skip:
            self.launches.expect(self.count, self._skips.counted())
        self._stream = self._handle(stream)
        self._is_capturing = self.launches.captures(self._stream)
        if self._is_capturing:
            self.launches.record(self._stream)
        elif self.setup.capturable or not self.launches.is_ready():
            self.launches.prepare(self._stream)
        if self._may_skip and self.reducer is LOCAL and not self._is_capturing:
            self._skips.unread += 1  # before the step is counted
        self._left = self.parameters.size

    def _set_numbers(self) -> None:
        """Have sums concluded with the hyperparameters of the coming step."""
        self.limit = self.clip.limit_at(self.count)
        if self._device_clip is not None:
            self._device_clip.numbers = 1.0 / self.grad_scale, self.limit
        self.launches.set_numbers(self.count)

    def _bind(self, addresses: Array) -> None:
        """Set the addresses of the gradients in the launches; 0 leaves an array out."""
        self.rows[:, GRAD] = addresses
        self.launches.bind(addresses, self.gradients.has_gradient, self._is_capturing)

    def _take_formats(self, formats: list[str]) -> None:
        """Gradients in another format than before get other kernels."""
        if self._skips.unread and self._recalls:  # what launches have kept is lost with them
            self.settle()
            self.hyper.fill(self.count, self.grad_scale)
        make(self.planned(self.hyper, self.scales, formats))

    def _handle(self, stream: object) -> int:
        """The stream to work on with the gradients that were bound."""
        return self.gradients.current_stream() if stream is None else streams.handle(stream)

    def decide(self) -> bool:
        """Measure the gradients and sum over processes, if needed; False if the host learnt to skip.

        What the device does alone `run` starts: it counts skipped steps, so no interrupt must come
        between that and the count of the step.
        """
        if self.reducer is LOCAL or not self.launches.passes:
            return True
        self._skips.is_outdated = self._may_skip  # until it is read
        with self.launches.on():
            self.launches.decide(self._stream, self.reducer)
        self._has_started = True
        return not self._may_skip or self._skips.is_last_taken()

    def run(self, start: int, stop: int) -> None:
        """Launch the step of the elements from `start` to `stop`."""
        left = self._left - (stop - start)
        if left < 0:  # nothing more of what was stepped
            return
        self._is_whole = is_whole = stop - start == self.parameters.size
        self._is_counted = is_whole and self._run_and_count()
        if not self._is_counted:
            with self.launches.on():
                if self.reducer is LOCAL and self._left == self.parameters.size:
                    self.launches.decide(self._stream, LOCAL)
                if is_whole:
                    self.launches.start(self._stream)
                else:
                    spans = self.parameters.spans(start, stop)
                    self.launches.start_parts(spans, self.gradients.addresses, self.first, self._stream)
        self._left = left or -1
        self._has_started = True

    def _run_and_count(self) -> bool:
        """Launch and count the step of all elements in one call, if the host counts; else False."""
        if self.driver is None or not self._counts:
            return False
        arguments = self.driver, self.launches.table, self.rows, self._stream
        if not self._also:
            return driver_calls.was_taken(launching.launch()(*arguments))
        status, *_ = make([partial(launching.launch(), *arguments), *self._also])
        if not driver_calls.was_taken(status):
            return False
        self._also = []
        return True

    @property
    def _counts(self) -> bool:
        """Whether the host counts this step: a replay counts what a graph recorded."""
        return not (self._is_capturing or self.hyper.is_on_device)

    def end(self) -> None:
        """Count the step, if machine code did not."""
        if self.pass_sums is not None:
            self.pass_sums.finish(self._stream, self.reducer, in_parts=not self._is_whole)
        if not self._is_counted and self._counts:
            count_step(self.table, self.gradients.left_out)
        if self._is_capturing:
            self._left_out = self.gradients.left_out
        elif self.gradients.leaves_out:
            self.settle()  # who was left out of steps before is not known any more
            self.note_scales()

    def forget_stats(self) -> None:
        """Have no statistics until the next step; those under way from the device are left out."""
        super().forget_stats()
        self._count_from(self.count)

    def note_scales(self) -> None:
        """Note the scales of gradients for statistics that arrive later."""
        if self.pass_sums is not None:
            self.pass_sums.note(self.count, self.lags, self.grad_scale)

    def read_stats(self, *, wait: bool) -> Stats | None:
        """The statistics of the last step, or of the newest that the host knows of."""
        if self.pass_sums is None or self.reducer is not LOCAL:
            return super().read_stats(wait=wait)
        return self.pass_sums.statistics(self.parameters, wait=wait)

    def _count_from(self, count: int) -> None:
        if self.pass_sums is not None:
            self.pass_sums.count_from(count)
            self.note_scales()

    def advance(self, stream: object) -> None:
        """Prepare the next replay of a graph that captured a step."""
        if not self.setup.capturable:
            super().advance(stream)
        self._headers.check()
        self.settle()
        self.hyper.fill(self.count, self.grad_scale)
        self._stream = self._handle(stream)
        self._set_numbers()
        depends = self.varies or self.clip.varies or self.decisions.carries
        self.launches.prepare_replay(self._stream, self.table, self._left_out, depends)
        self._skips.unread += self._may_skip
        count_step(self.table, self._left_out)

    def continue_at(self, count: int, lags: Sequence[int]) -> None:
        """Set the step count and the lag of each array, or raise."""
        self.settle()
        self.decisions.keep()
        super().continue_at(count, lags)
        self._count_from(count)

    def go_to(self, step: int) -> None:
        """Set the step count, or raise."""
        self.settle()
        self.decisions.keep()
        super().go_to(step)
        self._count_from(step)

    def catch_up(self, rows: Mapping[int, Array] | None = None) -> None:
        """Check that what is now read or written is where it was."""
        self._headers.check()

    def settle(self) -> None:
        """Count only the steps that were taken; waits for the device if that is not known."""
        if self._skips.unread:
            self._skips.settle()

    def _arrange_lags(self, grads: object) -> None:
        """Give arrays that were left out the hyperparameters of their own step.

        Those that are left out again need none, so that launches stay the same.
        """
        if not self._is_capturing:
            self.settle()  # of a skipped step lags go back
        has_gradient = self.gradients.which(grads)
        if are_outdated(self.table, has_gradient, self.parameters, self.decisions, self._is_capturing):
            make(self.lagging(self.lags))
