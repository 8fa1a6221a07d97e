"""The loop of `sums` over the table of arrays, to be compiled."""

from __future__ import annotations

from numba import types

from fastopt.executors import partition
from fastopt.executors.cpu.columns import COUNT, FIRST, HYPER
from fastopt.executors.cpu.header_check import first_invalid
from fastopt.executors.cpu.pointers import call_sum_kernel
from fastopt.executors.cpu.sums import CODE, OF_ROWS
from fastopt.executors.cpu.thread_loops import parallel_loop, serial_loop
from fastopt.executors.cpu.tree_sum import add_up
from fastopt.executors.norm import SUM_BLOCK
from fastopt.kernels.compiler import Definition, helper

chunk_bound = helper(partition.chunk_bound)


@helper
def _blocks(rows, row, kernel):
    return (rows[row, COUNT] + SUM_BLOCK - 1) // SUM_BLOCK if kernel != 0 else 0


@helper
def _count_blocks(rows, kernels):
    """How many blocks are summed of arrays, and how many numbers of touched rows are there already."""
    blocks = of_rows = 0
    for i in range(rows.shape[0]):
        blocks += _blocks(rows, i, kernels[CODE, i])
        of_rows += kernels[OF_ROWS, i]
    return blocks, of_rows


@helper
def _sum_chunk(thread, threads, rows, kernels, sums, blocks, stride):
    """Write the sums of a thread's chunk of all blocks."""
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


@helper
def _add_up_blocks(rows, kernels, sums, totals, count, stride):
    """Add the sums of the blocks, `count` in all: of each array, or of all."""
    for k in range(totals.shape[0]):
        position = k * stride
        if totals.shape[1] == rows.shape[0]:  # of each array; a single one is all
            for i in range(rows.shape[0]):
                of_array = _blocks(rows, i, kernels[CODE, i]) + kernels[OF_ROWS, i]
                if of_array > 0:
                    add_up(sums, position, of_array)
                totals[k, i] = sums[position] if of_array > 0 else 0.0
                position += of_array
        else:
            if count > 0:
                add_up(sums, position, count)
            totals[k, 0] = sums[position] if count > 0 else 0.0


def _sums(sum_chunks):
    def sums(rows, items, ranges, kernels, sums, totals, threads):
        status = first_invalid(rows, items, ranges)
        if status < 0:
            blocks, of_rows = _count_blocks(rows, kernels)
            stride = sums.shape[0] // totals.shape[0]
            sum_chunks(threads, rows, kernels, sums, blocks, stride)
            _add_up_blocks(rows, kernels, sums, totals, blocks + of_rows, stride)
        return status

    return sums


def _each_total(numbers, layout, room, totals):
    for i in range(layout.shape[1]):
        first, blocks, count = layout[0, i], layout[1, i], layout[2, i]
        for k in range(count):
            for j in range(blocks):
                room[j] = numbers[first + j * count + k]
            add_up(room, 0, blocks)
            totals[k, i] = room[0]


_TABLE, _NUMBERS = types.Array(types.int64, 2, "C"), types.Array(types.float64, 1, "C")
_TOTALS = types.Array(types.float64, 2, "C")
_SUMS = types.int64(_TABLE, types.int64, _TABLE, _TABLE, _NUMBERS, _TOTALS, types.int64)

serial = Definition(_sums(serial_loop(_sum_chunk)), _SUMS)
parallel = Definition(_sums(parallel_loop(_sum_chunk)), _SUMS)
each_total = Definition(_each_total, types.void(_NUMBERS, _TABLE, _NUMBERS, _TOTALS))
