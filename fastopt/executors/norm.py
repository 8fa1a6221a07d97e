"""The global norm of all gradients: one more read, and the same bits on any number of threads.

Squares are added in float64, where those of float32 cannot overflow; so the sum is finite if and
only if every gradient is. Each array is cut into blocks of fixed size, each block into lanes, and
blocks and lanes are added in a fixed order: how the blocks are spread over threads does not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastopt.executors.compiled import compile_function
from fastopt.executors.gate import misfit
from fastopt.layouts.arrays import Array
from fastopt.layouts.columns import COUNT, GRAD, ITEMSIZE

BLOCK = 8192  # elements
LANES = 32  # four accumulators of eight doubles: enough to hide the latency of an addition

# Bytes by which reading is announced. The hardware sees a stream coming too, but stops at the end of a
# page: one core read 3e7 float32 at 13.0 GB/s with it and 10.1 without (1024: 11.8; 4096: 13.2).
AHEAD = 2048
LINE = 64  # bytes that come at a time


def _prefetch(builder: Any, place: Any, offset: int) -> None:
    """Announce a read at `offset` bytes behind a place; it may be behind the end of all memory."""
    flag, pointer = ir.IntType(32), ir.IntType(8).as_pointer()
    signature = ir.FunctionType(ir.VoidType(), [pointer, flag, flag, flag])
    announce = builder.module.declare_intrinsic("llvm.prefetch", [pointer], signature)
    target = builder.gep(builder.bitcast(place, pointer), [ir.Constant(ir.IntType(64), offset)])
    reads, often, data = (ir.Constant(flag, number) for number in (0, 3, 1))
    builder.call(announce, [target, reads, often, data])


def _sum_squares(dtype: Any) -> Any:
    """``sum(address, count)`` of the squares of up to a block of numbers, as a float64."""

    @intrinsic
    def sum_squares(typing_context, address, count):
        def emit(context, builder, signature, args):
            number, double = context.get_data_type(dtype), ir.DoubleType()
            wide = ir.VectorType(double, LANES)
            zero = ir.Constant(wide, [0.0] * LANES)
            lanes = cgutils.alloca_once_value(builder, zero)
            first = builder.inttoptr(args[0], number.as_pointer())
            full = builder.udiv(args[1], ir.Constant(args[1].type, LANES))
            with cgutils.for_range(builder, full) as loop:
                start = builder.mul(loop.index, ir.Constant(args[1].type, LANES))
                place = builder.bitcast(
                    builder.gep(first, [start]), ir.VectorType(number, LANES).as_pointer()
                )
                for offset in range(AHEAD, AHEAD + LANES * dtype.bitwidth // 8, LINE):
                    _prefetch(builder, place, offset)
                values = builder.load(place, align=dtype.bitwidth // 8)
                if number != double:
                    values = builder.fpext(values, wide)
                builder.store(builder.fadd(builder.load(lanes), builder.fmul(values, values)), lanes)
            total = cgutils.alloca_once_value(builder, ir.Constant(double, 0.0))
            final = builder.load(lanes)
            for lane in range(LANES):
                value = builder.extract_element(final, ir.Constant(ir.IntType(32), lane))
                builder.store(builder.fadd(builder.load(total), value), total)
            done = builder.mul(full, ir.Constant(args[1].type, LANES))
            with cgutils.for_range_slice(builder, done, args[1], ir.Constant(args[1].type, 1)) as (
                i,
                _,
            ):
                value = builder.load(builder.gep(first, [i]))
                if number != double:
                    value = builder.fpext(value, double)
                builder.store(builder.fadd(builder.load(total), builder.fmul(value, value)), total)
            return builder.load(total)

        return types.float64(types.intp, types.intp), emit

    return sum_squares


_sum_float32 = _sum_squares(types.float32)
_sum_float64 = _sum_squares(types.float64)


@numba.njit
def _block_sum(rows, row, start):
    count = min(rows[row, COUNT] - start, BLOCK)
    address = rows[row, GRAD] + start * rows[row, ITEMSIZE]
    if rows[row, ITEMSIZE] == 4:
        return _sum_float32(address, count)
    return _sum_float64(address, count)


@numba.njit
def _blocks(rows, row):
    return (rows[row, COUNT] + BLOCK - 1) // BLOCK


def _squares(rows, ids, ranges, sums, threads):
    row = misfit(rows, ids, ranges)
    if row < 0:
        total = 0
        for i in range(rows.shape[0]):
            total += _blocks(rows, i)
        for thread in numba.prange(threads):
            first, last = total * thread // threads, total * (thread + 1) // threads
            position = 0
            for i in range(rows.shape[0]):
                blocks = _blocks(rows, i)
                for block in range(max(first - position, 0), min(last - position, blocks)):
                    sums[position + block] = _block_sum(rows, i, block * BLOCK)
                position += blocks
        sums[total:] = 0.0
    return row


def _signature() -> Any:
    table, ids = types.Array(types.int64, 2, "C"), types.Array(types.int64, 1, "C")
    sums = types.Array(types.float64, 1, "C")
    return types.int64(table, ids, table, sums, types.int64)


@cache
def serial() -> Callable[[Any, Any, Any, Any, int], int]:
    """Check the gradients, then write the sum of squares of each block; the first misfit or -1."""
    return compile_function(_squares, _signature(), "norm-serial")


@cache
def parallel() -> Callable[[Any, Any, Any, Any, int], int]:
    """The same on several threads."""
    return compile_function(_squares, _signature(), "norm-parallel", parallel=True)


def blocks(sizes: Sequence[int]) -> int:
    """How many blocks arrays of these sizes have."""
    return sum(-(-size // BLOCK) for size in sizes)


def total(sums: Array) -> float:
    """Add the blocks in order, one after the other."""
    return float(np.add.accumulate(sums)[-1]) if sums.size else 0.0


def reference(gradients: Sequence[Array]) -> Array:
    """The sums of squares of all blocks, by NumPy, with the same bits."""
    sums = []
    for gradient in gradients:
        squares = gradient.reshape(-1).astype(np.float64) ** 2
        for start in range(0, squares.size, BLOCK):
            block = squares[start : start + BLOCK]
            full = block.size // LANES * LANES
            lanes = np.zeros(LANES)
            for row in block[:full].reshape(-1, LANES):
                lanes += row
            result = 0.0
            for value in (*lanes, *block[full:]):
                result += value
            sums.append(result)
    return np.array(sums)


def careful(gradients: Sequence[Array]) -> tuple[float, bool]:
    """The norm of the finite elements, however large, and whether all elements are finite.

    For the rare case that the quick sum is not finite: NaN and infinity among the gradients, or
    float64 squares that overflow.
    """
    largest, finite, total_squares = 0.0, True, 0.0
    for scaled in (False, True):
        for gradient in gradients:
            flat = gradient.reshape(-1)
            for start in range(0, flat.size, BLOCK):
                block = flat[start : start + BLOCK].astype(np.float64)
                usable = np.isfinite(block)
                block = np.abs(block[usable])
                if not scaled:
                    finite = finite and bool(usable.all())
                    largest = max(largest, float(block.max(initial=0.0)))
                elif largest > 0.0:
                    total_squares += float(np.square(block / largest).sum())
    return largest * total_squares**0.5, finite
