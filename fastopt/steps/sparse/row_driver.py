"""The loop over the touched rows of a matrix: the same kernels as for whole arrays, row by row.

A kernel works on a stretch of elements. A row is one; only its gradient stands elsewhere, among the
values of the sparse gradient, and the kernel gets an address from which the row would be found there.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types

from fastopt.arrays.checks import Array
from fastopt.changes import Change
from fastopt.executors import partition
from fastopt.executors.cpu.pointers import LINE, call_kernel, call_sum_kernel, prefetch_line
from fastopt.executors.dispatch import on_one_core, turn_for
from fastopt.executors.norm import SUM_BLOCK
from fastopt.kernels.compiler import compile_function, helper
from fastopt.kernels.intrinsics import Builder, Value, emits

chunk_bound = helper(partition.chunk_bound)

# What `work` holds, the description of a step over rows.
(
    KERNEL,  # address of the machine code of the step; 0 to only catch up
    HYPER,
    CATCH_UP,  # address of the machine code that brings a row up to date
    NUMBERS,  # address of its hyperparameters for rows that were left at step 0, 1, ...
    STRIDE,  # bytes from those of one step to those of the next
    WIDTH,  # elements of a row
    ROWS,  # how many rows there are among the values of the gradient, from its address on
    SUMS,  # address of further ones
    NOW,  # steps since all rows were at the same one; counted by the machine code that takes them
    SUM_BYTES,  # of what the step adds up of a row, written row after row; 0 if there is nothing
) = range(WORK := 10)

FIRST, PARAM, GRAD = range(3)  # in a row of addresses, in front of the slots; behind these the sums

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


def _walk(work, addresses, row_bytes, rows, positions, last, threads):
    now = work[NOW]
    reached = now + 1 if work[KERNEL] != 0 else now
    for thread in numba.prange(threads):
        row_addresses = addresses.copy()
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
                last[row] = reached
            if work[KERNEL] != 0:
                gradient = _gradient_address(work, addresses, row_bytes, positions[i])
                row_addresses[GRAD] = gradient - row * row_bytes[GRAD]
                if work[SUM_BYTES] == 0:
                    call_kernel(work[KERNEL], row_addresses.ctypes.data, work[HYPER], start, stop)
                else:
                    _step_adding(work, row_addresses, row_bytes, row, np.int64(i))
    if last.size > 0:
        work[NOW] = reached


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


def _sum(work, addresses, row_bytes, rows, positions, kernel, sums, place, stride, threads):
    blocks = (work[WIDTH] + SUM_BLOCK - 1) // SUM_BLOCK
    for thread in numba.prange(threads):
        row_addresses = addresses.copy()
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
            at = sums.ctypes.data + 8 * (place + np.int64(i) * blocks)
            call_sum_kernel(kernel, row_addresses.ctypes.data, work[HYPER], start, stop, at, stride)


def _sweep(work, addresses, last, threads):
    now = work[NOW]
    for thread in numba.prange(threads):
        row_addresses = addresses.copy()
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
    for row in range(last.size):
        last[row] = 0
    work[NOW] = 0


_WORDS, _LAST = types.Array(types.int64, 1, "C"), types.Array(types.int16, 1, "C")
_SUMS = types.Array(types.float64, 1, "C")
_WALK = types.void(*(_WORDS,) * 5, _LAST, types.int64)
_SUM = types.void(*(_WORDS,) * 5, types.int64, _SUMS, *(types.int64,) * 3)
_SWEEP = types.void(_WORDS, _WORDS, _LAST, types.int64)


_LOOPS: dict[str, Any] = {"walk": (_walk, _WALK), "sweep": (_sweep, _SWEEP), "sum": (_sum, _SUM)}


@cache
def _compiled(name: str, parallel: bool) -> Callable[..., None]:
    python, signature = _LOOPS[name]
    kind = "parallel" if parallel else "serial"
    return compile_function(python, signature, f"{name}-{kind}", parallel=parallel)


def walking(executor: str, size: int, count: int, *arguments: object) -> Change:
    """The change that steps rows or brings them up to date, with at most `count` threads.

    Called as ``walking(executor, size, count, work, addresses, row_bytes, rows, positions, last)``.

    Parameters
    ----------
    executor : str
    size : int
        How many elements these rows have.
    count : int
    work : array of int64
        See above.
    addresses : array of int64
        The number of the first element, then the addresses of parameter, gradient and all slots.
    row_bytes : array of int64
        How much of each of them is a row, 0 of what is no array of the parameter's.
    rows : array of int64
        Each at most once.
    positions : array of int64
        The row of each one's gradient in the values, or after these in the sums.
    last : array of int16
        The step at which each row of the matrix was left. Empty: none has to catch up.
    """
    threads = 1 if on_one_core(executor, size) else count
    return partial(_compiled("walk", threads > 1), *arguments, threads)


def walk(executor: str, size: int, *arguments: object) -> None:
    """``walk(executor, size, work, ...)``: work on rows now."""
    count, turn = turn_for(executor, [size])
    with turn:
        walking(executor, size, count, *arguments)()


def sweep(executor: str, size: int, *arguments: object) -> None:
    """``sweep(executor, size, work, addresses, last)``: all lagging rows catch up."""
    count, turn = turn_for(executor, [size])
    with turn:
        _compiled("sweep", count > 1)(*arguments, count)


def summing(executor: str, size: int, *arguments: Any) -> Callable[..., None]:
    """What writes the sums of each row of a sparse gradient, as of an array of its own.

    Called as ``summing(executor, size, work, addresses, row_bytes, rows, positions)``, see `walking`.
    Returns ``write(kernel, sums, place, stride, count)``: with the address of a kernel of
    `executors.cpu.sum_kernels` it writes for each row a number for each of its blocks, at `place` and,
    for each further sum, `stride` later, with at most `count` threads.
    """

    def write(kernel: int, sums: Array, place: int, stride: int, count: int) -> None:
        threads = 1 if on_one_core(executor, size) else count
        _compiled("sum", threads > 1)(*arguments, kernel, sums, place, stride, threads)

    return write
