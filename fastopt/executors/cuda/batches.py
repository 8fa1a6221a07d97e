"""Arrays that step in one launch: they share a chain, a dtype and the numbers of the step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastopt.arrays.checks import Array
from fastopt.codecs.base import BLOCK
from fastopt.codecs.blocks import ITEM
from fastopt.codecs.floats import floats
from fastopt.executors.cuda import device, element_access
from fastopt.executors.cuda.kernel_source import KEPT, PIECE_WORDS
from fastopt.executors.cuda.kernels import JobKernels
from fastopt.executors.cuda.launches import Launch, StagedTable


class LaunchHyper:
    """The hyperparameters of a launch: in the launch itself, or in the memory of the device.

    In memory they can change for a graph that was captured with the launch.
    """

    def __init__(self, host: Array, capturable: bool) -> None:
        self._host = host
        self._mirror = StagedTable(-(-host.nbytes // 8)) if capturable else None
        self._sent = b""

    def in_launch(self, places: Sequence[int]) -> tuple[Array | None, Sequence[int]]:
        """What the launch reads when it starts, and at which places."""
        return (self._host, places) if self._mirror is None else (None, ())

    def address(self) -> list[int]:
        """The argument with their place on the device."""
        return [] if self._mirror is None else [self._mirror.address]

    def send(self, stream: int) -> None:
        """Have the device know the numbers of now."""
        if self._mirror is not None and self._sent != self._host.tobytes():
            self._mirror.words.view(np.uint8)[: self._host.nbytes] = self._host.view(np.uint8)
            self._mirror.send(stream)  # to the same place always: a captured graph is to follow
            self._sent = self._host.tobytes()


class Batch:
    """What is common to launches over one array and over many.

    Parameters
    ----------
    rows : sequence of int
        The places of these arrays among all of the optimizer.
    arrays : sequence of sequence of DeviceArray
        For each, the parameter and the arrays of the chain's slots.
    firsts : sequence of int
        The number of the first element of each among all of the optimizer.
    gradient : str
        The format of the gradients, by name.
    kernels : JobKernels
    numbers : LaunchHyper
    control : int
        Where the device decides over the step, 0 if it does not.
    kept : DeviceArray, optional
        Hyperparameters of earlier steps on the device, if launches are to share them.
    """

    def __init__(
        self,
        rows: Sequence[int],
        arrays: Sequence[Sequence[Any]],
        firsts: Sequence[int],
        gradient: str,
        kernels: JobKernels,
        numbers: LaunchHyper,
        control: int,
        kept: Any = None,
    ) -> None:
        self.rows, self._kernels, self._numbers = list(rows), kernels, numbers
        self.gradient_format = gradient
        self._sizes = np.array([own[0].size for own in arrays], np.int64)
        # One column for the gradient, behind the parameter.
        self._addresses = np.array(
            [[own[0].address, 0, *(slot.address for slot in own[1:])] for own in arrays], np.int64
        )
        # What a kernel reads of an array: its addresses, and where random bits are needed its place.
        self._firsts = np.zeros((len(arrays), len(kernels.names.first)), np.int64)
        if kernels.names.first:
            self._firsts[:, 0] = firsts
            self._firsts[:, 1] = element_access.rounding_table(device.current()).address
        self._alignments = np.array(kernels.alignments(), np.int64)
        sizes = [own.itemsize for own in arrays[0]]
        self._itemsizes = np.array([sizes[0], floats(gradient).dtype.itemsize, *sizes[1:]], np.int64)
        blocks = [BLOCK if own.dtype == ITEM else 1 for own in arrays[0]]
        self._per_item = np.array([1, 1, *blocks[1:]], np.int64)
        self._control = [control] if control else []
        self._kept, self._expected = kept, (0, 0)
        if kernels.names.recall and kept is None:
            size = max(KEPT * len(kernels.names.places), 1)
            self._kept = device.allocate((size,), kernels.dtype)
        self._launches: dict[str, Launch] = {}

    def _launch(self, name: str, words: int) -> Launch:
        """A prepared launch of a kernel; `words` are its arguments before control and numbers."""
        if name not in self._launches:
            names = self._kernels.names
            kept = [] if self._kept is None else [self._kept.address, *self._expected]
            tail = [*self._control, *kept, *self._numbers.address()]
            given = self._numbers.in_launch(list(names.places.values()))
            launch = Launch(self._kernels.program(name), words + len(tail), *given)
            launch.words[words:] = tail
            self._launches[name] = launch
        return self._launches[name]

    def bind(self, addresses: Sequence[int]) -> None:
        """Take the addresses of the gradients; 0 leaves an array out."""
        raise NotImplementedError

    def start(self, stream: int, capturing: bool) -> None:
        """Step these arrays."""
        raise NotImplementedError

    @property
    def source(self) -> str:
        """What is compiled, as Python source."""
        return "\n\n".join(self._kernels.source(name) for name in ("element", *self._launches))

    def expect(self, step: int, skipped: int) -> None:
        """The step that this one is if so many were skipped, where launches are to be told."""
        self._expected = step % KEPT, skipped
        if self._kept is not None:
            for launch in self._launches.values():
                launch.words[-2:] = self._expected

    def _aligned(self) -> Any:
        """For each array whether all of its addresses allow wide accesses."""
        return (self._addresses % self._alignments == 0).all(axis=1)

    def prepare(self, stream: int) -> None:
        """Have the device know what it keeps and does not know yet."""
        self._numbers.send(stream)

    def is_ready(self) -> bool:
        """Whether a launch can be captured: nothing has to be copied to the device but numbers."""
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
        self._gradient, self._is_wide, self._place = 0, False, 0  # 0 is as aligned as can be
        # Compiles what aligned gradients will need, and shows what cannot be compiled.
        self._choose(self._fixed_aligned, self.size)

    def _choose(self, wide: bool, size: int) -> tuple[Launch, int, int]:
        """The launch for so many elements, its number of threads, and how many words fixed."""
        count = self._addresses.shape[1] + self._firsts.shape[1]
        if not wide:
            launch = self._launch("scalar", 1 + count)
            launch.words[0] = size
            return launch, self._kernels.threads(size, aligned=False), 1
        launch = self._launch("wide", 2 + count)
        launch.words[:2] = size, size // self._kernels.unit
        return launch, self._kernels.threads(size, aligned=True), 2

    def bind(self, addresses: Sequence[int]) -> None:
        """Take the address of the gradient; 0 leaves the array out."""
        (address,) = addresses
        if self._current is not None and address == self._gradient:
            return
        wide = self._fixed_aligned and address % self._alignment == 0
        if self._current is not None and address and self._gradient and wide == self._is_wide:
            self._current[0].words[self._place] = self._gradient = address
            return
        self._current = None  # until all is in place
        launch, threads, first = self._choose(wide, self.size)
        self._addresses[0, 1] = address
        own = [*self._addresses[0], *self._firsts[0]]
        launch.words[first : first + len(own)] = own
        block = launch.program.block()
        self._gradient, self._is_wide, self._place = address, wide, first + 1
        self._current = launch, (-(-threads // block) if address else 0), block

    @property
    def gradient_place(self) -> int:
        """The address of the gradient."""
        return self._gradient

    def start(self, stream: int, capturing: bool) -> None:
        """Step this array."""
        if self._current is None:
            raise AssertionError("bind comes first")
        launch, blocks, block = self._current
        launch.start(blocks, block, stream)

    def start_part(self, start: int, stop: int, stream: int) -> None:
        """Step the elements from `start`, a multiple of `BLOCK`, to `stop`."""
        self._current = None  # the words of whole steps go
        self._addresses[0, 1] = self._gradient
        addresses = self._addresses[0] + start // self._per_item * self._itemsizes
        wide = bool((addresses % self._alignments == 0).all())
        launch, threads, first = self._choose(wide, stop - start)
        firsts = self._firsts[0].copy()
        firsts[:1] += start
        launch.words[first : first + len(addresses) + len(firsts)] = [*addresses, *firsts]
        block = launch.program.block()
        launch.start(-(-threads // block), block, stream)
        self.bind([self._gradient])


class ManyArrays(Batch):
    """Several arrays: a table in the memory of the device says which block works on what."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._launch_of_all = self._launch("many", 1)
        self._block = self._launch_of_all.program.block()
        self._gradients: list[int] = []
        self._layout = b""
        self._blocks, self._placed = 0, -1
        self._rows_size = self._addresses.size + self._firsts.size
        self.tables: list[StagedTable] = []  # the last is in use, the others may belong to graphs

    def alone(self, row: int, arrays: Sequence[Any], first: int) -> OneArray:
        """Launches of one of these arrays by itself, which share what the device keeps."""
        own = [row], [arrays], [first], self.gradient_format, self._kernels, self._numbers
        made = OneArray(*own, *(self._control or [0]), self._kept)
        made.expect(*self._expected)
        return made

    @property
    def table(self) -> StagedTable | None:
        """The addresses of all arrays, and behind them the pieces."""
        return self.tables[-1] if self.tables else None

    def bind(self, addresses: Sequence[int]) -> None:
        """Take the addresses of the gradients; 0 leaves an array out."""
        if addresses == self._gradients:
            return
        self._gradients = []  # until all is in place
        self._addresses[:, 1] = addresses
        aligned, given = self._aligned(), self._addresses[:, 1] != 0
        layout = aligned.tobytes() + given.tobytes()
        if self.table is None or layout != self._layout:
            pieces = self._pieces(aligned, given)
            self._layout = b""
            needed = self._rows_size + pieces.size
            if self.table is None or self.table.words.size != needed:
                self.tables.append(StagedTable(needed))
            self._placed, self._table_of_pieces = -1, pieces
            self._blocks, self._layout = len(pieces), layout
        table = self.tables[-1]
        rows = np.concatenate([self._addresses, self._firsts], axis=1)
        table.words[: rows.size] = rows.reshape(-1)
        table.change()
        table.renew()
        self._place()
        self._gradients = list(addresses)

    def _pieces(self, aligned: Any, given: Any) -> Any:
        """For each block: which array, from where to where, and how many whole groups."""
        unit, team, pieces = self._kernels.unit, self._kernels.team, []
        for row, size in enumerate(self._sizes.tolist()):
            if not given[row]:
                continue
            step = self._block // team * unit if aligned[row] or team > 1 else self._block
            starts = np.arange(0, size, step, dtype=np.int64)
            stops = np.minimum(starts + step, size)
            groups = (stops - starts) // unit if aligned[row] else np.zeros_like(starts)
            pieces.append(np.stack([np.full_like(starts, row), starts, stops, groups], axis=1))
            # A piece has a thread for each group and for each element of the tail: where these are
            # more than a block has, the tail is a piece of its own.
            if starts.size and aligned[row] and team == 1:
                tail = size % unit
                if groups[-1] + tail > self._block:
                    pieces[-1][-1, 2] = size - tail
                    pieces.append(np.array([[row, size - tail, size, 0]], np.int64))
        empty = np.zeros((0, PIECE_WORDS), np.int64)
        return np.concatenate([empty, *pieces])

    def _place(self) -> None:
        """Let the pieces point to the rows, where these are on the device."""
        if self.table is None:
            raise AssertionError("bind comes first")
        if self._placed != self.table.address:
            pieces, first = self._table_of_pieces.copy(), self._rows_size
            pieces[:, 0] = self.row_address(pieces[:, 0])
            self.table.words[first:] = pieces.reshape(-1)
            self._launch_of_all.words[0] = self.table.address + 8 * first
            self._placed = self.table.address

    @property
    def gradient_place(self) -> int:
        """The address of the table in which the addresses of the gradients are."""
        return self.tables[-1].address

    def row_address(self, row: Any) -> Any:
        """Where the addresses of an array are on the device."""
        if self.table is None:
            raise AssertionError("bind comes first")
        return self.table.address + 8 * (self._rows_size // len(self.rows)) * row

    def is_ready(self) -> bool:
        """Whether a launch can be captured: nothing has to be copied to the device but numbers."""
        return self.table is not None and self.table.is_current

    def prepare(self, stream: int) -> None:
        """Have the device know what it keeps and does not know yet."""
        super().prepare(stream)
        if self.table is not None and not self.table.is_current:
            self.table.send(stream)

    def start(self, stream: int, capturing: bool) -> None:
        """Step these arrays."""
        if capturing and self.table is not None:
            self.table.keep()
        self._launch_of_all.start(self._blocks, self._block, stream)
