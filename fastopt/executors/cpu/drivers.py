"""The loops over the table of arrays, on one core and on all.

Both call the same kernels, so the results are the same bits. They are compiled once for all
chains: a new optimizer costs the compilation of its kernel only.

They count the steps too: an interrupt after the machine code could keep Python from counting.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache

import numpy as np
from numba import types

from fastopt.codecs.base import Array
from fastopt.executors import partition, threads
from fastopt.executors.cpu.columns import COUNT, GRAIN, LENGTH
from fastopt.executors.cpu.header_check import first_invalid
from fastopt.executors.cpu.row_access import count_step, run_row
from fastopt.executors.cpu.thread_loops import parallel_loop, serial_loop
from fastopt.kernels.compiler import compile_function, helper

# From so many arrays on, all threads check the gradients, if they are awake. Measured on two cores of a
# Zen 3, in us with one checking and with both: 128 arrays of 4000 elements 132 and 132, 256 of 1000 97
# and 91, 512 of 1000 151 and 143, 1000 of 1000 470 and 449. Threads that sleep take 50 us to wake up
# for a second loop.
MANY = 256
THREADS_SLEEP = os.environ.get("OMP_WAIT_POLICY", "").lower() == "passive"

# Bytes of the smallest page.
PAGE = 4096

chunk_bound = helper(partition.chunk_bound)

_TABLE = types.Array(types.int64, 2, "C")


@helper
def _bound(position, length, grain):
    """Clamp a position relative to an array to its length, and round it down to a multiple."""
    if position >= length:
        return length
    return (position if position > 0 else 0) & -grain


@helper
def _run_chunk(thread, threads, rows, lengths, start, stop):
    """Run a thread's chunk of the elements from `start` to `stop`, which are counted by a column.

    A static partition of all elements, whatever the sizes of the arrays.
    """
    first = start + chunk_bound(stop - start, thread, threads)
    last = start + chunk_bound(stop - start, thread + 1, threads)
    position = 0
    for i in range(rows.shape[0]):
        length, grain = rows[i, lengths], rows[i, GRAIN]
        begin = _bound(first - position, length, grain)
        end = _bound(last - position, length, grain)
        if begin < end and rows[i, COUNT] == length:
            run_row(rows, i, begin, end)
        position += length


_run_chunks, _run_chunks_alone = parallel_loop(_run_chunk), serial_loop(_run_chunk)


def _bind(rows, items, ranges):
    return first_invalid(rows, items, ranges)


def _serial(rows, items, ranges):
    row = first_invalid(rows, items, ranges)
    if row < 0:
        for i in range(rows.shape[0]):
            run_row(rows, i, 0, rows[i, COUNT])
            count_step(rows, i)
    return row


@helper
def _count_steps(rows):
    """Count a step of each array; return how many elements are stepped."""
    total = 0
    for i in range(rows.shape[0]):
        total += rows[i, COUNT]
        count_step(rows, i)
    return total


def _parallel(rows, items, ranges, threads):
    row = first_invalid(rows, items, ranges)
    if row < 0:
        total = _count_steps(rows)
        _run_chunks(threads, rows, COUNT, 0, total)
    return row


@helper
def _check_chunk(thread, threads, rows, items, ranges, statuses):
    """Check a thread's share of the gradients, and note its status: as `first_invalid`, of all rows."""
    start = rows.shape[0] * thread // threads
    stop = rows.shape[0] * (thread + 1) // threads
    row = first_invalid(rows[start:stop], items + 8 * start, ranges)
    statuses[thread] = row if row < 0 else start + row


_check_chunks = parallel_loop(_check_chunk)


@helper
def _first_of(statuses):
    """The status of all rows, from those of their parts in order."""
    lowest = -1
    for status in statuses:
        if status >= 0:
            return status
        lowest = min(lowest, status)
    return lowest


def _parallel_many(rows, items, ranges, threads):
    statuses = np.empty(threads, np.int64)
    _check_chunks(threads, rows, items, ranges, statuses)
    row = _first_of(statuses)
    if row < 0:
        total = _count_steps(rows)
        _run_chunks(threads, rows, COUNT, 0, total)
    return row


def _stretch(run_chunks):
    def stretch(rows, start, stop, threads):
        run_chunks(threads, rows, LENGTH, start, stop)

    return stretch


@helper
def _touch_chunk(thread, threads, memory):
    start = chunk_bound(memory.size, thread, threads)
    stop = chunk_bound(memory.size, thread + 1, threads)
    for i in range(start, stop, PAGE):
        memory[i] = 0


_touch_chunks = parallel_loop(_touch_chunk)


def _touch(memory, threads):
    _touch_chunks(threads, memory)


@cache
def bind() -> Callable[[Array, int, Array], int]:
    """``bind()(rows, items, ranges)``: only check the gradients and note their addresses."""
    return compile_function(_bind, types.int64(_TABLE, types.int64, _TABLE), "bind")


@cache
def serial() -> Callable[[Array, int, Array], int]:
    """``serial()(rows, items, ranges)``: check gradients, then step; return as `first_invalid`."""
    return compile_function(_serial, types.int64(_TABLE, types.int64, _TABLE), "serial")


@cache
def parallel() -> Callable[[Array, int, Array, int], int]:
    """As the serial function, with the number of threads as the last argument."""
    signature = types.int64(_TABLE, types.int64, _TABLE, types.int64)
    threads.layer()
    return compile_function(_parallel, signature, "parallel")


@cache
def parallel_many() -> Callable[[Array, int, Array, int], int]:
    """The same, with the gradients checked by all threads."""
    signature = types.int64(_TABLE, types.int64, _TABLE, types.int64)
    threads.layer()
    return compile_function(_parallel_many, signature, "parallel-many")


def fastest_parallel(rows: int) -> Callable[[Array, int, Array, int], int]:
    """The one of both for a table of so many rows."""
    return parallel_many() if rows >= MANY and not THREADS_SLEEP else parallel()


@cache
def stretch_serial() -> Callable[[Array, int, int, int], None]:
    """``stretch_serial()(rows, start, stop, 1)``: step a stretch of all elements.

    Their gradients were checked. No steps are counted.
    """
    signature = types.void(_TABLE, *(types.int64,) * 3)
    return compile_function(_stretch(_run_chunks_alone), signature, "stretch-serial")


@cache
def stretch_parallel() -> Callable[[Array, int, int, int], None]:
    """As the serial function, with the number of threads as the last argument."""
    signature = types.void(_TABLE, *(types.int64,) * 3)
    threads.layer()
    return compile_function(_stretch(_run_chunks), signature, "stretch-parallel")


@cache
def touch() -> Callable[[Array, int], None]:
    """``touch()(memory, threads)``: map every page of new memory from the thread that will use it."""
    memory = types.Array(types.uint8, 1, "C")
    threads.layer()
    return compile_function(_touch, types.void(memory, types.int64), "touch")
