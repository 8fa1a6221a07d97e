"""The sums of transforms on a CUDA device, and what follows from them there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from fastopt.arrays.checks import Array
from fastopt.executors.cuda import device
from fastopt.executors.cuda.batches import Batch
from fastopt.executors.cuda.kernel_source import KernelVariant
from fastopt.executors.cuda.launches import LaunchRow, StagedTable
from fastopt.executors.cuda.pass_launches import StepTotals
from fastopt.executors.cuda.sum_kernels import conclude, sum_kernels
from fastopt.executors.cuda.sum_launches import Adding, Conclusion, PassMemory
from fastopt.executors.cuda.sum_source import ADD, ALL, FOLLOW
from fastopt.executors.norm import LOCAL, Reducer, blocks_of
from fastopt.kernels.job import Job
from fastopt.steps.hyperparameters import Entry, Hyperparameters
from fastopt.steps.parameter_set import ParameterSet, sum_job
from fastopt.steps.sums import Carried, Decisions, SumPass
from fastopt.transforms.base import Part, sums_in


class DeviceDecisions(Decisions):
    """The decisions that follow from sums, made and kept on the current device.

    The carried numbers are there twice, for steps of even and of odd number: a step reads those of its
    number and leaves the others to the next. So a step that is not counted has changed nothing.

    Parameters
    ----------
    parameters : ParameterSet
    count : callable
        Gives the number of steps that were taken.
    step_totals : StepTotals or None
        What the step before has added up.

    Attributes
    ----------
    decided : sequence of int
        For each array, the address of its hyperparameters that follow from sums.
    """

    def __init__(
        self, parameters: ParameterSet, count: Callable[[], int], step_totals: StepTotals | None
    ) -> None:
        self._count, self._memory, self._ordinal = count, list[PassMemory](), device.current()
        self._in_memory: Carried = []  # what was set last
        super().__init__(parameters.groups, parameters.group_of)
        parts = [[p for p in group.parts if p.sums is not None] for group in parameters.groups]
        self.decided: Sequence[int] = [0] * len(parameters.leaves)
        if self.passes:
            stride = max(sum(part.hypers for part in with_sums) for with_sums in parts)
            size = max(stride * len(parameters.leaves), 1)
            self._room = device.allocate((size,), np.dtype(np.float64))
            self.decided = [
                self._room.address + 8 * stride * row for row in range(len(parameters.leaves))
            ]
            self._memory = [
                PassMemory(
                    sum_pass.sums + sum_pass.count_after,
                    _capacity(sum_pass, parameters),
                    table,
                    _totals_of(sum_pass, parameters, step_totals),
                )
                for sum_pass, table in zip(self.passes, self._in_memory, strict=True)
            ]

    @property
    def carried(self) -> Carried:
        """The carried numbers, as of `Decisions`; synchronizes."""
        if not (self._memory and self.carries):
            return self._in_memory
        with device.on(self._ordinal):
            return [memory.carried(self._count()) for memory in self._memory]

    @carried.setter
    def carried(self, carried: Carried) -> None:
        self._in_memory = carried
        with device.on(self._ordinal):
            for memory, table in zip(self._memory, carried, strict=False):
                memory.carry(table)

    def keep(self) -> None:
        """Let the next step read the carried numbers of now, whatever its number."""
        if self.carries:
            self.carried = self.carried  # a property: both copies become equal

    def memory(self, number: int) -> PassMemory:
        """The device memory of a pass."""
        return self._memory[number]


def _totals_of(sum_pass: SumPass, parameters: ParameterSet, totals: StepTotals | None) -> Array:
    """Where a pass finds what the step before has added up: for each array, an address."""
    if not sum_pass.count_after or totals is None:
        return np.zeros(0, np.int64)
    _, arrays = totals.shape
    rows = [
        (row, sum_pass.after[g]) for row, g in enumerate(parameters.group_of) if g in sum_pass.positions
    ]
    return np.array([totals.totals_at + 8 * (k * arrays + row) for row, k in rows], np.int64)


def _capacity(sum_pass: SumPass, parameters: ParameterSet) -> int:
    """The most sums of blocks that a pass can have."""
    sizes = zip(parameters.sizes, parameters.group_of, strict=True)
    counts = [blocks_of(size) for size, group in sizes if group in sum_pass.positions]
    needed = sum(max(count, 1) for count in counts) if sum_pass.per_array else sum(counts)
    return max(needed, len(counts) if sum_pass.count_after else 1)


class Shared(NamedTuple):
    """What the launches of all passes have in common."""

    decisions: DeviceDecisions
    parameters: ParameterSet
    hyper: Hyperparameters
    control: int  # the address of what was decided about the step, 0 if nothing is
    form: KernelVariant  # of the kernels that sum, as far as it is the same for all passes


class DevicePass(ABC):
    """The launches of one pass.

    Parameters
    ----------
    sum_pass : SumPass
    memory : PassMemory
    parameters : ParameterSet
    hyper : Hyperparameters
        Others with buffers for the same arrays may take their place.
    """

    def __init__(
        self, sum_pass: SumPass, memory: PassMemory, parameters: ParameterSet, hyper: Hyperparameters
    ) -> None:
        self._pass, self._memory, self._parameters = sum_pass, memory, parameters
        self.hyper = hyper
        self._adding: list[Adding] = []
        self._concluding: list[Conclusion] = []
        self._of_graphs: list[list[Any]] = []

    def arrange(self, has_gradient: Sequence[bool]) -> None:
        """Prepare the launches for the gradients that were bound."""
        sizes, positions = self._parameters.sizes, self._pass.positions
        rows = zip(sizes, has_gradient, self._parameters.group_of, strict=True)
        counts = [blocks_of(size) * (has and g in positions) for size, has, g in rows]
        per_array = self._pass.per_array
        places = [
            max(count, 1) if per_array and g in positions else count
            for count, g in zip(counts, self._parameters.group_of, strict=True)
        ]
        firsts = list(accumulate(places, initial=0))
        used = [row for row, g in enumerate(self._parameters.group_of) if g in positions]
        for adding in self._adding:
            adding.arrange(sizes, counts, firsts)
        # As for step counts and in memory, no array without elements is left out.
        has_gradient = [has or not size for has, size in zip(has_gradient, sizes, strict=True)]
        for conclusion in self._concluding:
            conclusion.arrange(counts, firsts, has_gradient, used)
        self._places = [firsts[row] for row in used] if per_array else [0]

    def set_numbers(self, count: int) -> None:
        """Take over the hyperparameters of the step after so many, which were filled in."""
        for index, conclusion in enumerate(self._concluding):
            conclusion.settings[0] = count % 2
            conclusion.settings[1:] = self._numbers(index)

    @abstractmethod
    def _numbers(self, index: int) -> Sequence[float]:
        """What a conclusion gets from the host, as of the last step that was filled in."""

    def expect(self, step: int, skipped: int) -> None:
        """Set the step count that launches assume, and the number of skipped steps that it is for."""
        for adding in self._adding:
            adding.expect(step, skipped)
        for conclusion in self._concluding:
            conclusion.expect(step, skipped)

    def is_ready(self) -> bool:
        """Whether a launch can be captured: at most hyperparameters are to be copied to the device."""
        return all(table.is_current for table in self._tables())

    def prepare(self, stream: int) -> None:
        """Copy changed tables and hyperparameters to the device."""
        for table in self._tables():
            if not table.is_current:
                table.send(stream)
        for conclusion in self._concluding:
            conclusion.send(stream)

    def _tables(self) -> list[StagedTable]:
        tables = [adding.table for adding in self._adding if adding.table is not None]
        return [*tables, *(conclusion.table for conclusion in self._concluding)]

    def record(self, stream: int) -> None:
        """Keep what the graph that is captured on a stream reads."""
        self._of_graphs.append(self._tables())  # others may be in their place later
        for table in self._tables():
            table.keep()

    def launches(self) -> list[LaunchRow]:
        """What `start` launches in a single process, for compiled code."""
        adding = [row for each in self._adding for row in each.launches()]
        return [*adding, *(conclusion.launch() for conclusion in self._concluding)]

    def start(self, stream: int, reducer: Reducer) -> None:
        """Sum, and compute the hyperparameters that follow."""
        for adding in self._adding:
            adding.start(stream)
        if reducer is LOCAL:
            for conclusion in self._concluding:
                conclusion.start(stream)
            return
        for conclusion in self._concluding:
            if conclusion.mode == ALL:
                conclusion.start(stream, ADD)
        sums = self._memory.sums()
        for row in sums[: self._pass.sums]:  # those of the step before are of all processes
            for place in self._places:
                row[place] = reducer.sum(float(row[place]))
        self._memory.replace_sums(sums)
        for conclusion in self._concluding:
            conclusion.start(stream, FOLLOW)


class ChainPass(DevicePass):
    """The launches of one pass for transforms of the chain.

    Parameters
    ----------
    number : int
    shared : Shared
    work : sequence of (Batch, Job)
        The batches of the step.
    """

    def __init__(self, number: int, shared: Shared, work: Sequence[tuple[Batch, Job]]) -> None:
        decisions, parameters = shared.decisions, shared.parameters
        super().__init__(decisions.passes[number], decisions.memory(number), parameters, shared.hyper)
        self._decisions, positions = decisions, self._pass.positions
        self._settings: list[tuple[Entry, slice]] = []  # of each conclusion: where they come from
        earlier = [
            decisions.part(sum_pass, g)[1]
            for sum_pass in decisions.passes[:number]
            for g in sum_pass.positions
        ]
        form = shared.form._replace(skips=any(sums_in(part).skips for part in earlier))
        self._adding += [
            self._adds(batch, job, shared.control, form)
            for batch, job in work
            if self._pass.sums and parameters.group_of[batch.rows[0]] in positions
        ]
        # A launch that comes after one that can skip the step asks whether it did.
        form = form._replace(clipped=False, skips=form.may_skip)
        for entry in shared.hyper.entries():
            if entry.group in positions:
                first, part = decisions.part(self._pass, entry.group)
                conclusion = self._concludes(entry, part, shared.control, form)
                self._settings.append((entry, slice(first, first + part.from_host)))
                self._concluding.append(conclusion)
                form = form._replace(skips=form.skips or sums_in(part).skips)

    def _adds(self, batch: Batch, job: Job, control: int, form: KernelVariant) -> Adding:
        position = self._pass.positions[self._parameters.group_of[batch.rows[0]]]
        kernels = sum_kernels(sum_job(job, position), form, device.architecture())
        decided = self._decisions.decided[batch.rows[0]]
        return Adding(batch, kernels, control, self._memory, decided)

    def _numbers(self, index: int) -> Sequence[float]:
        entry, settings = self._settings[index]
        return self.hyper.from_host(entry)[settings]

    def _concludes(self, entry: Entry, part: Part, control: int, form: KernelVariant) -> Conclusion:
        dtype, per_array = entry.buffers[0].dtype, self._pass.per_array
        earlier = self._parameters.groups[entry.group].parts[: self._pass.positions[entry.group]]
        offset = dtype.itemsize * sum(part.hypers for part in earlier if part.sums is not None)
        # The first one of a pass over all arrays adds up the sums, and the others find them.
        mode = ALL if per_array or not self._concluding else FOLLOW
        return Conclusion(
            conclude(part, form, control != 0, dtype.name, device.architecture()),
            1 + part.from_host,
            form,
            per_array,
            sums_in(part).skips,
            mode,
            self._memory,
            control,
            len(self._parameters.leaves),
            entry.rows,
            [self._decisions.decided[row] + offset for row in entry.rows],
            [row if per_array else entry.group for row in entry.rows],
        )
