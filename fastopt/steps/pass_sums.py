"""What is added up while a step is taken: for the next step, and to be reported."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from typing import Any

import numpy as np

from fastopt.arrays.checks import Array
from fastopt.changes import Change, put
from fastopt.executors.cpu.sums import each_total
from fastopt.executors.norm import LOCAL, Reducer, blocks_of, tree_sum

USED = 1  # the line of a layout that says how many blocks have sums
NOTHING = -0.0  # what leaves any number as it is that it is added to


class PassSums(ABC):
    """The sums that a step writes, and their totals for each array.

    An array that is left out of a step keeps its sums. Over several arrays their totals are added, in
    the order of a binary tree: so a run can be resumed from the totals alone.

    Parameters
    ----------
    sizes : sequence of int
        Of the arrays.
    counts : sequence of int
        How many sums each of them has.

    Attributes
    ----------
    counts : list of int
        As the parameter.
    since : int
        The step count at which there were no sums: of statistics there are none before the next step.
    scales : list of (int, float)
        For each array the steps that it took, and the scale of its gradient in the last of them.
    """

    def __init__(self, sizes: Sequence[int], counts: Sequence[int]) -> None:
        self.counts = list(counts)
        self._has_elements = np.array([size > 0 for size in sizes], np.bool_)
        self.since = 0
        self.scales = self.unscaled()

    def unscaled(self) -> list[tuple[int, float]]:
        """The `scales` of arrays that took no step."""
        return [(0, 1.0)] * len(self.counts)

    @abstractmethod
    def totals(self) -> Array:
        """The sums of each array: a row for each sum, with a number for each array."""

    @abstractmethod
    def placed(self, totals: Sequence[Sequence[float]]) -> list[Change]:
        """What makes these the totals of each array: for each array a number for each sum."""

    def reduced(self, reducer: Reducer) -> list[Change]:
        """What makes the sums of a step those of all processes."""
        if reducer is LOCAL:
            return []
        totals = np.where(self._has_elements, self.totals(), 0.0)
        summed = [[reducer.sum(number) for number in numbers] for numbers in totals.T.tolist()]
        pairs = zip(summed, self.counts, strict=True)
        return self.placed([numbers[:count] for numbers, count in pairs])


class BlockSums(PassSums):
    """The sums of arrays in memory, one for each block.

    Parameters
    ----------
    sizes, counts : sequence of int
        As of `PassSums`.
    compiled : bool

    Attributes
    ----------
    blocks : list of array
        For each array a row for each of its blocks, with a number for each sum.
    """

    def __init__(self, sizes: Sequence[int], counts: Sequence[int], compiled: bool) -> None:
        super().__init__(sizes, counts)
        lengths = [max(blocks_of(size), 1) for size in sizes]
        items = [length * count for length, count in zip(lengths, counts, strict=True)]
        *firsts, size = accumulate(items, initial=0)
        self._numbers = np.zeros(max(size, 1))
        self.blocks = [
            self._numbers[first : first + length * count].reshape(length, count)
            for first, length, count in zip(firsts, lengths, counts, strict=True)
        ]
        layout = np.array([firsts, lengths, counts], np.int64)  # USED are as many as there are
        self._lengths = np.array(lengths, np.int64)
        self._layout, self._compiled = np.ascontiguousarray(layout.reshape(3, len(firsts))), compiled
        self._room = np.zeros(max(lengths, default=1))
        self._most = max(counts, default=0)

    def totals(self) -> Array:
        totals = np.zeros((self._most, len(self.blocks)))
        if self._compiled:
            each_total()(self._numbers, self._layout, self._room, totals)
            return totals
        for row, (blocks, used) in enumerate(zip(self.blocks, self._layout[USED], strict=True)):
            totals[: blocks.shape[1], row] = _added(blocks[:used])
        return totals

    def of_rows(self, index: int, numbers: Array) -> list[Change]:
        """What makes the sums of an array those of its touched rows, in the place of its first block.

        Each row counts as an array of its own: `numbers` has the sums of its blocks, row after row.
        """
        count = self.counts[index]
        length = len(numbers) // count
        put_used = put(self._layout, 1, (USED, index))
        if not self._compiled:
            total = _added(numbers.reshape(length, count)) if length else np.zeros(count)
            return [put(self.blocks[index], total, 0), put_used]
        layout = np.array([[0], [length], [count]], np.int64)
        room, total = np.zeros(max(length, 1)), self.blocks[index][:1].reshape(count, 1)
        return [partial(each_total(), numbers, layout, room, total), put_used]

    def of_blocks(self, indices: Sequence[int]) -> list[Change]:
        """What makes the sums of some arrays those of their blocks again."""
        return [put(self._layout, self._lengths[indices], (USED, indices))] if indices else []

    def placed(self, totals: Sequence[Sequence[float]]) -> list[Change]:
        changes = []
        for blocks, numbers in zip(self.blocks, totals, strict=True):
            values = np.full(blocks.shape, NOTHING)
            values[0, : len(numbers)], values[0, len(numbers) :] = numbers, 0.0
            changes.append(put(blocks, values))
        return changes


def _added(blocks: Array) -> Array:
    with np.errstate(all="ignore"):
        total: Array = tree_sum(blocks)
    return total


def over_all(totals: Array) -> list[float]:
    """The sums over several arrays, from a row for each with a number for each array."""
    if not totals.shape[1]:
        return [0.0] * len(totals)
    with np.errstate(all="ignore"):
        return [float(tree_sum(row)) for row in totals]


def block_sums(
    groups: Sequence[Any], group_of: Sequence[int], sizes: Sequence[int], compiled: bool
) -> BlockSums | None:
    """The sums of a step's pass over arrays in memory, None where nothing is added up."""
    counts = [groups[group].terms for group in group_of]
    return BlockSums(sizes, counts, compiled) if any(counts) else None
