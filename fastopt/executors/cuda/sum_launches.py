"""The launches for the sums of a transform: what adds them up, and what follows from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from fastopt.arrays.checks import Array
from fastopt.executors.cuda import device
from fastopt.executors.cuda.batches import Batch
from fastopt.executors.cuda.kernel_source import KEPT, KernelVariant
from fastopt.executors.cuda.launches import Launch, LaunchHyper, LaunchRow, StagedTable
from fastopt.executors.cuda.many_arrays import ManyArrays
from fastopt.executors.cuda.one_array import OneArray
from fastopt.executors.cuda.programs import Program
from fastopt.executors.cuda.sum_kernels import SumKernels
from fastopt.executors.cuda.sum_source import ROW_WORDS
from fastopt.executors.cuda.tree_sum import CHUNK_WORDS, SUM_THREADS, THREADS
from fastopt.executors.norm import SUM_BLOCK


def chunk_table(
    batch: ManyArrays, sizes: Sequence[int], counts: Sequence[int], firsts: Sequence[int]
) -> Array:
    """For each block of elements of these arrays: address of the row, start, length, and its index.

    The arrays of the optimizer have `sizes`, as many blocks as `counts` says, and the first one at
    `firsts`.
    """
    chunks = [np.zeros((0, CHUNK_WORDS), np.int64)]
    for index, row in enumerate(batch.rows):
        block = np.arange(counts[row], dtype=np.int64)
        starts = block * SUM_BLOCK
        lengths = np.minimum(sizes[row] - starts, SUM_BLOCK)
        at = np.full_like(block, batch.row_address(index))
        chunks.append(np.stack([at, starts, lengths, firsts[row] + block], axis=1))
    return np.concatenate(chunks)


class PassMemory:
    """The device memory of a pass: the sums of all blocks, and the carried numbers.

    Parameters
    ----------
    sums : int
        How many sums there are.
    capacity : int
        The number of blocks of elements of all arrays.
    carried : array of shape (holders, numbers)
        The carried numbers of the first step.
    totals : array of int
        For each array, the address of what the step before has added up; empty if that is not needed.

    Attributes
    ----------
    sums_at, carried_at, totals_at : int
        Addresses.
    totals : int
        How many arrays' totals of the step before there are.
    capacity : int
    numbers : int
        Carried numbers of each holder.
    stride : int
        Carried numbers that a step reads; those that it leaves to the next follow or precede them.
    """

    def __init__(self, sums: int, capacity: int, carried: Array, totals: Array) -> None:
        self.capacity, self._shape, self.stride = capacity, carried.shape, carried.size
        self.numbers = carried.shape[1]
        self._sums = device.allocate((sums, capacity), np.dtype(np.float64))
        self._carried = device.allocate((2 * max(carried.size, 1),), np.dtype(np.float64))
        self.sums_at, self.carried_at = self._sums.address, self._carried.address
        self._totals = device.allocate((max(totals.size, 1),), np.dtype(np.int64))
        self.totals_at, self.totals = self._totals.address, totals.size
        device.to_device(self.totals_at, totals)
        self.carry(carried)

    def carry(self, carried: Array) -> None:
        """Replace the carried numbers, whichever the next step reads."""
        device.synchronize()
        both = np.ascontiguousarray(np.stack([carried, carried]), np.float64)
        device.to_device(self.carried_at, both)

    def carried(self, count: int) -> Array:
        """The carried numbers that the step after so many reads; synchronizes."""
        device.synchronize()
        host = np.zeros(self._shape)
        device.to_host(host, self.carried_at + 8 * self.stride * (count % 2))
        return host

    def sums(self) -> Array:
        """The sums of all blocks on the host; synchronizes."""
        device.synchronize()
        host = np.zeros(self._sums.shape)
        device.to_host(host, self.sums_at)
        return host

    def replace_sums(self, sums: Array) -> None:
        """Write them back."""
        device.to_device(self.sums_at, sums)


class _Recall:
    """The hyperparameters of earlier launches in device memory, where launches use them.

    Attributes
    ----------
    words : list of int
        The arguments of a launch that concern them.
    """

    def __init__(self, recalls: bool, numbers: int, dtype: DTypeLike) -> None:
        self.words: list[int] = []
        if recalls:
            self._memory = device.allocate((max(KEPT * numbers, 1),), np.dtype(dtype))
            self.words = [self._memory.address, 0, 0]

    def expect(self, step: int, skipped: int, launch: Launch, end: int) -> None:
        """Set the last words before `end`: the step count, and the skipped steps that it is for."""
        if self.words:
            launch.words[end - 2 : end] = step % KEPT, skipped


class Adding:
    """The launches that add up, of the arrays of a batch, the sums of blocks.

    Parameters
    ----------
    batch : Batch
    kernels : SumKernels
    control : int
        The address of what was decided about the step, if the kernels read it.
    memory : PassMemory
    decided : int
        The address of the hyperparameters of the first array that were decided from earlier sums.
    """

    def __init__(
        self,
        batch: Batch,
        kernels: SumKernels,
        control: int,
        memory: PassMemory,
        decided: int,
    ) -> None:
        self._batch, self._decided, self._memory = batch, decided, memory
        names, hyper = kernels.names, batch.hyper
        indices = list(names.indices.values())
        self._recall = _Recall(bool(names.recall), len(indices), kernels.dtype)
        tail = [control] * len(names.control) + self._recall.words
        hyper_at = hyper.address() if kernels.capturable else []
        self._count = len(names.addresses)
        self._has_decided = bool(names.decided_at)
        name = "one" if isinstance(batch, OneArray) else "many"
        words = 4 + len(names.words) * (name == "one")
        self._end = words + len(tail)
        self._launches = []
        for program in kernels.programs(name):
            end = [*tail, *hyper_at]
            launch = Launch(program, words + len(end), *hyper.arguments(indices))
            launch.words[words:] = end
            launch.words[:2] = memory.sums_at, memory.capacity
            self._launches.append(launch)
        self.blocks = 0
        self._chunked: Any = None
        self.table: StagedTable | None = None

    def arrange(self, sizes: Sequence[int], counts: Sequence[int], firsts: Sequence[int]) -> None:
        """Prepare the launches for the gradients that were bound.

        The arrays of the optimizer have `sizes`, as many blocks as `counts` says, and the first one at
        `firsts`.
        """
        if isinstance(self._batch, ManyArrays):
            key = self._batch.gradient_address, tuple(counts)
            if key == self._chunked:  # of other gradients the rows have the addresses
                return
            self._chunked = None  # until all is arranged
            table = chunk_table(self._batch, sizes, counts, firsts)
            staged = StagedTable(table.size)
            staged.words[:] = table.reshape(-1)
            self.table, self.blocks = staged, len(table)
            self._set([staged.address, self._batch.decided_column])
            self._chunked = key
        elif isinstance(self._batch, OneArray):
            row = self._batch.rows[0]
            self.blocks = counts[row]
            addresses = self._batch.row_addresses()[: self._count]
            addresses += [self._decided] * self._has_decided
            self._set([sizes[row], firsts[row], *addresses])

    def _set(self, words: Sequence[int]) -> None:
        for launch in self._launches:
            launch.words[2 : 2 + len(words)] = words

    def expect(self, step: int, skipped: int) -> None:
        """Set the step count that launches assume, and the number of skipped steps that it is for."""
        for launch in self._launches:
            self._recall.expect(step, skipped, launch, self._end)

    def launches(self) -> list[LaunchRow]:
        """What `start` launches, for compiled code."""
        return [launch.row(self.blocks, THREADS) for launch in self._launches]

    def start(self, stream: int) -> None:
        """Add up the sums of all blocks."""
        for launch in self._launches:
            launch.start(self.blocks, THREADS, stream)


class Conclusion:
    """The launch of `sum_source.conclude` for arrays that have the same settings.

    Parameters
    ----------
    program : Program
    settings : int
        How many numbers it gets from the host.
    form : KernelVariant
        That the program is compiled for.
    per_array, skips : bool
    mode : int
        What a launch does: one of the modes of `sum_source`.
    memory : PassMemory
    control : int
        The address of what was decided about the step, 0 where there is nothing.
    stride_of_totals : int
        From the total of the step before to the one of the next term, in numbers.
    rows : sequence of int
        The arrays.
    decided : sequence of int
        For each, the address for its hyperparameters.
    holders : sequence of int
        For each, which of the groups or arrays has its carried numbers.

    Attributes
    ----------
    settings : array
        What it gets from the host, to be written to.
    """

    def __init__(
        self,
        program: Program,
        settings: int,
        form: KernelVariant,
        per_array: bool,
        skips: bool,
        mode: int,
        memory: PassMemory,
        control: int,
        stride_of_totals: int,
        rows: Sequence[int],
        decided: Sequence[int],
        holders: Sequence[int],
    ) -> None:
        self.settings, self.mode = np.zeros(settings), mode
        self._rows, self._decided, self._per_array = rows, decided, per_array
        self._totals = memory.totals
        self._carried = [holder * memory.numbers for holder in holders]
        self._hyper = LaunchHyper(self.settings, form.capturable)
        self._recall = _Recall(form.recalls, settings, np.float64)
        self.table = StagedTable(ROW_WORDS * len(rows))
        lines, each = (len(rows), 1) if per_array else (1, len(rows))
        self._blocks = 1 if skips else lines
        head = [memory.sums_at, memory.capacity, 0, lines, each, mode, memory.carried_at, memory.stride]
        head += [control] * (control != 0)
        head += [memory.totals_at, stride_of_totals] * (memory.totals > 0) + self._recall.words
        self._end = len(head)
        self._arranged: Any = None
        words = [*head, *self._hyper.address()]
        self._launch = Launch(program, len(words), *self._hyper.arguments(range(settings)))
        self._launch.words[:] = words

    def arrange(
        self,
        counts: Sequence[int],
        firsts: Sequence[int],
        has_gradient: Sequence[bool],
        used: Sequence[int],
    ) -> None:
        """Prepare the launch for the gradients that were bound.

        Arguments are as of `Adding.arrange`; `used` are the arrays of the pass.
        """
        arranged = *counts, *has_gradient
        if arranged == self._arranged:
            return
        self._arranged = None  # until all is arranged
        lines = self.table.words.reshape(-1, ROW_WORDS)
        columns = self._rows, self._decided, self._carried
        for line, row, at, carried in zip(lines, *columns, strict=True):
            blocks = (
                (firsts[row], counts[row], has_gradient[row])
                if self._per_array
                else (0, firsts[-1], True)
            )
            totals = (used.index(row), 1) if self._per_array else (0, self._totals)
            line[:] = at, *blocks, carried, *totals
        self.table.change(self.table.words.size)
        self.table.renew()
        self._launch.words[2] = self.table.address
        self._arranged = arranged

    def expect(self, step: int, skipped: int) -> None:
        """Set the step count that launches assume, and the number of skipped steps that it is for."""
        self._recall.expect(step, skipped, self._launch, self._end)

    def send(self, stream: int) -> None:
        """Copy what it gets from the host to the device, if that is in device memory."""
        self._hyper.send(stream)

    def launch(self) -> LaunchRow:
        """What `start` launches, for compiled code."""
        return self._launch.row(self._blocks, SUM_THREADS)

    def start(self, stream: int, mode: int | None = None) -> None:
        """Conclude, or do what another mode says."""
        self._launch.words[5] = self.mode if mode is None else mode
        self._launch.start(self._blocks, SUM_THREADS, stream)
        self._launch.words[5] = self.mode
