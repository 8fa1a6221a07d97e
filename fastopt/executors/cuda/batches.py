"""Batches of arrays that step in one launch, with the same chain, dtype and hyperparameters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastopt.arrays.checks import Array, address
from fastopt.codecs.base import BLOCK
from fastopt.codecs.blocks import ITEM
from fastopt.codecs.floats import floats
from fastopt.executors.cuda import device, element_access
from fastopt.executors.cuda.kernel_source import CHUNK_WORDS, KEPT
from fastopt.executors.cuda.kernels import JobKernels
from fastopt.executors.cuda.launches import (
    NOT_PREPARED,
    GraphCopies,
    Launch,
    LaunchHyper,
    LaunchRow,
    StagedTable,
    WordRow,
)


class Batch(ABC):
    """The base of launches over one array and over many.

    Parameters
    ----------
    rows : sequence of int
        The indices of these arrays among all of the optimizer.
    arrays : sequence of sequence of DeviceArray
        For each, the parameter and the arrays of the chain's slots.
    firsts : sequence of int
        The index of the first element of each among those of all arrays.
    gradient : str
        The format of the gradients, by name.
    kernels : JobKernels
    hyper : LaunchHyper
    control : int
        The address of the clip decision, 0 if there is none.
    decided : sequence of int, optional
        For each, the address of the hyperparameters that were decided from sums, if there are some.
    kept : DeviceArray, optional
        Hyperparameters of earlier steps in device memory, if launches share them.
    """

    def __init__(
        self,
        rows: Sequence[int],
        arrays: Sequence[Sequence[Any]],
        firsts: Sequence[int],
        gradient: str,
        kernels: JobKernels,
        hyper: LaunchHyper,
        control: int,
        decided: Sequence[int] = (),
        kept: Any = None,
    ) -> None:
        self.rows, self._kernels, self.hyper = list(rows), kernels, hyper
        self.gradient_format = gradient
        self._sizes = np.array([slots[0].size for slots in arrays], np.int64)
        # The column after the parameter is for the gradient.
        self._addresses = np.array(
            [[param.address, 0, *(slot.address for slot in slots)] for param, *slots in arrays],
            np.int64,
        )
        # For random bits: the index of an array's first element, and the address of the table.
        self._dithers = bool(kernels.names.first)
        columns: list[Any] = [firsts] * self._dithers
        if self._dithers:
            columns.append(element_access.rounding_table(device.current()).address)
        columns += [decided] * len(kernels.names.decided_at)
        self._others = np.zeros((len(arrays), len(columns)), np.int64)
        for index, column in enumerate(columns):
            self._others[:, index] = column
        self._alignments = np.array(kernels.alignments(), np.int64)
        sizes = [array.itemsize for array in arrays[0]]
        self._itemsizes = np.array([sizes[0], floats(gradient).dtype.itemsize, *sizes[1:]], np.int64)
        blocks = [BLOCK if array.dtype == ITEM else 1 for array in arrays[0]]
        self._per_item = np.array([1, 1, *blocks[1:]], np.int64)
        self._control = [control] if kernels.names.control else []
        self._decides = bool(kernels.names.decided_at)
        self._kept, self._expected = kept, (0, 0)
        if kernels.names.recall and kept is None:
            size = max(KEPT * len(kernels.names.indices), 1)
            self._kept = device.allocate((size,), kernels.dtype)
        self._launches: dict[str, Launch] = {}

    def _launch(self, name: str, words: int) -> Launch:
        """A prepared launch of a kernel; `words` of its arguments come before these of every kernel."""
        if name not in self._launches:
            names = self._kernels.names
            kept = [] if self._kept is None else [self._kept.address, *self._expected]
            tail = [*self._control, *kept, *self.hyper.address(self.rows)]
            hyper = self.hyper.arguments(list(names.indices.values()))
            launch = Launch(self._kernels.program(name), words + len(tail), *hyper)
            launch.words[words:] = tail
            self._launches[name] = launch
        return self._launches[name]

    @abstractmethod
    def bind(self, addresses: Array, capturing: bool = False) -> bool:
        """Take the addresses of the gradients; 0 leaves an array out. Whether `launch` is another.

        Raises
        ------
        RuntimeError
            While a graph is captured, and memory must be allocated.
        """

    @abstractmethod
    def start(self, stream: int) -> None:
        """Step these arrays."""

    @abstractmethod
    def launch(self) -> LaunchRow:
        """What `start` launches, for compiled code."""

    @abstractmethod
    def gradient_words(self) -> list[WordRow]:
        """For each row: where compiled code writes the address of its gradient, see `launching`."""

    @abstractmethod
    def forget(self) -> None:
        """Forget the gradients that are bound: compiled code has written others."""

    @property
    def decided_column(self) -> int:
        """The index, among the words of an array, of the address of what was decided from sums."""
        return int(self._addresses.shape[1] + 2 * self._dithers)

    @property
    def source(self) -> str:
        """The Python source of the kernels in use."""
        return "\n\n".join(self._kernels.source(name) for name in ("element", *self._launches))

    def expect(self, step: int, skipped: int) -> None:
        """Set the step count that launches assume, and the number of skipped steps that it is for."""
        self._expected = step % KEPT, skipped
        if self._kept is not None:
            for launch in self._launches.values():
                launch.words[-2:] = self._expected

    def _aligned(self) -> Any:
        """For each array, whether its addresses allow wide accesses."""
        return (self._addresses % self._alignments == 0).all(axis=1)

    def prepare(self, stream: int) -> None:
        """Copy changed tables and hyperparameters to the device."""
        self.hyper.send(stream)

    @abstractmethod
    def record(self, stream: int) -> None:
        """Let the graph that is captured on a stream copy what its launch reads."""

    def is_ready(self) -> bool:
        """Whether a launch needs no copy to the device, or one that a graph can record."""
        return True


class OneArray(Batch):
    """A single array: its addresses are kernel arguments."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.size = int(self._sizes[0])
        # Asked for by every new gradient, so not by arrays of NumPy.
        self._fixed_aligned = bool(self._aligned()[0])
        self._alignment = int(self._alignments[1])
        self._current: tuple[Launch, int, int] | None = None
        self._gradient, self._is_wide, self._column = 0, False, 0  # 0 is as aligned as can be
        # Compile the kernel for aligned gradients now, so that errors are raised here.
        self._choose(self._fixed_aligned, self.size)

    def _choose(self, wide: bool, size: int) -> tuple[Launch, int, int]:
        """The launch for `size` elements, its number of threads, and the index of the first address."""
        count = self._addresses.shape[1] + self._others.shape[1]
        if not wide:
            launch = self._launch("scalar", 1 + count)
            launch.words[0] = size
            return launch, self._kernels.threads(size, aligned=False), 1
        launch = self._launch("wide", 2 + count)
        launch.words[:2] = size, size // self._kernels.unit
        return launch, self._kernels.threads(size, aligned=True), 2

    def bind(self, addresses: Array, capturing: bool = False) -> bool:
        """Take the address of the gradient; 0 leaves the array out. Whether `launch` is another."""
        gradient = addresses.item(0)
        if self._current is not None and gradient == self._gradient:
            return False
        wide = self._fixed_aligned and gradient % self._alignment == 0
        if self._current is not None and gradient and self._gradient and wide == self._is_wide:
            self._current[0].words[self._column] = self._gradient = gradient
            return False
        self._current = None  # until all is written
        launch, threads, first = self._choose(wide, self.size)
        self._addresses[0, 1] = gradient
        words = [*self._addresses[0], *self._others[0]]
        launch.words[first : first + len(words)] = words
        block = launch.program.block()
        self._gradient, self._is_wide, self._column = gradient, wide, first + 1
        self._current = launch, (-(-threads // block) if gradient else 0), block
        return True

    def record(self, stream: int) -> None:
        """Nothing to copy: the addresses are kernel arguments."""

    @property
    def gradient_address(self) -> int:
        """The address of the gradient."""
        return self._gradient

    def row_addresses(self) -> list[int]:
        """The addresses of parameter, gradient and slots."""
        param, _, *slots = self._addresses[0].tolist()
        return [param, self._gradient, *slots]

    def launch(self) -> LaunchRow:
        """What `start` launches, for compiled code."""
        if self._current is None:
            raise AssertionError("bind comes first")
        launch, blocks, block = self._current
        return launch.row(blocks, block)

    def gradient_words(self) -> list[WordRow]:
        """Where compiled code writes the address of the gradient."""
        if self._current is None:
            raise AssertionError("bind comes first")
        word = address(self._current[0].words) + 8 * self._column
        alignment = self._alignment if self._fixed_aligned and self.size else 1
        return [(word, alignment, alignment == 1 or int(self._is_wide))]

    def forget(self) -> None:
        """Forget the gradient that is bound."""
        self._current = None

    def start(self, stream: int) -> None:
        """Step this array."""
        if self._current is None:
            raise AssertionError("bind comes first")
        launch, blocks, block = self._current
        launch.start(blocks, block, stream)

    def start_part(self, start: int, stop: int, stream: int) -> None:
        """Step the elements from `start`, a multiple of `BLOCK`, to `stop`."""
        self._current = None  # the words of whole steps are overwritten
        self._addresses[0, 1] = self._gradient
        addresses = self._addresses[0] + start // self._per_item * self._itemsizes
        wide = bool((addresses % self._alignments == 0).all())
        launch, threads, first = self._choose(wide, stop - start)
        others = self._others[0].copy()
        others[:1] += start * self._dithers
        launch.words[first : first + len(addresses) + len(others)] = [*addresses, *others]
        block = launch.program.block()
        launch.start(-(-threads // block), block, stream)
        self.bind(np.array([self._gradient]))


class ManyArrays(Batch):
    """Several arrays: a table in device memory has the chunk of each block of threads."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._launch_of_all = self._launch("many", 1)
        self._block = self._launch_of_all.program.block()
        self._gradients = np.zeros(0, np.int64)
        self._layout = b""
        self._blocks, self._pointed_at = 0, -1
        self._others = np.concatenate([self._others, self.hyper.addresses(self.rows)], axis=1)
        self._rows_size = self._addresses.size + self._others.size
        # A graph copies the rows itself, to the same memory as all others.
        self._copies = GraphCopies(self._rows_size) if self._kernels.capturable else None
        self._is_shared = False
        self.tables: list[StagedTable] = []  # the last is in use, the others may belong to graphs

    def alone(self, row: int, arrays: Sequence[Any], first: int) -> OneArray:
        """Launches of one of these arrays by itself, which share its device memory."""
        common = [row], [arrays], [first], self.gradient_format, self._kernels, self.hyper
        column = 2 * self._dithers
        decided = self._others[[self.rows.index(row)], column] if self._decides else ()
        launches = OneArray(*common, *(self._control or [0]), decided, self._kept)
        launches.expect(*self._expected)
        return launches

    @property
    def table(self) -> StagedTable | None:
        """The addresses of all arrays, followed by the chunks."""
        return self.tables[-1] if self.tables else None

    def bind(self, addresses: Array, capturing: bool = False) -> bool:
        """Take the addresses of the gradients; 0 leaves an array out. Whether `launch` is another."""
        if np.array_equal(addresses, self._gradients):
            return False
        self._gradients = addresses[:0]  # until all is written
        self._addresses[:, 1] = addresses
        aligned, given = self._aligned(), self._addresses[:, 1] != 0
        layout = aligned.tobytes() + given.tobytes()
        is_new = self.table is None or layout != self._layout
        if is_new:
            if capturing:
                raise RuntimeError(NOT_PREPARED)
            chunks = self._chunks(aligned, given)
            self._layout = b""
            needed = self._rows_size + chunks.size
            if self.table is None or self.table.words.size != needed:
                self.tables.append(StagedTable(needed))
            self._pointed_at, self._table_of_chunks = -1, chunks
            self._blocks, self._layout = len(chunks), layout
        table = self.tables[-1]
        rows = table.words[: self._rows_size].reshape(len(self.rows), -1)
        rows[:, : self._addresses.shape[1]] = self._addresses
        rows[:, self._addresses.shape[1] :] = self._others
        table.change(rows.size)  # the chunks stay
        if is_new:
            table.renew()
        self._point_to_rows()
        self._gradients = addresses.copy()
        return is_new

    def _chunks(self, aligned: Any, given: Any) -> Any:
        """For each block of threads: array, start, stop, and number of whole groups."""
        unit, team, chunks = self._kernels.unit, self._kernels.team, []
        for row, size in enumerate(self._sizes.tolist()):
            if not given[row]:
                continue
            step = self._block // team * unit if aligned[row] or team > 1 else self._block
            starts = np.arange(0, size, step, dtype=np.int64)
            stops = np.minimum(starts + step, size)
            groups = (stops - starts) // unit if aligned[row] else np.zeros_like(starts)
            chunks.append(np.stack([np.full_like(starts, row), starts, stops, groups], axis=1))
            # A chunk has a thread for each group and for each element of the tail: if that is more
            # than a block has, the tail is a separate chunk.
            if starts.size and aligned[row] and team == 1:
                tail = size % unit
                if groups[-1] + tail > self._block:
                    chunks[-1][-1, 2] = size - tail
                    chunks.append(np.array([[row, size - tail, size, 0]], np.int64))
        empty = np.zeros((0, CHUNK_WORDS), np.int64)
        return np.concatenate([empty, *chunks])

    def _point_to_rows(self) -> None:
        """Write the device addresses of the rows into the chunks."""
        if self.table is None:
            raise AssertionError("bind comes first")
        if self._pointed_at != self.table.address:
            chunks, first = self._table_of_chunks.copy(), self._rows_size
            chunks[:, 0] = self.row_address(chunks[:, 0])
            self.table.words[first:] = chunks.reshape(-1)
            self.table.change(self.table.words.size)
            self._launch_of_all.words[0] = self.table.address + 8 * first
            self._pointed_at = self.table.address

    @property
    def gradient_address(self) -> int:
        """The address of the table with the addresses of the gradients."""
        return self.tables[-1].address

    def row_address(self, row: Any) -> Any:
        """The device address of an array's row of addresses."""
        if self.table is None:
            raise AssertionError("bind comes first")
        return self.table.address + 8 * (self._rows_size // len(self.rows)) * row

    def is_ready(self) -> bool:
        """Whether a launch needs no copy to the device, or one that a graph can record."""
        if self.table is None or self._copies is None:
            return self.table is not None and self.table.is_current
        return self.table.outdated <= self._rows_size and self._copies.is_ready

    def record(self, stream: int) -> None:
        """Let the graph that is captured on a stream copy the rows."""
        if self.table is None or self._copies is None:
            raise AssertionError("not ready")
        self._copies.record(self.table.words[: self._rows_size], self.table.address, stream)
        self._is_shared = True
        self.table.keep()

    def prepare(self, stream: int) -> None:
        """Copy changed tables and hyperparameters to the device."""
        super().prepare(stream)
        if self._copies is not None:
            self._copies.reserve()
        if self.table is not None and self._is_shared:  # a replay may have written others
            self.table.change(self._rows_size)
        if self.table is not None and not self.table.is_current:
            self.table.send(stream)

    def launch(self) -> LaunchRow:
        """What `start` launches, for compiled code."""
        return self._launch_of_all.row(self._blocks, self._block)

    def gradient_words(self) -> list[WordRow]:
        """Where compiled code writes the addresses of the gradients: in the table."""
        first, width = address(self.tables[-1].words) + 8, 8 * (self._rows_size // len(self.rows))
        fits = self._addresses % self._alignments == 0
        fixed = np.delete(fits, 1, axis=1).all(axis=1) & (self._sizes > 0)
        alignments = np.where(fixed, self._alignments[1], 1).tolist()
        wide = (fits[:, 1] | ~fixed).tolist()
        return [(first + width * i, *own) for i, own in enumerate(zip(alignments, wide, strict=True))]

    def rows_in_memory(self) -> tuple[int, int, int]:
        """Of the rows in the table: their address, bytes, and address on the device."""
        table = self.tables[-1]
        return address(table.words), 8 * self._rows_size, table.address

    def forget(self) -> None:
        """Forget the gradients that are bound."""
        self._gradients = self._gradients[:0]

    def start(self, stream: int) -> None:
        """Step these arrays."""
        self._launch_of_all.start(self._blocks, self._block, stream)
