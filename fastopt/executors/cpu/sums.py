"""The loop over the table of arrays that sums what transforms declare, on one core and on all.

It checks the gradients first, as `drivers` does: so a step's check and its first sums are one call.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeAlias

import numba
from numba import types

from fastopt.codecs.base import Array
from fastopt.executors import partition
from fastopt.executors.cpu.columns import COUNT, FIRST, HYPER
from fastopt.executors.cpu.header_check import first_invalid
from fastopt.executors.cpu.pointers import call_sum_kernel
from fastopt.executors.cpu.tree_sum import add_up
from fastopt.executors.norm import SUM_BLOCK
from fastopt.kernels.compiler import compile_function, helper

Driver: TypeAlias = Callable[[Any, int, Any, Any, Any, Any, int], int]

# The lines of `kernels`:
(
    CODE,  # address of a kernel of `sum_kernels`, 0 where nothing is summed,
    OF_ROWS,  # and how many numbers of touched rows, of a sparse gradient, are in `sums` already
) = range(2)

chunk_bound = helper(partition.chunk_bound)


@helper
def _blocks(rows, row, kernel):
    return (rows[row, COUNT] + SUM_BLOCK - 1) // SUM_BLOCK if kernel != 0 else 0


def _sums(rows, items, ranges, kernels, sums, totals, threads):
    status = first_invalid(rows, items, ranges)
    if status >= 0:
        return status
    stride, blocks, of_rows = sums.shape[0] // totals.shape[0], 0, 0
    for i in range(rows.shape[0]):
        blocks += _blocks(rows, i, kernels[CODE, i])
        of_rows += kernels[OF_ROWS, i]
    for thread in numba.prange(threads):
        first = chunk_bound(blocks, thread, threads)
        last = chunk_bound(blocks, thread + 1, threads)
        position = place = 0
        for i in range(rows.shape[0]):
            count = _blocks(rows, i, kernels[CODE, i])
            begin, end = max(first - position, 0), min(last - position, count)
            if begin < end:
                addresses = rows.ctypes.data + 8 * (i * rows.shape[1] + FIRST)
                start, stop = begin * SUM_BLOCK, min(end * SUM_BLOCK, rows[i, COUNT])
                at, kernel = sums.ctypes.data + 8 * (place + begin), kernels[CODE, i]
                call_sum_kernel(kernel, addresses, rows[i, HYPER], start, stop, at, stride)
            position += count
            place += count + kernels[OF_ROWS, i]
    for k in range(totals.shape[0]):
        position = k * stride
        if totals.shape[1] == rows.shape[0]:  # of each array; a single one is all
            for i in range(rows.shape[0]):
                count = _blocks(rows, i, kernels[CODE, i]) + kernels[OF_ROWS, i]
                if count > 0:
                    add_up(sums, position, count)
                totals[k, i] = sums[position] if count > 0 else 0.0
                position += count
        else:
            count = blocks + of_rows
            if count > 0:
                add_up(sums, position, count)
            totals[k, 0] = sums[position] if count > 0 else 0.0
    return status


def _each_total(numbers, layout, room, totals):
    for i in range(layout.shape[1]):
        first, blocks, count = layout[0, i], layout[1, i], layout[2, i]
        for k in range(count):
            for j in range(blocks):
                room[j] = numbers[first + j * count + k]
            add_up(room, 0, blocks)
            totals[k, i] = room[0]


_TABLE, _NUMBERS = types.Array(types.int64, 2, "C"), types.Array(types.float64, 1, "C")
_SIGNATURE = types.int64(
    _TABLE,
    types.int64,
    _TABLE,
    _TABLE,
    _NUMBERS,
    types.Array(types.float64, 2, "C"),
    types.int64,
)


@cache
def serial() -> Driver:
    """``serial()(rows, items, ranges, kernels, sums, totals, 1)``: check gradients, and sum.

    Returns the status of the check (`header_check.first_invalid`). Unless that is a row, the sums over
    all arrays, or over each, are written. `kernels` has two lines with a number for each row, `sums`
    room for a number of each sum and block, and `totals` a row for each sum, with a number for each
    array or for all.
    """
    return compile_function(_sums, _SIGNATURE, "sums-serial")


@cache
def parallel() -> Driver:
    """The same on several threads."""
    return compile_function(_sums, _SIGNATURE, "sums-parallel", parallel=True)


@cache
def each_total() -> Callable[[Array, Array, Array, Array], None]:
    """``each_total()(numbers, layout, room, totals)``: add the sums of the blocks of each array.

    `layout` has a column for each array: where its sums begin in `numbers`, its blocks and how many
    sums each of them has. `room` is for the blocks of one, `totals` has a row for each sum.
    """
    signature = types.void(_NUMBERS, _TABLE, _NUMBERS, types.Array(types.float64, 2, "C"))
    return compile_function(_each_total, signature, "sums-each-total")
