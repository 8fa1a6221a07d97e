"""Sums on a device, in the order of `executors.norm`.

A block of threads adds the terms of a block of elements: a thread has eight rows of one lane at a time,
whose loads are all under way before the first addition; then neighbours are added in shared memory. The
sums of all blocks, 12,208 for 10^8 elements, are added in the same way by one block of threads.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np

from fastopt.executors.cuda import device, element_access
from fastopt.executors.norm import LANES, SUM_BLOCK
from fastopt.kernels.intrinsics import Intrinsic, Scope

# Threads that add the terms of a block of elements, and those that add the sums of all blocks.
THREADS = 32 if device.SIMULATED else 256
SUM_THREADS = 32 if device.SIMULATED else 512
ROWS = 8  # that a thread loads at once
GROUP = ROWS * LANES
SIZE = SUM_BLOCK // ROWS  # numbers of one sum in shared memory

# A chunk of one of many arrays: address of its row, start, length, and index of its sums.
CHUNK_WORDS = 4

# Rows of `width` numbers in shared memory, all columns; the sum comes to the first row.
_NEIGHBOURS = """
def add_neighbours(sums, size, items, width, thread, threads):
    level = 0
    while 1 << level < items:
        cuda.syncthreads()
        distance = width << level
        pairs = (items + (1 << level) - 1) >> (level + 1)
        for k in range(thread, pairs * width, threads):
            at = (k // width << level + 1) * width + k % width
            for column in range(COLUMNS):
                sums[column * size + at] += sums[column * size + at + distance]
        level += 1
    cuda.syncthreads()
"""
# Adds up `count` numbers in device memory, in each of several columns that are `capacity` numbers
# apart. A sum replaces the first number of its column, in device memory and in shared memory. Where
# numbers run out, -0.0 is added, which changes no sum.
_ADD_UP = """
def add_up(at, capacity, count, sums, thread):
    round = ROWS * SUM_THREADS
    if thread < COLUMNS:
        sums[thread * SUM_THREADS] = 0.0
    cuda.syncthreads()
    left = count
    while left > 0:
        for base in range(0, left, round):
            for column in range(COLUMNS):
                column_at = at + 8 * column * capacity
                number = sum_of_eight(column_at, base + ROWS * thread, left)
                sums[column * SUM_THREADS + thread] = number
            items = min((left - base + ROWS - 1) // ROWS, SUM_THREADS)
            add_neighbours(sums, SUM_THREADS, items, 1, thread, SUM_THREADS)
            if thread < COLUMNS:  # no thread reads these any more
                store_double(at, thread * capacity + base // round, sums[thread * SUM_THREADS])
            cuda.syncthreads()
        left = (left + round - 1) // round if left > round else 0
"""


def scope_of_sums(
    columns: int, architecture: tuple[int, int], others: Mapping[str, object] | None = None
) -> Scope:
    """The globals of kernels that add neighbours in so many columns of shared memory, and others."""
    scope: Scope = {
        **(others or {}),
        "__name__": __name__,
        "cuda": device.cuda,
        "COLUMNS": columns,
    }
    scope |= {"THREADS": THREADS, "SUM_THREADS": SUM_THREADS, "ROWS": ROWS, "GROUP": GROUP}
    scope |= {"SIZE": SIZE, "SUM_BLOCK": SUM_BLOCK, "LANES": LANES, "CHUNK_WORDS": CHUNK_WORDS}
    scope["float64"] = np.float64
    scope |= {"load_word": element_access.word_loader(), "store_word": element_access.word_storer()}
    scope["load_double"] = element_access.loader("float64", "float64")
    scope["store_double"] = element_access.storer("float64", "float64")
    _define(scope, "add_neighbours", _NEIGHBOURS, columns, architecture)
    return scope


def define_adding(scope: Scope, architecture: tuple[int, int]) -> None:
    """Add ``sum_of_eight`` and ``add_up(address, capacity, count, shared, thread)``."""
    scope["sum_of_eight"] = sum_of_eight(architecture)
    _define(scope, "add_up", _ADD_UP, scope["COLUMNS"], architecture)


_defined: dict[tuple[str, int, tuple[int, int]], Intrinsic] = {}


def _define(scope: Scope, name: str, source: str, columns: int, architecture: tuple[int, int]) -> None:
    """Add a function for kernels, given as source, to their globals.

    Kernels share it, so that it is compiled once. On the simulator, which changes the globals of a
    kernel while it runs, each has one of its own.
    """
    key = name, columns, architecture
    if device.SIMULATED or key not in _defined:
        exec(source, scope)
        _defined[key] = device.helper(scope[name], architecture, False)
    scope[name] = _defined[key]


@cache
def sum_of_eight(architecture: tuple[int, int]) -> Intrinsic:
    """``sum(address, i, end)`` of eight float64 next to each other, of those before `end`."""
    load = element_access.loader("float64", "float64")

    def take(at: int, i: int, end: int) -> float:
        return load(at, i) if i < end else -0.0

    take = device.helper(take, architecture, False)

    def add_eight(at: int, i: int, end: int) -> float:
        a, b, c, d = take(at, i, end), take(at, i + 1, end), take(at, i + 2, end), take(at, i + 3, end)
        i += 4
        e, f, g, h = take(at, i, end), take(at, i + 1, end), take(at, i + 2, end), take(at, i + 3, end)
        return ((a + b) + (c + d)) + ((e + f) + (g + h))

    compiled: Intrinsic = device.helper(add_eight, architecture, False)
    return compiled
