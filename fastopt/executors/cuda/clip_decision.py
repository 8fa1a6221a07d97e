"""What `clip_norm` and `skip_nonfinite` ask for, decided on the device before a step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastopt.arrays.checks import Array
from fastopt.executors.cuda import device, norm
from fastopt.executors.cuda.batches import LaunchHyper, ManyArrays, OneArray
from fastopt.executors.cuda.kernel_source import (
    CONTROL_WORDS,
    FACTOR,
    FACTOR32,
    FINITE,
    KEPT,
    NORM,
    SKIP,
    SKIPPED,
)
from fastopt.executors.cuda.launches import Launch, StagedTable
from fastopt.executors.norm import BLOCK, tree_sum


class ClipDecision:
    """The norm of all gradients, taken and kept on the device.

    Parameters
    ----------
    blocks : int
        How many blocks of `BLOCK` elements all arrays have.
    skips : bool
        Steps with a NaN or infinity are left out.

    Attributes
    ----------
    address : int
        Where a step finds what was decided.
    """

    def __init__(self, blocks: int, skips: bool, capturable: bool) -> None:
        self._capacity = max(blocks, 1)
        self._sums = device.allocate((norm.COLUMNS * self._capacity,), np.dtype(np.float64))
        self._control = device.allocate((CONTROL_WORDS,), np.dtype(np.int64))
        device.to_device(self._control.address, np.zeros(CONTROL_WORDS, np.int64))
        self.address = self._control.address
        self._factor_and_limit = np.zeros(2)
        self._numbers = LaunchHyper(self._factor_and_limit, capturable)
        self._kept = device.allocate((KEPT,), np.dtype(np.float64))
        self._capturable = capturable
        last = self._numbers.address() if capturable else [self._kept.address, 0, 0]
        decide = norm.decide(capturable, device.architecture())
        self._decide = Launch(decide, 5 + len(last), *self._numbers.in_launch((0, 1)))
        self._decide.words[:] = self._sums.address, self._capacity, 0, skips, self.address, *last
        self._squares: list[tuple[Launch, int]] = []
        self._tables: list[StagedTable] = []
        self._of_graphs: list[list[StagedTable]] = []
        self._arranged: Any = None

    def arrange(self, batches: Sequence[Any], sizes: Sequence[int], given: Sequence[bool]) -> None:
        """Get ready to add the blocks of these gradients in their order."""
        where = [batch.gradient_place for batch in batches]
        if self._arranged == (where, given):
            return
        self._arranged = None  # until all is
        counts = [-(-size // BLOCK) * own for size, own in zip(sizes, given, strict=True)]
        firsts = np.cumsum([0, *counts])
        self._decide.words[2] = firsts[-1]
        self._squares, self._tables = [], []
        for batch in batches:
            if isinstance(batch, OneArray):
                first, size = int(firsts[batch.rows[0]]), batch.size * given[batch.rows[0]]
                self._add_one(batch.gradient_format, batch.gradient_place, size, first)
            else:
                self._add_many(batch, sizes, counts, firsts)
        self._arranged = where, list(given)

    def _add_one(self, dtype: str, gradient: int, size: int, first: int) -> None:
        launch = Launch(norm.squares(dtype, False, device.architecture()), 5)
        launch.words[:] = self._sums.address, self._capacity, gradient, size, first
        self._squares.append((launch, -(-size // BLOCK)))

    def _add_many(self, batch: ManyArrays, sizes: Any, counts: Any, firsts: Any) -> None:
        pieces = []
        for place, row in enumerate(batch.rows):
            block = np.arange(counts[row], dtype=np.int64)
            starts = block * BLOCK
            lengths = np.minimum(sizes[row] - starts, BLOCK)
            at = np.full_like(block, batch.row_address(place))
            pieces.append(np.stack([at, starts, lengths, firsts[row] + block], axis=1))
        table = np.concatenate(pieces)
        mirror = StagedTable(table.size)
        mirror.words[:] = table.reshape(-1)
        self._tables.append(mirror)
        launch = Launch(norm.squares(batch.gradient_format, True, device.architecture()), 4)
        launch.words[:] = self._sums.address, self._capacity, mirror.address, len(table)
        self._squares.append((launch, len(table)))

    def is_ready(self) -> bool:
        """Whether a launch needs no copy to the device."""
        return all(table.is_current for table in self._tables)

    def set_numbers(self, factor: float, limit: float) -> None:
        """By what gradients are multiplied, and how large their norm may be then."""
        self._factor_and_limit[:] = factor, limit

    def expect(self, step: int, skipped: int) -> None:
        """The step that this one is if so many were skipped, where launches are to be told."""
        if not self._capturable:
            self._decide.words[-2:] = step % KEPT, skipped

    def prepare(self, stream: int) -> None:
        """Have the device know what it keeps and does not know yet."""
        self._numbers.send(stream)
        for table in self._tables:
            if not table.is_current:
                table.send(stream)

    def start(self, stream: int, capturing: bool) -> None:
        """Measure the gradients and decide what a step does with them."""
        if capturing:
            self._of_graphs.append(self._tables)
        for launch, blocks in self._squares:
            launch.start(blocks, norm.THREADS, stream)
        self._decide.start(1, norm.SUM_THREADS, stream)

    def measure(self, arrays: Sequence[tuple[str, int, int]]) -> None:
        """Take the norm of arrays, of which dtype, address and size are given, once."""
        first = 0
        for dtype, address, size in arrays:
            self._add_one(dtype, address, size, first)
            first += -(-size // BLOCK)
        self._decide.words[2] = first
        self.set_numbers(1.0, math.inf)
        self.start(0, False)

    def add(self, stream: int) -> Array:
        """The sums of `norm.COLUMNS` over all blocks, on the host: waits for the device."""
        for launch, blocks in self._squares:
            launch.start(blocks, norm.THREADS, stream)
        device.synchronize(stream)
        found = np.zeros((norm.COLUMNS, self._capacity))
        device.to_host(found, self._sums.address)
        found = found[:, : max(int(self._decide.words[2]), 1)]
        return np.asarray(tree_sum(found.T))

    def take(self, size: float, factor: float, skipped: bool) -> None:
        """What the host has decided instead, where it knows more than this device."""
        words = np.zeros(CONTROL_WORDS, np.int64)
        words[[NORM, FACTOR]] = np.array([size, factor]).view(np.int64)
        words[FACTOR32 : FACTOR32 + 1].view(np.float32)[0] = factor
        words[[FINITE, SKIP]] = math.isfinite(size), skipped
        device.to_device(self.address, words)

    def read(self) -> tuple[float, bool, int]:
        """The norm, whether the step was skipped, and how many ever were; waits for the device."""
        device.synchronize()
        words = np.zeros(CONTROL_WORDS, np.int64)
        device.to_host(words, self.address)
        assert words[FINITE] in (0, 1)
        return float(words[NORM : NORM + 1].view(np.float64)[0]), bool(words[SKIP]), int(words[SKIPPED])
