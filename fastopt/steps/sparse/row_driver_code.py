"""The loops of `row_driver` over the touched rows of a matrix, to be compiled."""

from __future__ import annotations

from llvmlite import ir
from numba import types

from fastopt.executors import partition
from fastopt.executors.cpu.pointers import LINE, call_kernel, call_sum_kernel, prefetch_line
from fastopt.executors.cpu.thread_loops import parallel_loop, serial_loop
from fastopt.executors.norm import SUM_BLOCK
from fastopt.kernels.compiler import Definition, helper
from fastopt.kernels.intrinsics import Builder, Value, emits
from fastopt.steps.sparse.row_driver import (
    CATCH_UP,
    FIRST,
    GRAD,
    HYPER,
    KERNEL,
    NOW,
    NUMBERS,
    PARAM,
    ROWS,
    STRIDE,
    SUM_BYTES,
    SUMS,
    WIDTH,
)

chunk_bound = helper(partition.chunk_bound)

# Rows that are fetched while one is worked on, and how much of each. They lie anywhere, so the
# processor cannot see them coming. Measured for 10^4 of 10^6 rows of 64 float32, see bench_sparse.py.
# 8 rows ahead into the first cache were 10 % slower: a core waits for 16 lines at a time there.
AHEAD, FETCHED = 48, 1024


@emits(types.void(types.intp))
def _fetch_line(builder: Builder, address: Value) -> None:
    # Not to be written, although they are: a fetch into the second cache cannot say so.
    prefetch_line(builder, builder.inttoptr(address, ir.IntType(8).as_pointer()), False, 2)


@helper
def _fetch(start, size):
    for line in range(0, min(size, FETCHED), LINE):
        _fetch_line(start + line)


@helper
def _gradient_address(work, addresses, row_bytes, position):
    """The address of a row's gradient."""
    if position < work[ROWS]:
        return addresses[GRAD] + position * row_bytes[GRAD]
    return work[SUMS] + (position - work[ROWS]) * row_bytes[GRAD]


@helper
def _fetch_row(work, addresses, row_bytes, row, position, has_gradient):
    for column in range(PARAM, addresses.size):
        if column != GRAD:
            _fetch(addresses[column] + row * row_bytes[column], row_bytes[column])
    if has_gradient:
        _fetch(_gradient_address(work, addresses, row_bytes, position), row_bytes[GRAD])


@helper
def _walk_chunk(thread, threads, work, addresses, row_bytes, rows, positions, last, copies):
    now = work[NOW]
    row_addresses = copies[thread, : addresses.size]
    first = chunk_bound(rows.size, thread, threads)
    end = chunk_bound(rows.size, thread + 1, threads)
    for i in range(first, end):
        if i + AHEAD < end:
            row = rows[i + AHEAD]
            _fetch_row(work, addresses, row_bytes, row, positions[i + AHEAD], work[KERNEL] != 0)
            if last.size > 0:
                _fetch_line(last.ctypes.data + row * last.itemsize)
        row = rows[i]
        start, stop = row * work[WIDTH], (row + 1) * work[WIDTH]
        if last.size > 0:
            if last[row] < now:
                row_addresses[GRAD] = row_addresses[PARAM]  # any address: it is not used
                numbers = work[NUMBERS] + last[row] * work[STRIDE]
                call_kernel(work[CATCH_UP], row_addresses.ctypes.data, numbers, start, stop)
            last[row] = now + 1 if work[KERNEL] != 0 else now
        if work[KERNEL] != 0:
            gradient = _gradient_address(work, addresses, row_bytes, positions[i])
            row_addresses[GRAD] = gradient - row * row_bytes[GRAD]
            if work[SUM_BYTES] == 0:
                call_kernel(work[KERNEL], row_addresses.ctypes.data, work[HYPER], start, stop)
            else:
                _step_adding(work, row_addresses, row_bytes, row, i)


