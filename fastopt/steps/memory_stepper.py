"""Steps over arrays in memory: compiled, or in plain Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fastopt.arrays.checks import Array
from fastopt.arrays.object_layout import headers_are_readable
from fastopt.changes import Change, make
from fastopt.codecs.base import BLOCK
from fastopt.codecs.formats import name_of
from fastopt.executors.cpu import drivers
from fastopt.executors.cpu.columns import FIRST, SKIPPED
from fastopt.executors.cpu.kernels import Kernel, kernel, source
from fastopt.executors.cpu.table import Table
from fastopt.executors.dispatch import (
    launcher,
    stepping,
    stepping_stretch,
    turn_for,
)
from fastopt.executors.norm import SUM_BLOCK, Reducer
from fastopt.kernels.numba_settings import compiles
from fastopt.steps.clip_pass import ClipPass
from fastopt.steps.clipping import NormClip
from fastopt.steps.gradients import Gradients, ListedGradients
from fastopt.steps.hyperparameters import Hyperparameters
from fastopt.steps.memory_sums import MemorySums
from fastopt.steps.parameter_set import ParameterSet
from fastopt.steps.pass_sums import BlockSums, block_sums
from fastopt.steps.sparse.entries import RowGradient
from fastopt.steps.sparse.row_stepper import RowStepper
from fastopt.steps.stepper import Setup, Stepper


class MemoryStepper(Stepper):
    """Steps from a table of addresses, which machine code goes through.

    A whole step of dense gradients is one call of machine code that does all there is in the life of
    a step. What it does not let through takes the way of `begin`, `decide`, `run` and `end`.
    """

    def __init__(
        self, parameters: ParameterSet, hyper: Hyperparameters, clip: NormClip, setup: Setup
    ) -> None:
        super().__init__(parameters, hyper, clip, setup)
        zero_grad = setup.zero_grad
        self.compiled = self.executor != "reference" and compiles()
        self.scales = clip.clip_norm is not None
        groups, group_of = parameters.groups, parameters.group_of
        sums = block_sums(groups, group_of, parameters.sizes, compiled=self.compiled)
        self.pass_sums: BlockSums | None = sums
        slots = parameters.slots
        if sums is not None:
            slots = [
                [*slots_of_row, blocks] for slots_of_row, blocks in zip(slots, sums.blocks, strict=True)
            ]
        self.table = Table(
            parameters.leaves,
            slots,
            parameters.headers,
            parameters.indices,
            setup.guarded,
            zero_grad,
            not setup.structure.is_leaf,
            self._kernels([leaf.dtype for leaf in parameters.leaves], self.scales),
            hyper.of_all(),
            BLOCK if sums is None else SUM_BLOCK,
        )
        self.rows, self.ranges = self.table.rows, self.table.ranges
        self.gradients = (ListedGradients if setup.listed else Gradients)(parameters, self.table, setup)
        self.by_header = self.compiled and headers_are_readable() and bool(parameters.leaves)
        checks_first = clip.is_on or (zero_grad and len(parameters.leaves) > 1)
        checks_first = checks_first or bool(self.decisions.passes)
        checks_first = checks_first or self._sums_may_be_of_rows
        self._in_one = self.by_header and not checks_first  # gradients are checked, then stepped
        self.also: list[Change] = []  # what is made together with the next step
        self.row_steps = RowStepper(
            setup.sparse, parameters, hyper, self.rows, self.executor, self.compiled
        )
        self._grads: list[object] = []  # the gradients of the step that was begun,
        self._sparse: Mapping[int, RowGradient] = {}  # and those among them that are sparse
        self._left = self._count_before = 0  # elements still to be stepped, and steps before
        how = self.table, hyper, self.executor, self.compiled, self.scales
        has_passes = bool(self.decisions.passes)
        self._clip_pass: ClipPass | None = None
        if clip.is_on:
            known = self.table, parameters.sizes
            self._clip_pass = ClipPass(clip, *known, self.executor, self.compiled)
        self.sums = MemorySums(self.decisions, parameters, *how) if has_passes else None
        if self.compiled:
            self.launch = launcher(self.executor, parameters.size)

    def _kernels(self, dtypes: Sequence[object], scales: bool) -> list[Kernel]:
        """The kernel of each row for gradients of these dtypes, compiled now if it is new."""
        if not self.compiled:
            return []
        names = [str(name_of(dtype)) for dtype in dtypes]
        return [kernel(self.parameters.job(row, name, scales)) for row, name in enumerate(names)]

    def planned(self, hyper: Hyperparameters, scales: bool) -> list[Change]:
        """What has kernels read these hyperparameters, and scale gradients or not."""
        kernels = self._kernels(self.table.dtypes, scales) if scales != self.scales else []
        return self.table.planned({}, kernels, hyper.of_all(), hyper.lags)

    def counted(self, count: int, lags: Sequence[int]) -> list[Change]:
        """What lets so many steps have been taken, and arrays left out of so many."""
        return self.table.counted(count, lags)

    @property
    def by_table(self) -> bool:
        """Whether gradients can be noted in the table."""
        return self.compiled

    @property
    def executor(self) -> str:
        """The option."""
        return self.setup.executor

    @property
    def count(self) -> int:  # type: ignore[override]  # an attribute on devices
        """Steps that were taken."""
        return self.table.count

    @property
    def lags(self) -> list[int]:  # type: ignore[override]
        """For each array, how many of them it was left out of."""
        return self.table.lags

    @property
    def source(self) -> str:
        """The fused loop over the first array."""
        return source(self.parameters.job(0, str(name_of(self.table.dtypes[0])), self.scales))

    def take_part(self, first: int, reducer: Reducer) -> None:
        """Step a part of what several processes have together."""
        self.rows[:, FIRST] += first - self.first
        self.first, self.reducer = first, reducer

    def step(self, grads: object, grad_scale: object, stream: object) -> None:
        """Take a step, or raise and change nothing."""
        if stream is not None:
            self._refuse(stream)
        if type(grad_scale) is not float or grad_scale != self.grad_scale or self.varies:
            self.prepare(grad_scale)
        gradients, items = self.gradients.enter(grads)
        if self.row_steps.lagging:
            self.row_steps.catch_up(gradients)
        if self._in_one:
            launch = self.launch  # in a name of its own: Python 3.11 would look for a method
            status = launch(self.rows, items, self.ranges)
            if status == -1:
                return
            if status == SKIPPED:
                self._keep_up()
                return
        self._check_first(gradients, items)
        if self.decide():
            self.run(0, self.parameters.size)
            self.end()

    def step_also(self, grads: object, grad_scale: object, also: list[Change]) -> None:
        """Take a step and make further changes with it: they must see if there was a step."""
        self.also = also
        if self.compiled:
            self.launch = self._launch_also
        self.step(grads, grad_scale, None)

    def _launch_also(self, rows: Array, items: int, ranges: Array) -> int:
        size = self.parameters.size
        threads, turn = turn_for(self.executor, [size])
        with turn:
            step = stepping(self.executor, size, threads, rows, items, ranges)
            status: int = make([step, *self.also, *self._to_be_made()])[0]
        return status

    @property
    def _sums_may_be_of_rows(self) -> bool:
        """Whether a step of whole arrays has to say that their sums are of blocks again."""
        return self.pass_sums is not None and self.setup.sparse is not None

    def _to_be_made(self) -> list[Change]:
        """What is to change with the last elements of the step that was begun."""
        if self.pass_sums is None or self.setup.sparse is None:
            return self.decisions.committed()
        dense = [i for i, g in enumerate(self._grads) if g is not None and i not in self._sparse]
        return [*self.pass_sums.of_blocks(dense), *self.decisions.committed()]

    def _refuse(self, stream: object) -> None:
        raise ValueError(
            f"stream must be None for arrays in memory, got {stream!r}: only a device has streams"
        )

    def begin(self, grads: object, grad_scale: object, stream: object = None) -> None:
        """Find and check the gradients, and get the hyperparameters of the step."""
        if stream is not None:
            self._refuse(stream)
        self.prepare(grad_scale)
        gradients, _ = self.gradients.enter(grads)
        if self.row_steps.lagging:
            self.row_steps.catch_up(gradients)
        self._count_before = count = self.count
        self.limit = self.clip.limit_at(count)
        self._check(gradients)

    def _check_first(self, gradients: list[object], items: int) -> None:
        """Check all gradients of a whole step, and sum their squares in the same pass if possible."""
        self._count_before = count = self.count
        self.limit = self.clip.limit_at(count)  # runs code of the caller's: before the check
        status = 0
        if self.by_header and not self._in_one:
            check = drivers.bind() if self._clip_pass is None else self._clip_pass.check
            status = check(self.rows, items, self.ranges)
        if status >= 0:
            self._check(gradients)
            return
        if self.setup.zero_grad and self.gradients.share_memory():
            self.gradients.check(gradients)  # raises the error
        self._take(gradients, {}, are_checked=True)
        self.table.may_lag = status == SKIPPED or not gradients  # noted ones were not looked at

    def _check(self, gradients: list[object]) -> None:
        """Check the gradients, or raise; switch kernels for gradients whose format has changed."""
        if self._keep_up() and self.varies:  # the step before was interrupted at its end
            self.hyper.fill(self.count, self.grad_scale)
        sparse, others, changes = self.gradients.check(gradients)
        if others:
            dtypes = [others.get(row, dtype) for row, dtype in enumerate(self.table.dtypes)]
            changes += self.table.planned(others, self._kernels(dtypes, self.scales))
        make(changes)
        self._take(gradients, sparse, are_checked=False)
        self.table.may_lag = True
        self.row_steps.prepare(sparse, self.hyper)

    def _take(
        self, gradients: list[object], sparse: Mapping[int, RowGradient], *, are_checked: bool
    ) -> None:
        """Have the step take these; where there is a pass for clipping, `are_checked` is by it."""
        self._grads, self._sparse, self._left = gradients, sparse, self.parameters.size
        if self._clip_pass is not None:
            self._clip_pass.is_measured = are_checked

    def decide(self) -> bool:
        """Where anything is summed before the step, read what is needed; False to skip the step."""
        if self._clip_pass is not None and not self._decide_from_gradients(self._clip_pass):
            self._release()
            return False
        if self.sums is not None and not self._decide_from_sums(self.sums):
            self._release()
            return False
        return True

    def _decide_from_gradients(self, clip_pass: ClipPass) -> bool:
        how = self.hyper, self.grad_scale, self.limit, self.reducer
        return clip_pass.decide(self._grads, self._sparse, *how)

    def _decide_from_sums(self, sums: MemorySums) -> bool:
        how = self.hyper, self.scales, self.reducer, self.pass_sums
        return sums.decide(self._grads, self._sparse, self.row_steps, *how)

    def run(self, start: int, stop: int) -> None:
        """Step the elements from `start` to `stop`; of sparse gradients whole arrays only."""
        left = self._left - (stop - start)
        if left < 0:  # nothing more of no elements
            return
        if self.compiled and stop - start == self.parameters.size and self._grads and not self._sparse:
            makes_more = self.decisions.carries or self._sums_may_be_of_rows
            launch = self._launch_also if makes_more else self.launch
            launch(self.rows, self.gradients.zero_items, self.ranges)  # counts the step
        else:
            self._run_stretch(start, stop, is_last=left == 0)
        self._left = left or -1

    def _run_stretch(self, start: int, stop: int, *, is_last: bool) -> None:
        firsts, end = self.parameters.firsts, self.parameters.size
        sparse = {
            i: row_gradient
            for i, row_gradient in self._sparse.items()
            if (start <= firsts[i] < stop or firsts[i] == stop == end)
            and firsts[i] + self.parameters.sizes[i] <= stop
        }
        dense = [None if i in self._sparse else grad for i, grad in enumerate(self._grads)]
        has_dense = len(self._sparse) < len(dense)
        sizes = [stop - start] * has_dense + self.row_steps.sizes(sparse)
        threads, turn = turn_for(self.executor, sizes if self.compiled else [])
        with turn:
            clears, adds = self.setup.zero_grad, self.pass_sums
            changes = self.row_steps.stepped(sparse, self.hyper, clears, threads, adds)
            if not self.compiled:
                sums = [] if self.pass_sums is None else self.pass_sums.blocks
                where = self.first, start, stop
                changes += self.parameters.interpret(dense, self.hyper, *where, sums=sums)
            elif has_dense:
                changes.append(stepping_stretch(self.executor, threads, self.rows, start, stop))
            if is_last:  # the step is counted, whatever comes between this and `end`
                changes += [*self._step_counted(), *self.also, *self._to_be_made()]
            make(changes)
        self.row_steps.note_lagging()

    def _step_counted(self) -> list[Change]:
        lags = [
            lag + int(grad is None and size > 0)
            for lag, grad, size in zip(self.lags, self._grads, self.parameters.sizes, strict=True)
        ]
        return self.counted(self._count_before + 1, lags)

    def end(self) -> None:
        """Count the step, if the last elements did not do so."""
        if self._left >= 0:
            make([*self._step_counted(), *self._to_be_made()])
        if self.pass_sums is not None:
            make(self.pass_sums.reduced(self.reducer))
        self._release()
        if self.table.may_lag:
            self._keep_up()

    def _release(self) -> None:
        """Leave the gradients to their owner."""
        self._grads, self._sparse = [], {}

    def _keep_up(self) -> bool:
        """Let arrays that were left out have the hyperparameters of their step; if there are any."""
        if not self.table.lags_moved:
            return False
        make(self.lagging(self.lags))
        return True

    @property
    def params_behind(self) -> bool:
        """Whether parameters lag behind those of dense steps."""
        return self.row_steps.params_behind

    def catch_up(self, rows: Mapping[int, Array] | None = None) -> None:
        """Bring lagging rows up to date: some rows of some parameters, or all."""
        if rows is not None:
            self.row_steps.catch_up_rows(rows)
        elif self.row_steps.lagging:
            self.row_steps.catch_up()
