"""The global norm of all gradients: one more read, and the same bits on any number of threads.

Squares are added in float64, where those of narrower formats cannot overflow; so the sum is finite
if and only if every gradient is. Each array is cut into blocks of fixed size, each block into lanes,
and blocks and lanes are added in a fixed order: how the blocks are spread over threads does not matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, Protocol

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastopt.arrays.checks import Array
from fastopt.codecs.floats import from_bfloat16
from fastopt.codecs.formats import FORMATS, NAMES
from fastopt.executors import partition
from fastopt.executors.cpu import columns
from fastopt.executors.cpu.header_check import first_invalid
from fastopt.executors.cpu.pointers import LINE, prefetch_line
from fastopt.kernels.compiler import compile_function, helper
from fastopt.kernels.conversions import STORED, require_conversion
from fastopt.kernels.llvm_operations import DOUBLE, I64, emitted

chunk_bound = helper(partition.chunk_bound)


class Reducer(Protocol):
    """How a number is combined with those of other processes, where an optimizer has but a part."""

    def sum(self, value: float) -> float:
        """The sum over all of them."""

    def max(self, value: float) -> float:
        """The largest of them."""


class LocalReducer:
    """There are no other processes."""

    def sum(self, value: float) -> float:
        return value

    def max(self, value: float) -> float:
        return value


LOCAL = LocalReducer()

BLOCK = 8192  # elements
# Elements that are fetched while others are added. The hardware sees a stream coming too, but stops at
# the end of a page: one core read 3e7 float32 at 13.2 GB/s with this and at 10.1 without.
AHEAD = 1024
LANES = 32  # four accumulators of eight doubles: enough to hide the latency of an addition


def _in_doubles(builder: Any, name: str, value: Any) -> Any:
    """A number or a vector of a format, as float64."""
    if name == "bfloat16":
        value = emitted(builder, from_bfloat16, value)
    if name == "float64":
        return value
    lanes = value.type.count if isinstance(value.type, ir.VectorType) else 0
    return builder.fpext(value, ir.VectorType(DOUBLE, lanes) if lanes else DOUBLE)


def _sum_squares(builder: Any, name: str, address: Any, count: Any) -> Any:
    """The sum of the squares of up to a block of numbers of a format, as a float64."""
    number, double = STORED[name], ir.DoubleType()
    wide = ir.VectorType(double, LANES)
    first = builder.inttoptr(address, number.as_pointer())

    def add_square(total: Any, value: Any) -> None:
        value = _in_doubles(builder, name, value)
        builder.store(builder.fadd(builder.load(total), builder.fmul(value, value)), total)

    lanes = cgutils.alloca_once_value(builder, ir.Constant(wide, [0.0] * LANES))
    step, one = (ir.Constant(I64, size) for size in (LANES, 1))
    full = builder.mul(builder.udiv(count, step), step)
    with cgutils.for_range_slice(builder, ir.Constant(I64, 0), full, step) as (i, _):
        place = builder.gep(first, [i])
        for line in range(0, LANES, LINE // FORMATS[name].itemsize):
            prefetch_line(builder, builder.gep(place, [ir.Constant(I64, AHEAD + line)]), False)
        vector = builder.bitcast(place, ir.VectorType(number, LANES).as_pointer())
        add_square(lanes, builder.load(vector, align=FORMATS[name].itemsize))
    total = cgutils.alloca_once_value(builder, ir.Constant(double, 0.0))
    by_lane = builder.load(lanes)
    for lane in range(LANES):
        part = builder.extract_element(by_lane, ir.Constant(ir.IntType(32), lane))
        builder.store(builder.fadd(builder.load(total), part), total)
    with cgutils.for_range_slice(builder, full, count, one) as (i, _):
        add_square(total, builder.load(builder.gep(first, [i])))
    return builder.load(total)


def _sum_squares_of(formats: tuple[str, ...]) -> Any:
    """``sum(format, address, count)`` for numbers of one of these formats, by its number."""

    @intrinsic
    def sum_squares(typing_context, number, address, count):
        def emit(context, builder, signature, args):
            result = cgutils.alloca_once_value(builder, ir.Constant(DOUBLE, 0.0))
            for name in formats:
                same = builder.icmp_signed("==", args[0], ir.Constant(I64, NAMES.index(name)))
                with builder.if_then(same):
                    builder.store(_sum_squares(builder, name, args[1], args[2]), result)
            return builder.load(result)

        return types.float64(types.intp, types.intp, types.intp), emit

    return sum_squares


@helper
def _blocks(rows, row):
    return (rows[row, columns.COUNT] + BLOCK - 1) // BLOCK


OTHER_FORMATS = -3  # status of a driver that has no code for a format in the table


def _driver(formats: tuple[str, ...]) -> Any:
    """The loop over a table, with code for these formats of gradients and no others.

    A format that does not occur takes time to compile, and float16 cannot be compiled everywhere.
    """
    for name in formats:
        require_conversion(name)
    sum_squares = _sum_squares_of(formats)
    known = sum(1 << NAMES.index(name) for name in formats)

    @helper
    def block_sum(rows, row, start):
        count = min(rows[row, columns.COUNT] - start, BLOCK)
        address = rows[row, columns.GRAD] + start * rows[row, columns.ITEMSIZE]
        return sum_squares(rows[row, columns.FORMAT], address, count)

    def squares(rows, items, ranges, sums, threads):
        status = first_invalid(rows, items, ranges)
        total = 0
        for i in range(rows.shape[0]):
            total += _blocks(rows, i)
            if status < 0 and known >> rows[i, columns.FORMAT] & 1 == 0:
                status = OTHER_FORMATS
        if status < 0 and status != OTHER_FORMATS:
            for thread in numba.prange(threads):
                first = chunk_bound(total, thread, threads)
                last = chunk_bound(total, thread + 1, threads)
                position = 0
                for i in range(rows.shape[0]):
                    blocks = _blocks(rows, i)
                    for block in range(max(first - position, 0), min(last - position, blocks)):
                        sums[position + block] = block_sum(rows, i, block * BLOCK)
                    position += blocks
            sums[total:] = 0.0
        return status

    return squares


def _signature() -> Any:
    table, sums = types.Array(types.int64, 2, "C"), types.Array(types.float64, 1, "C")
    return types.int64(table, types.int64, table, sums, types.int64)


@cache
def serial(formats: tuple[str, ...]) -> Callable[[Any, int, Any, Any, int], int]:
    """Check the gradients, then write the sum of squares of each block; the status of the gate.

    `formats` are those of the gradients, in the order of `NAMES`. Where the table has another one,
    nothing is written, and the status is `OTHER_FORMATS`.
    """
    return compile_function(_driver(formats), _signature(), f"norm-serial-{'-'.join(formats)}")


@cache
def parallel(formats: tuple[str, ...]) -> Callable[[Any, int, Any, Any, int], int]:
    """The same on several threads."""
    name = f"norm-parallel-{'-'.join(formats)}"
    return compile_function(_driver(formats), _signature(), name, parallel=True)


def blocks(sizes: Sequence[int]) -> int:
    """How many blocks arrays of these sizes have."""
    return sum(-(-size // BLOCK) for size in sizes)


def total(sums: Array) -> float:
    """Add the blocks in order, one after the other."""
    with np.errstate(all="ignore"):  # `careful` follows where squares overflow
        return float(np.add.accumulate(sums)[-1]) if sums.size else 0.0


def reference(gradients: Sequence[Array]) -> Array:
    """The sums of squares of all blocks, by NumPy, with the same bits."""
    with np.errstate(all="ignore"):
        return np.array([_block_reference(block) for block in _in_blocks(gradients)])


def _in_blocks(gradients: Sequence[Array]) -> Iterator[Array]:
    for gradient in gradients:
        flat = gradient.reshape(-1)
        for start in range(0, flat.size, BLOCK):
            with np.errstate(all="ignore"):  # signalling NaN
                block = flat[start : start + BLOCK].astype(np.float64)
            yield block


def _block_reference(block: Array) -> float:
    squares = block * block
    full = squares.size // LANES * LANES
    lanes = np.zeros(LANES)
    for row in squares[:full].reshape(-1, LANES):
        lanes += row
    result = 0.0
    for value in (*lanes, *squares[full:]):
        result += value
    return result


def measure(
    sums: Array, gradients: Sequence[Array | None], across: Reducer = LOCAL
) -> tuple[float, bool]:
    """The norm of the finite elements, from the sums of all blocks, and whether all are finite."""
    size = math.sqrt(across.sum(total(sums)))
    if np.isfinite(size):
        return size, True
    return careful([gradient for gradient in gradients if gradient is not None], across)


def careful(gradients: Sequence[Array], across: Reducer = LOCAL) -> tuple[float, bool]:
    """The norm of the finite elements, however large, and whether all elements are finite.

    For the rare case that the quick sum is not finite: NaN and infinity among the gradients, or
    float64 squares that overflow.
    """
    largest, strange, total_squares = 0.0, 0.0, 0.0
    for scaled in (False, True):
        for block in _in_blocks(gradients):
            usable = np.isfinite(block)
            sizes = np.abs(block[usable])
            if not scaled:
                strange = max(strange, float(not usable.all()))
                largest = max(largest, float(sizes.max(initial=0.0)))
            elif largest > 0.0:
                with np.errstate(all="ignore"):  # small ones beside the largest underflow
                    total_squares += float(np.square(sizes / largest).sum())
        if not scaled:
            largest, strange = across.max(largest), across.max(strange)
    return largest * across.sum(total_squares) ** 0.5, strange == 0.0