@helper
def _step_adding(work, addresses, row_bytes, row, number):
    """Step a row as an array of its own: sums are of blocks that begin where an array does."""
    sums = addresses.size - 1
    for column in range(PARAM, sums):
        addresses[column] += row * row_bytes[column]
    addresses[FIRST] += row * work[WIDTH]
    addresses[sums] += number * work[SUM_BYTES]
    call_kernel(work[KERNEL], addresses.ctypes.data, work[HYPER], 0, work[WIDTH])
    for column in range(PARAM, sums):
        addresses[column] -= row * row_bytes[column]
    addresses[FIRST] -= row * work[WIDTH]
    addresses[sums] -= number * work[SUM_BYTES]


def _walk(walk_chunks):
    def walk(work, addresses, row_bytes, rows, positions, last, copies, threads):
        walk_chunks(threads, work, addresses, row_bytes, rows, positions, last, copies)
        if last.size > 0 and work[KERNEL] != 0:
            work[NOW] += 1

    return walk


@helper
def _sum_chunk(thread, threads, work, addresses, row_bytes, rows, positions, numbers, copies):
    kernel, sums, place, stride = numbers
    blocks = (work[WIDTH] + SUM_BLOCK - 1) // SUM_BLOCK
    row_addresses = copies[thread, : addresses.size]
    first = chunk_bound(rows.size, thread, threads)
    end = chunk_bound(rows.size, thread + 1, threads)
    for i in range(first, end):
        if i + AHEAD < end:
            row = rows[i + AHEAD]
            _fetch_row(work, addresses, row_bytes, row, positions[i + AHEAD], True)
        row = rows[i]
        start, stop = row * work[WIDTH], (row + 1) * work[WIDTH]
        gradient = _gradient_address(work, addresses, row_bytes, positions[i])
        row_addresses[GRAD] = gradient - row * row_bytes[GRAD]
        at = sums.ctypes.data + 8 * (place + i * blocks)
        call_sum_kernel(kernel, row_addresses.ctypes.data, work[HYPER], start, stop, at, stride)


def _sum(sum_chunks):
    def sum_rows(
        work, addresses, row_bytes, rows, positions, copies, kernel, sums, place, stride, threads
    ):
        numbers = kernel, sums, place, stride
        sum_chunks(threads, work, addresses, row_bytes, rows, positions, numbers, copies)

    return sum_rows


@helper
def _sweep_chunk(thread, threads, work, addresses, last, copies):
    now = work[NOW]
    row_addresses = copies[thread, : addresses.size]
    row_addresses[GRAD] = row_addresses[PARAM]
    row = chunk_bound(last.size, thread, threads)
    end = chunk_bound(last.size, thread + 1, threads)
    while row < end:
        first, since = row, last[row]
        while row < end and last[row] == since:
            row += 1
        if since < now:
            numbers = work[NUMBERS] + since * work[STRIDE]
            start, stop = first * work[WIDTH], row * work[WIDTH]
            call_kernel(work[CATCH_UP], row_addresses.ctypes.data, numbers, start, stop)


def _sweep(sweep_chunks):
    def sweep(work, addresses, last, copies, threads):
        sweep_chunks(threads, work, addresses, last, copies)
        for row in range(last.size):
            last[row] = 0
        work[NOW] = 0

    return sweep


_WORDS, _LAST = types.Array(types.int64, 1, "C"), types.Array(types.int16, 1, "C")
_COPIES, _SUMS = types.Array(types.int64, 2, "C"), types.Array(types.float64, 1, "C")
_WALK = types.void(*(_WORDS,) * 5, _LAST, _COPIES, types.int64)
_SUM = types.void(*(_WORDS,) * 5, _COPIES, types.int64, _SUMS, *(types.int64,) * 3)
_SWEEP = types.void(_WORDS, _WORDS, _LAST, _COPIES, types.int64)

walk_serial = Definition(_walk(serial_loop(_walk_chunk)), _WALK)
walk_parallel = Definition(_walk(parallel_loop(_walk_chunk)), _WALK)
sum_serial = Definition(_sum(serial_loop(_sum_chunk)), _SUM)
sum_parallel = Definition(_sum(parallel_loop(_sum_chunk)), _SUM)
sweep_serial = Definition(_sweep(serial_loop(_sweep_chunk)), _SWEEP)
sweep_parallel = Definition(_sweep(parallel_loop(_sweep_chunk)), _SWEEP)
