"""Steps over arrays in memory: compiled, or in plain Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numba

from fastopt.arrays.checks import Array, Range
from fastopt.arrays.tree import Structure
from fastopt.changes import Change, make
from fastopt.codecs.formats import name_of
from fastopt.executors.cpu import drivers
from fastopt.executors.cpu.header_check import SKIPPED, headers_are_readable
from fastopt.executors.cpu.kernels import Kernel, kernel, source
from fastopt.executors.cpu.table import Table
from fastopt.executors.dispatch import allowed, launcher, stepping
from fastopt.steps.clipping import NormClip
from fastopt.steps.gradients import Gradients
from fastopt.steps.hyperparameters import Hyperparameters
from fastopt.steps.parameter_set import ParameterSet
from fastopt.steps.sparse.entries import RowGradient
from fastopt.steps.sparse.row_stepper import RowStepper
from fastopt.steps.stepper import Stepper


class MemoryStepper(Stepper):
    """Steps from a table of addresses, which machine code goes through.

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
    sparse : str, optional
        How gradients of some rows are taken.
    executor : str
    takes : type
        What finds and checks the gradients.
    """

    def __init__(
        self,
        work: ParameterSet,
        hyper: Hyperparameters,
        watch: NormClip,
        *,
        structure: Structure,
        guarded: list[Range],
        zero_grad: bool,
        sparse: str | None,
        executor: str,
        takes: type[Gradients],
    ) -> None:
        super().__init__(work, hyper, watch)
        self._zero_grad, self.executor = zero_grad, executor
        self.table = Table(
            work.leaves, work.slots, work.headers, guarded, zero_grad, not structure.is_leaf
        )
        self.rows, self.ranges = self.table.rows, self.table.ranges
        self.gradients = takes(structure, work, self.table, guarded, zero_grad, sparse)
        self.scales = watch.clip_norm is not None
        self._looks_first = watch.is_on or (zero_grad and len(work.leaves) > 1)
        self.compiled = executor != "reference" and not numba.config.DISABLE_JIT
        self.by_header = self.compiled and headers_are_readable() and bool(work.leaves)
        self.also: list[Change] = []  # what is made together with the next step
        self.row_steps = RowStepper(sparse, work, hyper, self.rows, executor, self.compiled)
        kernels = self._kernels(self.table.dtypes, self.scales)
        make(self.table.planned({}, kernels, *self._numbers(hyper)))
        if self.compiled:
            self.launch = launcher(executor, self.table.size)
            watch.prepare(executor, [leaf.size for leaf in work.leaves])

    def _kernels(self, dtypes: Sequence[Any], scales: bool) -> list[Kernel]:
        """The kernel of each row for gradients of these dtypes, compiled now if it is new."""
        if not self.compiled:
            return []
        names = [str(name_of(dtype)) for dtype in dtypes]
        return [kernel(self.work.job(row, name, scales)) for row, name in enumerate(names)]

    def _numbers(self, hyper: Hyperparameters) -> tuple[list[Array], list[int]]:
        return [hyper.of(row) for row in range(len(self.rows))], hyper.lags

    def planned(self, hyper: Hyperparameters, scales: bool) -> list[Change]:
        """What has steps read the numbers in these places, with kernels that scale gradients or not."""
        kernels = self._kernels(self.table.dtypes, scales) if scales != self.scales else []
        return self.table.planned({}, kernels, *self._numbers(hyper))

    def counted(self, count: int, lags: Sequence[int]) -> list[Change]:
        """What lets so many steps have been taken, and arrays left out of so many."""
        return self.table.counted(count, lags)

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
        return source(self.work.job(0, str(name_of(self.table.dtypes[0])), self.scales))

    def step(self, grads: Any, grad_scale: Any, stream: Any) -> None:
        """Take a step, or raise and change nothing."""
        if stream is not None:
            self.refuse(stream)
        if type(grad_scale) is not float or grad_scale != self.grad_scale or self.varies:
            self.begin(grad_scale)
        found, items = self.gradients.enter(grads)
        if self.row_steps.behind:
            self.row_steps.catch_up(found)
        if self._looks_first:
            self._step_in_two(found, items)
            return
        if self.by_header:
            launch = self.launch  # in a name of its own: Python 3.11 would look for a method
            status = launch(self.rows, items, self.ranges)
            if status == -1:
                return
            if status == SKIPPED:
                self.keep_up()
                return
        sparse = self.check(found)
        self._run(found, sparse)
        self.keep_up()

    def launch_also(self, rows: Array, items: int, ranges: Array) -> int:
        """As `launch`, with what else is to be made: it must see by itself whether there was a step."""
        with allowed(self.executor, [self.table.size]) as threads:
            step = stepping(self.executor, self.table.size, threads, rows, items, ranges)
            status: int = make([step, *self.also])[0]
        return status

    def refuse(self, stream: Any) -> None:
        """See that no stream was given."""
        if stream is not None:
            raise ValueError(
                f"stream must be None for arrays in memory, got {stream!r}: only a device has streams"
            )

    def begin(self, grad_scale: Any) -> None:
        """Have the numbers of the next step, or raise."""
        if type(grad_scale) is not float or grad_scale != self.grad_scale:
            self.set_grad_scale(grad_scale)
        elif self.varies:
            self.hyper.fill(self.count, grad_scale)

    def check(self, found: list[Any]) -> Mapping[int, RowGradient]:
        """Check the gradients, or raise; gradients in another format than before get other kernels."""
        if self.keep_up() and self.varies:  # the step before was interrupted at its end
            self.hyper.fill(self.count, self.grad_scale)
        sparse, others, noted = self.gradients.check(found)
        if others:
            dtypes = [others.get(row, dtype) for row, dtype in enumerate(self.table.dtypes)]
            noted += self.table.planned(others, self._kernels(dtypes, self.scales))
        make(noted)
        return sparse

    def _run(self, found: list[Any], sparse: Mapping[int, RowGradient]) -> None:
        """Step with gradients that were checked and whose addresses are in the table; count it."""
        self.row_steps.look_ahead(sparse, self.hyper)
        if self.compiled and found and not sparse:
            self.launch(self.rows, self.gradients.known, self.ranges)
            return
        dense = [None if i in sparse else grad for i, grad in enumerate(found)]
        sizes = [self.table.size] if len(sparse) < len(found) else []
        sizes += self.row_steps.sizes(sparse)
        with allowed(self.executor, sizes if self.compiled else []) as threads:
            changes = self.row_steps.stepped(sparse, self.hyper, self._zero_grad, threads)
            if not self.compiled:
                changes += self.work.interpret(dense, self.hyper)
            elif len(sparse) < len(found):
                arguments = self.rows, self.gradients.known, self.ranges
                changes.append(stepping(self.executor, self.table.size, threads, *arguments))
            make([*changes, *self._stepped(dense, sparse), *self.also])
        self.row_steps.look_back()

    def _stepped(self, dense: list[Any], sparse: Mapping[int, RowGradient]) -> list[Change]:
        """What counts a step of these arrays."""
        given = [i in sparse or own is not None for i, own in enumerate(dense)]
        lags = [
            lag + int(not own and leaf.size > 0)
            for lag, own, leaf in zip(self.lags, given, self.work.leaves, strict=True)
        ]
        return self.counted(self.count + 1, lags)

    def keep_up(self) -> bool:
        """Let arrays that were left out have the numbers of their own step; whether there are any."""
        if not self.table.lags_moved:
            return False
        make(self.lagging(self.lags))
        return True

    def _step_in_two(self, found: list[Any], items: int) -> None:
        """Look at all gradients first, to measure them or see that they can be cleared; then step."""
        limit = self.watch.limit_at(self.count)  # runs code of the caller's: before the look
        status = self._look(items) if self.by_header else 0
        sparse: Mapping[int, RowGradient] = {}
        if status >= 0:
            sparse = self.check(found)
            self._look(self.gradients.known)
        elif self._zero_grad and self.gradients.share_memory():
            self.gradients.check(found)  # raises the error
        if self.watch.is_on:
            looked = [sparse[i].once() if i in sparse else grad for i, grad in enumerate(found)]
            if not self.compiled:
                self.watch.look_in_python(looked)
            elif sparse:
                self.watch.look_at(looked)
            factor = self.watch.decide(looked, self.grad_scale, limit)
            if factor is None:
                return
            self.hyper.scale_gradients(factor)
        self._run(found, sparse)
        self.keep_up()

    def _look(self, items: int) -> int:
        """Note the gradients' addresses, and sum their squares if the norm is wanted."""
        if not self.compiled:
            return -1
        if self.watch.is_on:
            return self.watch.look(self.rows, items, self.ranges)
        return drivers.bind()(self.rows, items, self.ranges)

    def measure(self, found: list[Any]) -> None:
        """Sum the squares of gradients that were checked."""
        if self.compiled:
            self._look(self.gradients.known)
        else:
            self.watch.look_in_python(found)

    def advance(self, stream: Any) -> None:
        """There are no graphs in memory."""
        raise ValueError("advance is for an optimizer made with capturable=True, on a device")

    @property
    def params_behind(self) -> bool:
        """Whether parameters are not what they are with dense gradients."""
        return self.row_steps.params_behind

    def catch_up(self, rows: Mapping[int, Array] | None = None) -> None:
        """Bring up to date what had no gradient lately: some rows of some parameters, or all."""
        if rows is not None:
            self.row_steps.catch_up_rows(rows)
        elif self.row_steps.behind:
            self.row_steps.catch_up()

    def settle(self) -> None:
        """What was counted was taken."""
