"""Steps on a CUDA device, without copies and synchronization unless a result is read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import numba
import numpy as np

from fastopt.arrays.checks import Array
from fastopt.arrays.device_array import DeviceArray
from fastopt.changes import Change, assign, make, put
from fastopt.executors import launching
from fastopt.executors.cpu.columns import COUNT, GRAD, HYPER_LAG, ITEMSIZE, LAG, LENGTH, STATE, STEPS
from fastopt.executors.cpu.table import CountedTable
from fastopt.executors.cuda import copies, device, driver_calls, streams
from fastopt.executors.cuda.batches import Batch
from fastopt.executors.cuda.clip_decision import ClipDecision
from fastopt.executors.cuda.control import Control
from fastopt.executors.cuda.kernel_source import KEPT
from fastopt.executors.cuda.launches import NOT_PREPARED
from fastopt.executors.cuda.one_array import OneArray
from fastopt.executors.cuda.quick_steps import QuickStep, quick_step
from fastopt.executors.launching import TAKEN
from fastopt.executors.norm import LOCAL, Reducer, blocks
from fastopt.steps.clipping import GradientStats, NormClip
from fastopt.steps.cuda_batches import BatchMaker
from fastopt.steps.cuda_pass_sums import DevicePassSums
from fastopt.steps.cuda_sums import DeviceDecisions, DevicePass, may_skip
from fastopt.steps.device_gradients import DeviceGradients
from fastopt.steps.hyperparameters import Hyperparameters
from fastopt.steps.parameter_set import ParameterSet
from fastopt.steps.stats import Stats
from fastopt.steps.stepper import Setup, Stepper

NO_LAUNCHES = np.zeros((0, 4), np.int64)


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
    launches : array
        The launches of all arrays, for compiled code.
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
        self._skipped = 0  # steps left out, as far as is known
        self._since = 0  # steps since that was read
        self._unsettled = False  # the last steps may have been left out, which only the device knows
        leaves: list[DeviceArray] = list[Any](parameters.leaves)
        self.ordinal = device.ordinal(leaves[0]) if leaves else 0
        bind = self._bind, self._take_formats
        self.gradients = DeviceGradients(setup, leaves, self.table, self.ordinal, *bind)
        with device.on(self.ordinal):
            self.driver = None if numba.config.DISABLE_JIT else driver_calls.calls(self.ordinal)
        self.by_table = self.driver is not None
        self.launches: Array = NO_LAUNCHES  # of the batches, for compiled code
        self._quick: QuickStep | None = None
        self._moved = np.zeros(1, np.int64)  # whether that bound gradients Python does not know of
        self._decision: ClipDecision | None = None
        self._control: Control | None = None
        self._passes: list[DevicePass] = []
        with device.on(self.ordinal):
            self._may_skip = clip.skip_nonfinite or may_skip(parameters)
            if clip.is_on or self._may_skip:
                self._control = Control()
            self.pass_sums: DevicePassSums | None = None
            if any(group.terms for group in parameters.groups):
                control = 0 if self._control is None else self._control.address
                self.pass_sums = DevicePassSums(parameters, setup, self.ordinal, control)
            totals = None if self.pass_sums is None else self.pass_sums.device
            self.decisions: DeviceDecisions = DeviceDecisions(parameters, lambda: self.count, totals)
            if clip.is_on:
                how = clip.skip_nonfinite, setup.capturable, self._control
                self._decision = ClipDecision(blocks(parameters.sizes), *how)
        self._maker = BatchMaker(
            parameters,
            setup,
            self.decisions,
            self.pass_sums,
            self._control,
            clips=clip.is_on,
            recalls=self._may_skip and not setup.capturable,
        )
        self._batches: list[Batch] = []
        self._known: dict[Any, Batch] = {}  # the same, by all that they depend on
        self._single: dict[int, OneArray] = {}  # of rows that are stepped by themselves
        self._of_graphs: list[Any] = []  # what they read must stay
        self._stream, self._is_capturing, self._has_started = 0, False, False
        # Whether the step that was begun was counted, by machine code, and whether all was run at once.
        self._is_counted, self._is_whole = False, True
        self._also: list[Change] = []  # what is made together with the next step
        make(self.planned(hyper, self.scales))

    def planned(
        self, hyper: Hyperparameters, scales: bool, formats: list[str] | None = None
    ) -> list[Change]:
        """The changes that let launches read these hyperparameters, and scale gradients or not.

        Arrays that share them are sorted into batches. `formats` are those of the gradients, where
        they are others than before.
        """
        formats = formats or self.gradients.formats
        with device.on(self.ordinal):
            batches, passes = self._maker.batches(self._known, hyper, scales, formats, self.first)
        new: dict[str, Any] = {"_known": batches, "_batches": list(batches.values()), "_passes": passes}
        new |= {"_single": {}, "_quick": None}
        changes: list[Change] = [partial(vars(self).update, new), self.gradients.forget]
        changes.append(put(self.rows, hyper.lags, np.s_[:, HYPER_LAG]))
        return [*changes, assign(self.gradients, "formats", formats)]

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
        return str(self._batches[0].source)

    def take_part(self, first: int, reducer: Reducer) -> None:
        """Step a shard of parameters of several processes."""
        self.first, self.reducer = first, reducer
        make(self.planned(self.hyper, self.scales))

    @property
    def last(self) -> GradientStats | None:
        """The statistics of the last gradients; synchronizes."""
        if self._decision is not None and self._has_started:
            norm, *_ = self._read_decision()
            return GradientStats(norm, self.clip.skip_nonfinite and math.isnan(norm))
        return self.clip.last

    def _read_decision(self) -> tuple[float, bool, int]:
        """The norm, whether the step was skipped, and the number of skipped steps; synchronizes."""
        if self._control is None:
            raise AssertionError("nothing was to be decided")
        with device.on(self.ordinal):
            return self._control.read()

    def step(self, grads: Any, grad_scale: Any, stream: Any) -> None:
        """Take a step, or raise and change nothing."""
        quick = self._quick
        if (
            quick is not None
            and stream is None
            and type(grad_scale) is float
            and grad_scale == self.grad_scale
            and len(self._also) <= 1  # torch's counts, which stay if there is no step
        ):
            if self.varies:
                self.hyper.fill(self.count, grad_scale)
            # In a name of its own: the list must stay while compiled code reads it.
            found, items = self.gradients.enter(grads)  # noqa: RUF059
            also = self._also
            status = make([partial(quick.take, items), *also])[0] if also else quick.take(items)
            if status == TAKEN or driver_calls.was_taken(status):
                self._also = []
                return
        super().step(grads, grad_scale, stream)
        self._quick = self._next_quick()

    def step_also(self, grads: Any, grad_scale: Any, also: list[Change]) -> None:
        """Take a step and make further changes with it: they must see if there was a step."""
        self._also = also
        try:
            self.step(grads, grad_scale, None)
        finally:
            self.gradients.is_noted = False
        if self._also:  # there was nothing to launch, or it was not launched in one
            make(self._also)
            self._also = []

    def _next_quick(self) -> QuickStep | None:
        """What steps with gradients like the last in one call, None if there is more to do."""
        gradients, expected = self.gradients, self.gradients.expected
        if self._decides or self.setup.statistics.names:
            return None
        if self.setup.capturable or self.driver is None:
            return None
        if (
            expected is None or gradients.moved or not all(gradients.given)
        ):  # what moved will again, it seems
            return None
        stays = gradients.formats != gradients.formats_of_leaves or self.setup.zero_grad
        known = self.driver, self.rows, self.launches, self._batches, self.ranges
        return quick_step(*known, stays, expected, gradients.stream, self._moved)

    def begin(self, grads: Any, grad_scale: Any, stream: Any = None) -> None:
        """Find and check the gradients, and copy the hyperparameters of the step to the device."""
        if self.gradients.leaves_out and self.table.lags_moved:  # its end was interrupted
            self.settle()
        if type(grad_scale) is not float or grad_scale != self.grad_scale:
            self.settle()
            self.set_grad_scale(grad_scale)
        elif self.varies or self.clip.varies or self.decisions.carries:
            if self.setup.capturable or self._since >= KEPT - 1:
                self.settle()
            self.hyper.fill(self.count, grad_scale)
        if self._moved[0]:
            self.gradients.forget()
            for batch in self._batches:
                batch.forget()
            self._moved[0] = 0
        if self.setup.capturable:
            self._is_capturing = self._has_started and self._captures(self._handle(stream))
        self.gradients.take(grads)
        self.limit = self.clip.limit_at(self.count)
        self.hyper.write(self.gradients.given, self.grad_scale, self.limit)
        for sums in self._passes:
            sums.set_numbers(self.count)
        if self._may_skip:
            for work in [*self._work(), *self._single.values()]:
                work.expect(self.count, self._skipped)
        self._stream = self._handle(stream)
        if self._decision is not None:
            self._decision.set_numbers(1.0 / self.grad_scale, self.limit)
        self._is_capturing = self.setup.capturable and self._captures(self._stream)
        if self._is_capturing:
            self._record()
        else:
            self._send()
        if self._may_skip and not self._is_capturing:  # before the step is counted
            self._unsettled, self._since = self.reducer is LOCAL, self._since + 1

    def _captures(self, stream: int) -> bool:
        with self._on():
            return device.is_capturing(stream)

    def _record(self) -> None:
        """Let the graph that is captured copy what launches read; raises if there is more to do."""
        if not all(work.is_ready() for work in self._work()):
            raise RuntimeError(NOT_PREPARED)
        self._of_graphs.append((self._batches, self._passes))
        with self._on():
            for work in self._work():
                work.record(self._stream)

    def _bind(self, addresses: Array) -> None:
        """Set the addresses of the gradients in the launches; 0 leaves an array out."""
        self._quick = None
        self.rows[:, GRAD] = addresses
        known, self.launches = self.launches, NO_LAUNCHES  # until all is bound
        with self._on():
            self._single.clear()
            changed = [batch.bind(addresses[batch.rows], self._is_capturing) for batch in self._batches]
            if self.driver is not None and (any(changed) or len(known) < len(changed)):
                behind = [] if self.pass_sums is None else self.pass_sums.device.launches()
                known = np.array([*(batch.launch() for batch in self._batches), *behind], np.int64)
            self.launches = known
            if self._decision is not None:
                self._decision.arrange(self._batches, self.parameters.sizes, self.gradients.given)
            for sums in self._passes:
                sums.arrange(self.gradients.given)

    def _take_formats(self, formats: list[str]) -> None:
        """Gradients in another format than before get other kernels."""
        if self._unsettled and self._maker.recalls:  # what launches have kept is lost with them
            self.settle()
            self.hyper.fill(self.count, self.grad_scale)
        make(self.planned(self.hyper, self.scales, formats))

    def _on(self) -> AbstractContextManager[None]:
        return nullcontext() if device.current() == self.ordinal else device.on(self.ordinal)

    def _handle(self, stream: Any) -> int:
        """The stream to work on with the gradients that were bound."""
        return self.gradients.current_stream() if stream is None else streams.handle(stream)

    def _work(self) -> list[Any]:
        decision = [] if self._decision is None else [self._decision]
        return [*decision, *self._passes, *self._batches]

    def _send(self) -> None:
        """Copy changed tables and hyperparameters to the device."""
        if not self.setup.capturable and all(work.is_ready() for work in self._work()):
            return
        with self._on():
            for work in self._work():
                work.prepare(self._stream)

    @property
    def _decides(self) -> bool:
        """Whether something comes before the kernels of the step."""
        return self.reads_first or bool(self._passes)

    def decide(self) -> bool:
        """Measure the gradients and sum, if that is needed; False if the host learnt to skip."""
        if not self._decides:
            return True
        with self._on():
            if self._decision is not None:
                if self.reducer is LOCAL:
                    self._decision.start(self._stream)
                elif not self._take_measured(self._decision):
                    return False
            for sums in self._passes:
                sums.start(self._stream, self.reducer)
        if self.reducer is LOCAL or not self.decisions.may_skip:
            return True
        _, skipped, self._skipped = self._read_decision()
        return not skipped

    def _take_measured(self, decision: ClipDecision) -> bool:
        """Decide here, from the norm over all processes; False to skip the step."""
        size, finite = decision.norm_across(self._stream, self.reducer)
        factor = self.clip.conclude(size, finite, self.grad_scale, self.limit)
        if self.clip.last is None:
            raise AssertionError("a conclusion is written down")
        decision.control.take(self.clip.last.norm, factor or 0.0, self.clip.last.skipped)
        self._has_started = True
        return factor is not None

    def run(self, start: int, stop: int) -> None:
        """Launch the step of the elements from `start` to `stop`."""
        self._is_whole = is_whole = stop - start == self.parameters.size
        self._is_counted = is_whole and self._run_and_count()
        if not self._is_counted:
            with self._on():
                if is_whole:
                    for batch in self._batches:
                        batch.start(self._stream)
                    if self.pass_sums is not None:
                        self.pass_sums.device.start(self._stream)
                else:
                    for row, part in self.parameters.spans(start, stop):
                        if self.gradients.given[row]:
                            self._alone(row).start_part(part.start, part.stop, self._stream)
        self._has_started = True

    def _run_and_count(self) -> bool:
        """Launch and count the step of all elements in one call, if the host counts; else False."""
        if self.driver is None or not self._counts:
            return False
        arguments = self.driver, self.launches, self.rows, self._stream
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

    def _alone(self, row: int) -> OneArray:
        """The launches of an array that steps by itself."""
        launches = self._single.get(row)
        if launches is None:
            launches = self._maker.alone(row, self._batches, self.first)
            launches.bind(self.gradients.addresses[[row]])
            self._single[row] = launches
        return launches

    def end(self) -> None:
        """Count the step, if machine code did not."""
        if self.pass_sums is not None:
            self.pass_sums.finish(self._stream, self.reducer, in_parts=not self._is_whole)
        if not self._is_counted and self._counts:
            lags = np.add(self.lags, self.gradients.left_out)
            make([*self.counted(self.count + 1, lags.tolist())])
        if self.gradients.leaves_out:
            self.settle()
            self._note_scales()

    def set_grad_scale(self, grad_scale: Any) -> None:
        """Multiply the gradients of the next step by ``1 / grad_scale``."""
        super().set_grad_scale(grad_scale)
        self._note_scales()

    def _note_scales(self) -> None:
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
            self._note_scales()

    def advance(self, stream: Any) -> None:
        """Prepare the next replay of a graph that captured a step."""
        if not self.setup.capturable:
            super().advance(stream)
        self.settle()
        self.hyper.fill(self.count, self.grad_scale)
        self._stream = self._handle(stream)
        if self._decision is not None:
            limit = self.clip.limit_at(self.count)
            self._decision.set_numbers(1.0 / self.grad_scale, limit)
        for sums in self._passes:
            sums.set_numbers(self.count)
        self._send()
        self._unsettled = self._may_skip
        make(self.counted(self.count + 1, self.lags))

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

    def settle(self) -> None:
        """Count only the steps that were taken; waits for the device if that is not known."""
        if self._unsettled:
            _, last_skipped, skipped = self._read_decision()
            counts = self.table.counts.copy()
            counts[:, STEPS] -= skipped - self._skipped
            if last_skipped:  # whoever was left out of that step has counted a lag instead
                moved = counts[:, LAG] != self.rows[:, HYPER_LAG]
                counts[moved] += [1, -1]
            new = {"_skipped": skipped, "_since": 0, "_unsettled": False}
            make([put(self.table.counts, counts), partial(vars(self).update, new)])
        if self.table.lags_moved:
            make(self.lagging(self.lags))
