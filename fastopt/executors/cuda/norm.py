"""The norm of all gradients and the clip decision, computed on the device.

The sum has the bits of the CPU's (`tree_sum`). Norm, factor and the decision to skip stay on the
device, where the step finds them.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import types

from fastopt.executors import reference
from fastopt.executors.cuda import device, element_access, kernel_source
from fastopt.executors.cuda.programs import Program
from fastopt.executors.cuda.tree_sum import SIZE, SUM_THREADS, scope_of_sums, sum_of_eight
from fastopt.executors.norm import LANES
from fastopt.kernels.kernel_identity import identified_by_package
from fastopt.kernels.specialize import specialize
from fastopt.transforms.base import sums_in
from fastopt.transforms.gradient_clip import gradient_clip

# Of each block: the sum of the squares of finite elements, and for float64 the same of elements times
# DOWN and times UP. The last one is NaN if an element is not finite.
COLUMNS = 3

SHARED, SUM_SHARED = COLUMNS * SIZE, COLUMNS * SUM_THREADS

_ONE = """
def squares(sums_at, capacity, gradient_at, length, first):
    start = cuda.blockIdx.x * SUM_BLOCK
    count = min(length - start, SUM_BLOCK)
    position = first + cuda.blockIdx.x
"""
_MANY = """
def squares(sums_at, capacity, chunks_at, chunks):
    chunk = chunks_at + 8 * CHUNK_WORDS * cuda.blockIdx.x
    gradient_at = load_word(load_word(chunk, 0), 1)
    start, count = load_word(chunk, 1), load_word(chunk, 2)
    position = load_word(chunk, 3)
