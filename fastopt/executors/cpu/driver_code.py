"""The loops of `drivers` over the table of arrays, to be compiled."""

from __future__ import annotations

import numpy as np
from numba import types

from fastopt.executors import partition
from fastopt.executors.cpu.columns import COUNT, GRAIN, LENGTH
from fastopt.executors.cpu.header_check import first_invalid
from fastopt.executors.cpu.row_access import count_step, run_row
from fastopt.executors.cpu.thread_loops import parallel_loop, serial_loop
from fastopt.kernels.compiler import Definition, helper

# Bytes of the smallest page.
PAGE = 4096

chunk_bound = helper(partition.chunk_bound)


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


_run_chunks = parallel_loop(_run_chunk)


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


_TABLE = types.Array(types.int64, 2, "C")
_STRETCH = types.void(_TABLE, *(types.int64,) * 3)

bind = Definition(_bind, types.int64(_TABLE, types.int64, _TABLE))
serial = Definition(_serial, types.int64(_TABLE, types.int64, _TABLE))
parallel = Definition(_parallel, types.int64(_TABLE, types.int64, _TABLE, types.int64))
parallel_many = Definition(_parallel_many, types.int64(_TABLE, types.int64, _TABLE, types.int64))
stretch_serial = Definition(_stretch(serial_loop(_run_chunk)), _STRETCH)
stretch_parallel = Definition(_stretch(_run_chunks), _STRETCH)
touch = Definition(_touch, types.void(types.Array(types.uint8, 1, "C"), types.int64))
