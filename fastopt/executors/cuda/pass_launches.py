"""The launches behind those of a step that add up its terms, and the memory for the sums."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastopt.arrays.checks import Array
from fastopt.executors.cuda import device
from fastopt.executors.cuda.launches import Launch, LaunchRow
from fastopt.executors.cuda.pass_kernels import (
    BLOCKS,
    BLOCKS_AT,
    ROW_WORDS,
    STRIDE,
    TERMS,
    TOTAL_AT,
    fold,
    total,
)
from fastopt.executors.cuda.tree_sum import SUM_THREADS, THREADS
from fastopt.executors.launching import UNDER_WAY
from fastopt.executors.norm import LANES, SUM_BLOCK, blocks_of

ABSENT = -0.0  # what changes no number that it is added to


class StepTotals:
    """What the terms of a step come to: a total of each term for each array, on the device.

    An array that is left out of a step keeps what its pieces came to, and so its totals.

    Parameters
    ----------
    sizes, terms, pieces : sequence of int
        Of each array: its elements, its terms, and how many elements a piece has.
    control : int
        The address of what was decided about the step, 0 where nothing is.

    Attributes
    ----------
    pieces_at : list of int
        For each array, the address of the sums of its pieces.
    totals_at : int
        The address of the totals: a row for each term, with a number for each array. The word before
        them is the number of steps that were added up.
    """

    def __init__(
        self, sizes: Sequence[int], terms: Sequence[int], pieces: Sequence[int], control: int
    ) -> None:
        self._control, self._terms = control, list(terms)
        self._blocks = list(map(blocks_of, sizes))
        self._per_block = [SUM_BLOCK // piece for piece in pieces]
        self.shape = max(terms, default=0), len(self._blocks)
        self._totals = device.allocate((1 + self.shape[0] * self.shape[1],), np.dtype(np.float64))
        self._count_at, self.totals_at = self._totals.address, self._totals.address + 8
        self._copies: list[device.Pinned] = []  # of count and totals, in the order of steps
        self._launches: list[tuple[Launch, int, int]] = []
        self._arrange()
        self.replace(np.zeros(self.shape))
        self.count_from(0)

    def _arrange(self) -> None:
        """Allocate memory, those arrays next to each other that one launch can fold."""
        classes: dict[tuple[int, int], list[int]] = {}
        for row, key in enumerate(zip(self._per_block, self._terms, strict=True)):
            classes.setdefault(key, []).append(row)
        counts = [
            LANES * per_block * count * blocks
            for per_block, count, blocks in zip(self._per_block, self._terms, self._blocks, strict=True)
        ]
        sums = sum(t * blocks for t, blocks in zip(self._terms, self._blocks, strict=True))
        self._pieces = device.allocate((max(sum(counts), 1),), np.dtype(np.float64))
        self._sums = device.allocate((max(sums, 1),), np.dtype(np.float64))
        self._firsts, table = [0] * len(counts), np.zeros((len(counts), ROW_WORDS), np.int64)
        first, at, architecture = 0, self._sums.address, device.architecture()
        for (per_block, count), rows in classes.items():
            blocks = sum(self._blocks[row] for row in rows)
            if count:
                words = self._pieces.address + 8 * first, at, blocks, self._control
                threads = -(-blocks * LANES // THREADS), THREADS
                self._add(Launch(fold(per_block, count, architecture), 4), words, *threads)
            offset = 0
            for row in rows:
                self._firsts[row], first = first, first + counts[row]
                table[row, [BLOCKS_AT, BLOCKS]] = at + 8 * offset, self._blocks[row]
                table[row, [STRIDE, TERMS, TOTAL_AT]] = blocks, count, self.totals_at + 8 * row
                offset += self._blocks[row]
            at += 8 * count * blocks
        self.pieces_at = [self._pieces.address + 8 * first for first in self._firsts]
        self._table = device.allocate((max(table.size, 1),), np.dtype(np.int64))
        device.to_device(self._table.address, table)
        words = self._table.address, len(counts), self._count_at, self._control
        self._add(Launch(total(architecture), 4), words, len(counts), SUM_THREADS)

    def _add(self, launch: Launch, words: Sequence[int], blocks: int, threads: int) -> None:
        launch.words[:] = words
        self._launches.append((launch, blocks, threads))

    def read(self) -> tuple[int, Array]:
        """The count of steps, and the totals: a row for each term; synchronizes."""
        device.synchronize()
        host = np.zeros(self._totals.size)
        device.to_host(host, self._count_at)
        return self._taken_apart(host)

    def _taken_apart(self, host: Array) -> tuple[int, Array]:
        return int(host[:1].view(np.int64)[0]), host[1:].reshape(self.shape)

    def count_from(self, count: int) -> None:
        """Let so many steps have been added up; synchronizes."""
        device.synchronize()
        device.to_device(self._count_at, np.array([count], np.int64))
        self._copies.clear()

    def send(self, stream: int) -> None:
        """Copy count and totals to the host behind the step, which goes on.

        If the device is `UNDER_WAY` steps behind, this step's are left out.
        """
        if len(self._copies) < UNDER_WAY:
            copy = device.Pinned(self._totals.size)
        elif self._copies[0].has_arrived():
            copy = self._copies.pop(0)
        else:
            return
        copy.receive(self._count_at, stream, self._copies)

    def newest(self) -> tuple[int, Array] | None:
        """The newest count and totals that have arrived on the host, None if there are none."""
        for copy in reversed(self._copies):
            if copy.has_arrived():
                return self._taken_apart(copy.array.view(np.float64).copy())
        return None

    def replace(self, totals: Array) -> None:
        """Let these be the totals, until arrays are stepped; synchronizes."""
        pieces = np.full(self._pieces.size, ABSENT)
        for row, (first, terms) in enumerate(zip(self._firsts, self._terms, strict=True)):
            if self._blocks[row]:
                pieces[first : first + LANES * terms : LANES] = totals[:terms, row]
        device.synchronize()
        device.to_device(self._pieces.address, pieces)
        device.to_device(self.totals_at, np.ascontiguousarray(totals, np.float64))

    def launches(self) -> list[LaunchRow]:
        """What `start` launches, for compiled code."""
        return [launch.row(blocks, threads) for launch, blocks, threads in self._launches]

    def start(self, stream: int) -> None:
        """Add up what the kernels of a step have stored."""
        for launch, blocks, threads in self._launches:
            launch.start(blocks, threads, stream)
