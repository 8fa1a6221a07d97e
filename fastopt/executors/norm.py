"""The order of summation of the global norm, and its NumPy reference.

Squares are added in float64, where those of narrower formats cannot overflow; so the sum is finite if
and only if every gradient is. The order is that of a binary tree: neighbours are added, then
neighbouring results, and so on. It suits the threads of a CPU and of a GPU alike, and does not depend
on how they share the work. Each array is divided into blocks, and a block into rows of `LANES`
elements, which are added as vectors first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from fastopt.arrays.checks import Array
from fastopt.codecs.base import flat
from fastopt.transforms.gradient_clip import DOWN, SMALL, UP, WIDE, clipped, narrow_clipped


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


def blocks_of(size: int) -> int:
    """The number of blocks of an array."""
    return -(-size // SUM_BLOCK)


def blocks(sizes: Sequence[int]) -> int:
    """The number of blocks of arrays of these sizes."""
    return sum(map(blocks_of, sizes))


def tree_sum(rows: Array) -> Any:
    """The sum over the first axis, neighbours first; a last row without neighbour is kept."""
    while len(rows) > 1:
        half = len(rows) // 2
        rows = np.concatenate([rows[0 : 2 * half : 2] + rows[1 : 2 * half : 2], rows[2 * half :]])
    return rows[0]


def reference(gradients: Sequence[Array]) -> float:
    """The sum of the squares of all elements in NumPy, with the same bits as compiled code."""
    return _sum_of_squares(_in_blocks(gradients))


def _sum_of_squares(blocks: Iterable[Array]) -> float:
    with np.errstate(all="ignore"):  # `clip_sums` sees to squares that overflow or vanish
        sums = [_block_reference(block) for block in blocks]
        return float(tree_sum(np.array(sums))) if sums else 0.0


def _in_blocks(gradients: Sequence[Array]) -> Iterator[Array]:
    for gradient in gradients:
        numbers = flat(gradient)
        for start in range(0, numbers.size, SUM_BLOCK):
            with np.errstate(all="ignore"):  # signalling NaN
                block = numbers[start : start + SUM_BLOCK].astype(np.float64)
            yield block


def _block_reference(block: Array) -> np.float64:
    return sum_of_block(block * block)


def sum_of_block(terms: Array) -> np.float64:
    """The sum of the terms of a block: rows first, then lanes."""
    rows = np.zeros((-(-terms.size // LANES), LANES))
    rows.reshape(-1)[: terms.size] = terms
    total: np.float64 = tree_sum(tree_sum(rows))
    return total


def clip_sums(
    squares: float, gradients: Sequence[Array | None], across: Reducer = LOCAL
) -> tuple[float, float, float]:
    """The sums of `transforms.gradient_clip`, from the sum of the squares of all elements.

    Gradients are read again where that overflowed or vanished. What is not needed is zero.
    """
    total = across.sum(squares)
    if SMALL <= total < math.inf:
        return total, 0.0, 0.0
    present = [gradient for gradient in gradients if gradient is not None]
    if total < SMALL:
        return total, 0.0, across.sum(_scaled(present, UP))
    not_finite = across.max(float(not _are_finite(present)))
    total = across.sum(_scaled(present, 1.0))
    down = 0.0 if total < math.inf else across.sum(_scaled(present, DOWN))
    return total, down, math.nan if not_finite else 0.0


def norm_of(sums: Sequence[float]) -> float:
    """The norm from these sums, NaN where not all elements are finite; of narrow formats from two."""
    from_sums = clipped if len(sums) == len(WIDE) else narrow_clipped
    _, (size,) = from_sums((1.0, math.inf), sums, ())  # type: ignore[no-untyped-call]
    return float(size)


def _are_finite(gradients: Sequence[Array]) -> bool:
    return all(np.isfinite(block).all() for block in _in_blocks(gradients))


def _scaled(gradients: Sequence[Array], scale: float) -> float:
    """The sum of the squares of all finite elements, each multiplied by `scale`."""
    if scale == UP:  # where the squares of other formats would not be so small
        gradients = [g for g in gradients if g.dtype == np.float64 and g.any()]
    blocks = (np.where(np.isfinite(block), block, 0.0) * scale for block in _in_blocks(gradients))
    return _sum_of_squares(blocks)
