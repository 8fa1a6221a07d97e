"""The launches over several arrays, each of which reads a table in device memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastopt.arrays.checks import Array, address
from fastopt.executors.cuda.batches import Batch
from fastopt.executors.cuda.kernel_source import CHUNK_WORDS
from fastopt.executors.cuda.launches import (
    NOT_PREPARED,
    GraphCopies,
    LaunchRow,
    StagedTable,
    WordRow,
)
from fastopt.executors.cuda.one_array import OneArray


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
        self._copies = GraphCopies(self._rows_size) if self.kernels.capturable else None
        self._is_shared = False
        self.tables: list[StagedTable] = []  # the last is in use, the others may belong to graphs

    def alone(self, row: int, arrays: Sequence[object], first: int) -> OneArray:
        """Launches of one of these arrays by itself, which share its device memory."""
        common = [row], [arrays], [first], self.gradient_format, self.kernels, self.hyper
        column = 2 * self._dithers
        tail = self._others[self.rows.index(row), column:].tolist()
        decided, sums = tail[:1] * self._decides, tail[self._decides :][:1] * self._adds
        launches = OneArray(*common, *(self._control or [0]), decided, sums, self._kept)
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
        aligned, has_gradient = self._aligned(), self._addresses[:, 1] != 0
        layout = aligned.tobytes() + has_gradient.tobytes()
        is_new = self.table is None or layout != self._layout
        if is_new:
            if capturing:
                raise RuntimeError(NOT_PREPARED)
            chunks = self._chunks(aligned, has_gradient)
            self._layout = b""
            needed = self._rows_size + chunks.size
            if self.table is None or self.table.words.size != needed:
                self.tables = [table for table in self.tables if table.is_of_graphs]
                self.tables.append(StagedTable(needed))
            self._pointed_at, self._table_of_chunks = -1, chunks
            self._blocks = len(chunks)
        table = self.tables[-1]
        rows = table.words[: self._rows_size].reshape(len(self.rows), -1)
        rows[:, : self._addresses.shape[1]] = self._addresses
        rows[:, self._addresses.shape[1] :] = self._others
        table.change(rows.size)  # the chunks stay
        if is_new:
            table.renew()
        self._point_to_rows()
        self._gradients, self._layout = addresses.copy(), layout
        return is_new

    def _chunks(self, aligned: Array, has_gradient: Array) -> Array:
        """For each block of threads: array, start, stop, and number of whole groups."""
        unit, team, chunks = self.kernels.unit, self.kernels.team, []
        adds = bool(self.kernels.names.terms)  # where a thread has a whole unit, and the tail too
        for row, size in enumerate(self._sizes.tolist()):
            if not has_gradient[row]:
                continue
            step = self._block // team * unit if aligned[row] or team > 1 or adds else self._block
            starts = np.arange(0, size, step, dtype=np.int64)
            stops = np.minimum(starts + step, size)
            groups = (stops - starts) // unit if aligned[row] else np.zeros_like(starts)
            chunks.append(np.stack([np.full_like(starts, row), starts, stops, groups], axis=1))
            # A chunk has a thread for each group and for each element of the tail: if that is more
            # than a block has, the tail is a separate chunk.
            if starts.size and aligned[row] and team == 1 and not adds:
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
        return [(first + width * i, *kind) for i, kind in enumerate(zip(alignments, wide, strict=True))]

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
