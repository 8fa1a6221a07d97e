"""The order of summation of the global norm, and its NumPy reference.

Squares are added in float64, where those of narrower formats cannot overflow; so the sum is finite if
and only if every gradient is. The order is that of a binary tree: neighbours are added, then
neighbouring results, and so on. It suits the threads of a CPU and of a GPU alike, and does not depend
on how they share the work. Each array is divided into blocks, and a block into rows of `LANES`
elements, which are added as vectors first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
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

# Only squares of float64 overflow or vanish: a sum below SMALL may have lost bits, or all of them. Then
# the elements are multiplied by a power of two first.
SMALL, UP, DOWN = 2.0**-960, 2.0**600, 2.0**-550


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
    return _sum_of_squares(_in_blocks(gradients))


def _sum_of_squares(blocks: Iterable[Array]) -> float:
    with np.errstate(all="ignore"):  # `measure` sees to squares that overflow or vanish
        sums = [_block_reference(block) for block in blocks]
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
    present = [gradient for gradient in gradients if gradient is not None]
    return conclude(squares, partial(_scaled, present), partial(_are_finite, present), across)


def conclude(
    squares: float,
    scaled: Callable[[float], float],
    are_finite: Callable[[], bool],
    across: Reducer = LOCAL,
) -> tuple[float, bool]:
    """The norm and whether all elements are finite, where the sum of all squares is only the first try.

    ``scaled(scale)`` is the sum of the squares of all finite elements, each multiplied by `scale`.
    """
    total = across.sum(squares)
    if SMALL <= total < math.inf:
        return math.sqrt(total), True
    if total < SMALL:
        return math.sqrt(across.sum(scaled(UP))) / UP, True
    finite = across.max(float(not are_finite())) == 0.0
    total = across.sum(scaled(1.0))
    if total < math.inf:
        return math.sqrt(total), finite
    return math.sqrt(across.sum(scaled(DOWN))) / DOWN, finite


def _are_finite(gradients: Sequence[Array]) -> bool:
    return all(np.isfinite(block).all() for block in _in_blocks(gradients))


def _scaled(gradients: Sequence[Array], scale: float) -> float:
    if scale == UP:  # where the squares of other formats would not be so small
        gradients = [g for g in gradients if g.dtype == np.float64 and g.any()]
    blocks = (np.where(np.isfinite(block), block, 0.0) * scale for block in _in_blocks(gradients))
    return _sum_of_squares(blocks)


def clip_factor(size: float, factor: float, limit: float) -> float:
    """What gradients of a norm are multiplied by: `factor`, or less where the norm is above the limit.

    Compiled for devices too.
    """
    return factor * limit / size if size > limit else factor
