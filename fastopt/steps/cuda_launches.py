"""What a step on a CUDA device launches, and the arrays there that the launches read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import numpy as np

from fastopt.arrays.checks import Array
from fastopt.changes import Change, assign
from fastopt.executors.cpu.table import CountedTable
from fastopt.executors.cuda import device
from fastopt.executors.cuda.batches import Batch
from fastopt.executors.cuda.launches import NOT_CAPTURABLE, NOT_PREPARED
from fastopt.executors.cuda.one_array import OneArray
from fastopt.executors.cuda.pass_launches import StepTotals
from fastopt.executors.launching import BLOCKS
from fastopt.executors.norm import Reducer
from fastopt.steps.cuda_batches import BatchMaker
from fastopt.steps.cuda_lags import have_moved
from fastopt.steps.cuda_sums import DevicePass
from fastopt.steps.hyperparameters import Hyperparameters

NO_LAUNCHES = np.zeros((0, 4), np.int64)


class StepLaunches:
    """The launches of a step: of the sums of transforms, of all arrays, of totals.

    Parameters
    ----------
    maker : BatchMaker
    totals : StepTotals or None
        The launches that add up what a step's kernels have stored.
    ordinal : int
        The number of the device.
    compiled : bool
        Whether compiled code starts them.

    Attributes
    ----------
    table : array
        All of them, as compiled code reads them (`executors.launching`).
    is_alone : bool
        Whether the table has those of `passes`: no other process adds to the sums.
    batches : list of Batch
        Those of the arrays.
    passes : list of DevicePass
        Those of the sums of transforms.
    parts : list
        What is sent to the device before a step: `passes` and `batches`.
    """

    def __init__(
        self,
        maker: BatchMaker,
        totals: StepTotals | None,
        ordinal: int,
        compiled: bool,
    ) -> None:
        self._maker, self._totals = maker, totals
        self._ordinal, self._compiled, self._capturable = ordinal, compiled, maker.capturable
        self.table: Array = NO_LAUNCHES
        self.is_alone = True
        self.passes: list[DevicePass] = []
        self.batches: list[Batch] = []
        self.parts: list[Any] = []
        self._known: dict[Any, Batch] = {}  # the batches, by all that they depend on
        self._single: dict[int, OneArray] = {}  # of rows that are stepped by themselves
        self._stream: int | None = None  # that was asked for captures last
        self._summed_alone: bool | None = None  # as `is_alone` was when the passes were made
        self._of_graphs: list[Any] = []  # what they read must stay

    def on(self) -> AbstractContextManager[None]:
        """Work with the device for a while."""
        same = device.current() == self._ordinal
        return nullcontext() if same else device.on(self._ordinal)

    def captures(self, stream: int) -> bool:
        """Whether a graph is captured on a stream; raises if it would have fixed hyperparameters."""
        self._stream = stream
        with self.on():
            capturing = device.is_capturing(stream)
        if capturing and not self._capturable:
            raise RuntimeError(NOT_CAPTURABLE)
        return capturing

    def planned(
        self, hyper: Hyperparameters, scales: bool, formats: Sequence[str], first: int
    ) -> list[Change]:
        """The changes that sort arrays with the same hyperparameters into batches.

        `formats` are those of the gradients, and `first` is the index of the first element. Raises
        while a graph is captured, which must not load kernels.
        """
        if self._stream is not None and self.captures(self._stream):
            raise RuntimeError(NOT_PREPARED)
        with device.on(self._ordinal):
            known = self._maker.batches(self._known, hyper, scales, formats, first)
            batches, passes = list(known.values()), self.passes
            if batches != self.batches or self._summed_alone != self.is_alone:
                passes = self._maker.passes(known, hyper, self.is_alone)
        new: dict[str, object] = {"_known": known, "batches": batches, "passes": passes, "_single": {}}
        new |= {"parts": [*passes, *batches], "table": NO_LAUNCHES, "_summed_alone": self.is_alone}
        return [partial(vars(self).update, new), *(assign(each, "hyper", hyper) for each in passes)]

    def forget(self) -> None:
        """Forget the gradients that are bound: compiled code has written others."""
        for batch in self.batches:
            batch.forget()

    def bind(self, addresses: Array, has_gradient: Sequence[bool], capturing: bool) -> None:
        """Set the addresses of the gradients; 0 leaves an array out."""
        known, self.table = self.table, NO_LAUNCHES  # until all is bound
        with self.on():
            self._single.clear()
            changed = [batch.bind(addresses[batch.rows], capturing) for batch in self.batches]
            for sums in self.passes:
                sums.arrange(has_gradient)
            if self._compiled and (any(changed) or self.passes or len(known) < len(changed)):
                known = self._all()
            self.table = known

    def _all(self) -> Array:
        """The launches of a step, as compiled code reads them."""
        front = [row for sums in self.passes for row in sums.launches()] if self.is_alone else []
        behind = [] if self._totals is None else self._totals.launches()
        launches = [*front, *(batch.launch() for batch in self.batches), *behind]
        return np.array(launches, np.int64) if launches else NO_LAUNCHES

    def set_numbers(self, count: int) -> None:
        """Have sums concluded with the hyperparameters of the step after so many."""
        for sums in self.passes:
            sums.set_numbers(count)

    def expect(self, step: int, skipped: int) -> None:
        """Set the step count that launches assume, and the number of skipped steps that it is for."""
        for part in [*self.parts, *self._single.values()]:
            part.expect(step, skipped)

    def prepare(self, stream: int) -> None:
        """Copy changed tables and hyperparameters to the device."""
        with self.on():
            for part in self.parts:
                part.prepare(stream)

    def prepare_replay(
        self, stream: int, table: CountedTable, left_out: Sequence[bool], depends: bool
    ) -> None:
        """As `prepare`, for the last graph that was captured, which left out some arrays.

        Raises if it reads what is not sent; `depends` says whether that depends on the step.
        """
        if self.captures(stream):
            raise RuntimeError("advance comes before each replay of a graph, and is not captured in it")
        _, passes, batches = self._of_graphs[-1] if self._of_graphs else ([], [], [])
        is_fed = {*map(id, [*passes, *batches])} <= {*map(id, self.parts)}
        if depends and (not is_fed or have_moved(table, np.logical_not(left_out))):
            raise RuntimeError(
                "the captured step has other launches than steps have now, since gradients were "
                "missing or grad_scale or dtypes have changed: capture it anew"
            )
        self.prepare(stream)

    def is_ready(self) -> bool:
        """Whether no copy is needed but those that a graph can record."""
        return all(part.is_ready() for part in self.parts)

    def record(self, stream: int) -> None:
        """Let the graph that is captured copy what launches read; raises if there is more to do."""
        if not self.is_ready():
            raise RuntimeError(NOT_PREPARED)
        stepped = [batch for batch in self.batches if batch.launch()[BLOCKS]]
        self._of_graphs.append((self.batches, self.passes, stepped))
        with self.on():
            for part in self.parts:
                part.record(stream)

    def decide(self, stream: int, reducer: Reducer) -> None:
        """Start what comes before the step."""
        for sums in self.passes:
            sums.start(stream, reducer)

    def start(self, stream: int) -> None:
        """Step all arrays, and add up what is stored meanwhile."""
        for batch in self.batches:
            batch.start(stream)
        if self._totals is not None:
            self._totals.start(stream)

    def start_parts(
        self, spans: Iterable[tuple[int, slice]], gradients: Array, first: int, stream: int
    ) -> None:
        """Step parts of arrays, whose gradients are at these addresses."""
        for row, part in spans:
            if gradients[row]:
                launches = self.alone(row, first, gradients[[row]])
                launches.start_part(part.start, part.stop, stream)

    def alone(self, row: int, first: int, gradient: Array) -> OneArray:
        """The launches of an array that steps by itself, with the address of its gradient."""
        launches = self._single.get(row)
        if launches is None:
            launches = self._maker.alone(row, self.batches, first)
            launches.bind(gradient)
            self._single[row] = launches
        return launches
