"""The order of summation of the global norm, and its NumPy reference.

Squares are added in float64, where those of narrower formats cannot overflow; so the sum is finite if
and only if every gradient is. The order is that of a binary tree: neighbours are added, then
neighbouring results, and so on. It suits the threads of a CPU and of a GPU alike, and does not depend
on how they share the work. Each array is divided into blocks, and a block into rows of `LANES`
elements, which are added as vectors first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from fastopt.arrays.checks import Array


class Reducer(Protocol):
    """Reductions across processes, for an optimizer that has a shard of the parameters."""

    def sum(self, value: float) -> float:
        """The sum over all processes."""

    def max(self, value: float) -> float:
        """The largest over all processes."""


class LocalReducer:
    """The reductions of a single process."""

    def sum(self, value: float) -> float:
        return value

    def max(self, value: float) -> float:
        return value


LOCAL = LocalReducer()

SUM_BLOCK = 8192  # elements
LANES = 8  # doubles in the widest vector


def blocks(sizes: Sequence[int]) -> int:
    """The number of blocks of arrays of these sizes."""
    return sum(-(-size // SUM_BLOCK) for size in sizes)


def tree_sum(rows: Array) -> Any:
    """The sum over the first axis, neighbours first; a last row without neighbour is kept."""
    while len(rows) > 1:
        half = len(rows) // 2
        rows = np.concatenate([rows[0 : 2 * half : 2] + rows[1 : 2 * half : 2], rows[2 * half :]])
    return rows[0]


def reference(gradients: Sequence[Array]) -> float:
    """The sum of the squares of all elements in NumPy, with the same bits as compiled code."""
    with np.errstate(all="ignore"):  # `careful` follows where squares overflow
        sums = [_block_reference(block) for block in _in_blocks(gradients)]
        return float(tree_sum(np.array(sums))) if sums else 0.0


def _in_blocks(gradients: Sequence[Array]) -> Iterator[Array]:
    for gradient in gradients:
        flat = gradient.reshape(-1)
        for start in range(0, flat.size, SUM_BLOCK):
            with np.errstate(all="ignore"):  # signalling NaN
                block = flat[start : start + SUM_BLOCK].astype(np.float64)
            yield block


def _block_reference(block: Array) -> Any:
    return sum_of_block(block * block)


def sum_of_block(terms: Array) -> Any:
    """The sum of the terms of a block: rows first, then lanes."""
    rows = np.zeros((-(-terms.size // LANES), LANES))
    rows.reshape(-1)[: terms.size] = terms
    return tree_sum(tree_sum(rows))


def measure(
    squares: float, gradients: Sequence[Array | None], across: Reducer = LOCAL
) -> tuple[float, bool]:
    """The norm of the finite elements, from the sum of all squares, and whether all are finite."""
    size = math.sqrt(across.sum(squares))
    if math.isfinite(size):
        return size, True
    return careful([gradient for gradient in gradients if gradient is not None], across)


def careful(gradients: Sequence[Array], across: Reducer = LOCAL) -> tuple[float, bool]:
    """The norm of the finite elements, however large, and whether all elements are finite.

    For the rare case that the quick sum is not finite: NaN and infinity among the gradients, or
    float64 squares that overflow.
    """
    largest, strange, total_squares = 0.0, 0.0, 0.0
    for scaled in (False, True):
        for block in _in_blocks(gradients):
            usable = np.isfinite(block)
            sizes = np.abs(block[usable])
            if not scaled:
                strange = max(strange, float(not usable.all()))
                largest = max(largest, float(sizes.max(initial=0.0)))
            elif largest > 0.0:
                with np.errstate(all="ignore"):  # small elements beside the largest underflow
                    total_squares += float(np.square(sizes / largest).sum())
        if not scaled:
            largest, strange = across.max(largest), across.max(strange)
    return largest * across.sum(total_squares) ** 0.5, strange == 0.0