"""
_SQUARES = """
    thread = cuda.threadIdx.x
    lane = thread % LANES
    groups = (count + GROUP - 1) // GROUP
    sums = cuda.shared.array(SHARED, float64)
    for group in range(thread // LANES, groups, THREADS // LANES):
        i, end = start + group * GROUP + lane, start + count
        if (group + 1) * GROUP <= count:
            found = squares_of_rows(gradient_at, i, end)
        else:
            found = squares_of_rows_before(gradient_at, i, end)
        for column in range(COLUMNS):
            sums[column * SIZE + group * LANES + lane] = found[column]
    add_neighbours(sums, SIZE, groups, LANES, thread, THREADS)
    add_neighbours(sums, SIZE, LANES, 1, thread, THREADS)
    if thread < COLUMNS:
        store_double(sums_at, thread * capacity + position, sums[thread * SIZE])
"""
_DECIDE = """
def decide(sums_at, capacity, count, skips, control_at, kept_at, slot, expected, factor, limit):
    if cuda.threadIdx.x == 0:
        store_double(kept_at, slot, limit)
        skipped = load_word(control_at, SKIPPED) - expected
        if skipped != 0:
            limit = load_double(kept_at, (slot - skipped) & (KEPT - 1))
"""
_DECIDE_CAPTURABLE = """
def decide(sums_at, capacity, count, skips, control_at, numbers_at):
    factor, limit = load_double(numbers_at, 0), load_double(numbers_at, 1)
"""
_ADD_AND_DECIDE = """
    thread = cuda.threadIdx.x
    sums = cuda.shared.array(SUM_SHARED, float64)
    if thread < COLUMNS:
        sums[thread * SUM_THREADS] = 0.0
    cuda.syncthreads()
    round = ROWS * SUM_THREADS
    left = count
    while left > 0:
        for base in range(0, left, round):
            first = base + ROWS * thread
            for column in range(COLUMNS):
                at = sums_at + 8 * column * capacity
                sums[column * SUM_THREADS + thread] = sum_of_eight(at, first, left)
            items = min((left - base + ROWS - 1) // ROWS, SUM_THREADS)
            add_neighbours(sums, SUM_THREADS, items, 1, thread, SUM_THREADS)
            if thread < COLUMNS:  # no thread reads these any more
                store_double(sums_at, thread * capacity + base // round, sums[thread * SUM_THREADS])
            cuda.syncthreads()
        left = (left + round - 1) // round if left > round else 0
    if thread == 0:
        totals = sums[0], sums[SUM_THREADS], sums[2 * SUM_THREADS]
        result = from_sums((factor, limit), totals, (0.0,))
        finite, factor = totals[2] == totals[2], float64(result[0][0])
        skipped = skips != 0 and result[2]
        store_double(control_at, NORM, float64(result[1][0]))
        store_double(control_at, FACTOR, factor)
        store_float(control_at, 2 * FACTOR32, factor)
        store_word(control_at, FINITE, 1 if finite else 0)
        store_word(control_at, SKIP, 1 if skipped else 0)
        if skipped:
            store_word(control_at, SKIPPED, load_word(control_at, SKIPPED) + 1)
"""


def _scope(architecture: tuple[int, int]) -> dict[str, Any]:
    constants = {**vars(kernel_source), **globals()}
    scope = {name: value for name, value in constants.items() if name.isupper() and name[0] != "_"}
    scope = scope_of_sums(COLUMNS, architecture, scope)
    scope["store_float"] = element_access.storer("float64", "float32")
    return scope


def _in_float64(function: Any, architecture: tuple[int, int]) -> Any:
    """A function of a transform's sums, for kernels."""

    def helper(function: Any) -> Any:
        return device.helper(function, architecture, False)

    if device.SIMULATED:
        return helper(reference.in_float64(function))
    return helper(specialize(function, np.float64, helper))


def _row_squares(dtype: str, architecture: tuple[int, int]) -> tuple[Any, Any]:
    """``sum(address, i, end)`` of the squares of `ROWS` rows, all or only those before `end`."""
    load, wide = element_access.loader("float64", dtype), dtype == "float64"

    def compiled(function: Any) -> Any:
        return device.helper(function, architecture, False)

    summands = sums_in(gradient_clip(skips=False, wide=wide)).summands
    plain, down, up = (_in_float64(summand, architecture) for summand in summands)

    @compiled
    def square(x: Any) -> Any:
        return plain(x, x, (), ()), down(x, x, (), ()), up(x, x, (), ())

    @compiled
    def plus(one: Any, other: Any) -> Any:
        return one[0] + other[0], one[1] + other[1], one[2] + other[2]

    def rows_with(take: Any) -> Any:
        take = compiled(take)

        @compiled
        def squares_of_rows(at: Any, i: Any, end: Any) -> Any:
            a, b = take(at, i, end), take(at, i + LANES, end)
            c, d = take(at, i + 2 * LANES, end), take(at, i + 3 * LANES, end)
            e, f = take(at, i + 4 * LANES, end), take(at, i + 5 * LANES, end)
            g, h = take(at, i + 6 * LANES, end), take(at, i + 7 * LANES, end)
            first = plus(plus(square(a), square(b)), plus(square(c), square(d)))
            return plus(first, plus(plus(square(e), square(f)), plus(square(g), square(h))))

        return squares_of_rows

    return (
        rows_with(lambda at, i, end: load(at, i)),
        rows_with(lambda at, i, end: load(at, i) if i < end else 0.0),
    )


@cache
def squares(dtype: str, many: bool, architecture: tuple[int, int]) -> Program:
    """The kernel that sums the squares of each block, of one array or of chunks of many."""

    def make() -> Any:
        scope = _scope(architecture)
        scope["squares_of_rows"], scope["squares_of_rows_before"] = _row_squares(dtype, architecture)
        exec((_MANY if many else _ONE) + _SQUARES, scope)
        return scope["squares"]

    identity = identified_by_package(f"squares-{dtype}{'-many' if many else ''}", [dtype])
    return Program(identity, make, [types.int64] * (4 if many else 5), architecture)


@cache
def decide(capturable: bool, architecture: tuple[int, int]) -> Program:
    """The kernel that adds all blocks and decides: norm, factor, and whether to step."""

    def make() -> Any:
        scope = _scope(architecture)
        scope["sum_of_eight"] = sum_of_eight(architecture)
        scope["from_sums"] = _in_float64(
            sums_in(gradient_clip(skips=True, wide=True)).from_sums, architecture
        )
        scope["float64"] = np.float64
        exec((_DECIDE_CAPTURABLE if capturable else _DECIDE) + _ADD_AND_DECIDE, scope)
        return scope["decide"]

    numbers = [types.int64] if capturable else [types.int64] * 3 + [types.float64] * 2
    identity = identified_by_package(f"decide{'-capturable' if capturable else ''}")
    return Program(identity, make, [types.int64] * 5 + numbers, architecture)
