"""The decision of `clip_norm` and `skip_nonfinite` on the device, before a step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastopt.arrays.checks import Array
from fastopt.executors.cuda import device, norm, tree_sum
from fastopt.executors.cuda.control import Control
from fastopt.executors.cuda.kernel_source import KEPT
from fastopt.executors.cuda.launches import Launch, LaunchHyper, LaunchRow, StagedTable
from fastopt.executors.cuda.many_arrays import ManyArrays
from fastopt.executors.cuda.one_array import OneArray
from fastopt.executors.cuda.tree_sum import CHUNK_WORDS
from fastopt.executors.norm import SUM_BLOCK, Reducer
from fastopt.executors.norm import tree_sum as sum_of_rows


def chunk_table(batch: ManyArrays, sizes: Any, counts: Any, firsts: Any) -> Array:
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


class ClipDecision:
    """The norm of all gradients, the clip factor and the decision to skip, kept on the device.

    Parameters
    ----------
    blocks : int
        The number of blocks of `SUM_BLOCK` elements of all arrays.
    skips : bool
        Skip steps with a NaN or infinity.

    control : Control, optional
        Where the decision is; one of its own by default.

    Attributes
    ----------
    control : Control
    """

    def __init__(
        self, blocks: int, skips: bool, capturable: bool, control: Control | None = None
    ) -> None:
        self._capacity = max(blocks, 1)
        self._sums = device.allocate((norm.COLUMNS * self._capacity,), np.dtype(np.float64))
        self.control = control or Control()
        self._factor_and_limit = np.zeros(2)
        self._hyper = LaunchHyper(self._factor_and_limit, capturable)
        self._kept = device.allocate((KEPT,), np.dtype(np.float64))
        self._capturable = capturable
        last = self._hyper.address() if capturable else [self._kept.address, 0, 0]
        decide = norm.decide(capturable, device.architecture())
        self._decide = Launch(decide, 5 + len(last), *self._hyper.arguments((0, 1)))
        self._decide.words[:] = (
            self._sums.address,
            self._capacity,
            0,
            skips,
            self.control.address,
            *last,
        )
        self._squares: list[tuple[Launch, int]] = []
        self._tables: list[StagedTable] = []
        self._of_graphs: list[list[StagedTable]] = []
        self._arranged: Any = None
        self._of_many: dict[Any, tuple[StagedTable, Launch, int]] = {}

    def arrange(self, batches: Sequence[Any], sizes: Sequence[int], given: Sequence[bool]) -> None:
        """Prepare the launches that add the blocks of these gradients in their order."""
        # Known by their arrays: a table may be at the address that another batch's table had.
        keys = [(*batch.rows, batch.gradient_format, batch.gradient_address) for batch in batches]
        if self._arranged == (keys, given):
            return
        self._arranged = None  # until all is arranged
        counts = [-(-size // SUM_BLOCK) * has for size, has in zip(sizes, given, strict=True)]
        firsts = np.cumsum([0, *counts])
        self._decide.words[2] = firsts[-1]
        self._squares, self._tables = [], []
        known, self._of_many = self._of_many, {}
        for batch, key in zip(batches, keys, strict=True):
            if isinstance(batch, OneArray):
                first, size = int(firsts[batch.rows[0]]), batch.size * given[batch.rows[0]]
                self._add_one(batch.gradient_format, batch.gradient_address, size, first)
            else:  # its table has the addresses of the gradients: others need no other chunks
                known_by = key, tuple(counts)
                added = known.get(known_by) or self._chunks(batch, sizes, counts, firsts)
                staged, launch, blocks = self._of_many[known_by] = added
                self._tables.append(staged)
                self._squares.append((launch, blocks))
        self._arranged = keys, list(given)

    def _add_one(self, dtype: str, gradient: int, size: int, first: int) -> None:
        launch = Launch(norm.squares(dtype, False, device.architecture()), 5)
        launch.words[:] = self._sums.address, self._capacity, gradient, size, first
        self._squares.append((launch, -(-size // SUM_BLOCK)))

    def _chunks(
        self, batch: ManyArrays, sizes: Any, counts: Any, firsts: Any
    ) -> tuple[StagedTable, Launch, int]:
        """The table with the blocks of many arrays, the launch that adds them, and their number."""
        table = chunk_table(batch, sizes, counts, firsts)
        staged = StagedTable(table.size)
        staged.words[:] = table.reshape(-1)
        launch = Launch(norm.squares(batch.gradient_format, True, device.architecture()), 4)
        launch.words[:] = self._sums.address, self._capacity, staged.address, len(table)
        return staged, launch, len(table)

    def is_ready(self) -> bool:
        """Whether a launch needs no copy to the device."""
        return all(table.is_current for table in self._tables)

    def set_numbers(self, factor: float, limit: float) -> None:
        """Set the factor of gradients, and the limit of their norm after that."""
        self._factor_and_limit[:] = factor, limit

    def expect(self, step: int, skipped: int) -> None:
        """Set the step count that launches assume, and the number of skipped steps that it is for."""
        if not self._capturable:
            self._decide.words[-2:] = step % KEPT, skipped

    def prepare(self, stream: int) -> None:
        """Copy changed tables and hyperparameters to the device."""
        self._hyper.send(stream)
        for table in self._tables:
            if not table.is_current:
                table.send(stream)

    def record(self, stream: int) -> None:
        """Keep what the graph that is captured on a stream reads."""
        self._of_graphs.append(self._tables)

    def start(self, stream: int) -> None:
        """Measure the gradients and decide what a step does with them."""
        for launch, blocks in self._squares:
            launch.start(blocks, tree_sum.THREADS, stream)
        self._decide.start(1, tree_sum.SUM_THREADS, stream)

    def launches(self) -> list[LaunchRow]:
        """What `start` launches, for compiled code."""
        rows = [launch.row(blocks, tree_sum.THREADS) for launch, blocks in self._squares]
        return [*rows, self._decide.row(1, tree_sum.SUM_THREADS)]

    def measure(self, arrays: Sequence[tuple[str, int, int]]) -> None:
        """Compute the norm of arrays, given their dtype, address and size, once."""
        first = 0
        for dtype, address, size in arrays:
            self._add_one(dtype, address, size, first)
            first += -(-size // SUM_BLOCK)
        self._decide.words[2] = first
        self.set_numbers(1.0, math.inf)
        self.start(0)

    def _add(self, stream: int) -> Array:
        """The sums of `norm.COLUMNS` over all blocks, on the host: waits for the device."""
        for launch, count in self._squares:
            launch.start(count, tree_sum.THREADS, stream)
        device.synchronize(stream)
        sums = np.zeros((norm.COLUMNS, self._capacity))
        device.to_host(sums, self._sums.address)
        blocks = int(self._decide.words[2])
        if not blocks:  # a rank without elements: nothing was written there
            return np.zeros(norm.COLUMNS)
        return np.asarray(sum_of_rows(sums[:, :blocks].T))

    def sums_across(self, stream: int, reducer: Reducer) -> list[float]:
        """The sums over all processes: waits."""
        return [reducer.sum(total) for total in self._add(stream).tolist()]
