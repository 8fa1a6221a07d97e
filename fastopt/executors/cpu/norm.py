"""Compiled sums of squares, in the order of `executors.norm`."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeAlias

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastopt.codecs.formats import FORMATS, number_of
from fastopt.executors import partition
from fastopt.executors.cpu import columns
from fastopt.executors.cpu.header_check import first_invalid
from fastopt.executors.cpu.pointers import LINE, prefetch_line
from fastopt.executors.cpu.tree_sum import (
    GROUP,
    ROWS,
    VECTOR,
    add_group,
    add_up,
    allocate_waiting,
    at,
    row,
    total,
)
from fastopt.executors.norm import LANES, SUM_BLOCK
from fastopt.kernels.compiler import compile_function, helper
from fastopt.kernels.conversions import formulas, require_conversion, sizes, stored_type
from fastopt.kernels.llvm_operations import DOUBLE, I64, emitted

Driver: TypeAlias = Callable[[Any, int, Any, Any, int], int]

chunk_bound = helper(partition.chunk_bound)

# Bytes that are prefetched ahead, into all caches but the first. The hardware sees a stream coming too,
# but stops at the end of a page: one core read 3e7 float32 at 13.2 GB/s with prefetches and at 10.1
# without. It must not be a page or more: then the hardware loses the stream. On two cores of a Xeon 1e8
# float32 took 11.7 ms with 2048, as without any, 12.7 with 4096, and 20 with that into the first cache.
AHEAD = 2048


def _in_doubles(builder: Any, name: str, value: Any) -> Any:
    """A number or a vector of a format, as float64."""
    if convert := FORMATS[name].number:
        value = emitted(builder, convert, value)
    if name == "float64":
        return value
    lanes = value.type.count if isinstance(value.type, ir.VectorType) else 0
    return builder.fpext(value, ir.VectorType(DOUBLE, lanes) if lanes else DOUBLE)


def _sum_squares(builder: Any, name: str, address: Any, count: Any) -> Any:
    """The sum of the squares of up to a block of numbers of a format, as a float64."""
    number, itemsize = stored_type(name), FORMATS[name].itemsize
    first = builder.inttoptr(address, number.as_pointer())

    def square(value: Any) -> Any:
        value = _in_doubles(builder, name, value)
        return builder.fmul(value, value)

    waiting = allocate_waiting(builder)
    rest = at(builder, cgutils.alloca_once(builder, ir.ArrayType(DOUBLE, GROUP)), 0, 0)
    one, group = ir.Constant(I64, 1), ir.Constant(I64, GROUP)
    full = builder.udiv(count, group)
    groups = cgutils.alloca_once_value(builder, full)
    with cgutils.for_range(builder, full) as loop:
        place = at(builder, first, builder.mul(loop.index, group))
        for line in range(0, GROUP, LINE // itemsize):
            prefetch_line(builder, at(builder, place, AHEAD // itemsize + line), False, nearness=2)
        rows = [square(row(builder, place, number, k, itemsize)) for k in range(ROWS)]
        add_group(builder, waiting, rows, loop.index)
    full_terms = builder.mul(full, group)
    with builder.if_then(builder.icmp_signed("<", full_terms, count)):
        for k in range(ROWS):
            vector = builder.bitcast(at(builder, rest, k * LANES), VECTOR.as_pointer())
            builder.store(ir.Constant(VECTOR, [0.0] * LANES), vector, align=8)
        with cgutils.for_range_slice(builder, full_terms, count, one) as (i, _):
            term = square(builder.load(at(builder, first, i)))
            builder.store(term, at(builder, rest, builder.sub(i, full_terms)))
        add_group(builder, waiting, [row(builder, rest, DOUBLE, k, 8) for k in range(ROWS)], full)
        builder.store(builder.add(full, one), groups)
    return total(builder, waiting, builder.load(groups))


def _sum_squares_of(formats: tuple[str, ...]) -> Any:
    """``sum(format, address, count)`` for numbers of one of these formats, by its number."""

    @intrinsic
    def sum_squares(typing_context, number, address, count):
        def emit(context, builder, signature, args):
            result = cgutils.alloca_once_value(builder, ir.Constant(DOUBLE, 0.0))
            for name in formats:
                same = builder.icmp_signed("==", args[0], ir.Constant(I64, number_of(name)))
                with builder.if_then(same):
                    builder.store(_sum_squares(builder, name, args[1], args[2]), result)
            return builder.load(result)

        return types.float64(types.intp, types.intp, types.intp), emit

    return sum_squares


@helper
def _blocks(rows, row):
    return (rows[row, columns.COUNT] + SUM_BLOCK - 1) // SUM_BLOCK


OTHER_FORMATS = -3  # status of a driver that has no code for a format in the table


def _driver(formats: tuple[str, ...]) -> Any:
    """The loop over a table, with code for these formats of gradients and no others.

    A format that does not occur takes time to compile, and float16 cannot be compiled everywhere.
    """
    for name in formats:
        require_conversion(name)
    sum_squares = _sum_squares_of(formats)
    known_formats = sum(1 << number_of(name) for name in formats)

    @helper
    def block_sum(rows, row, start):
        count = min(rows[row, columns.COUNT] - start, SUM_BLOCK)
        address = rows[row, columns.GRAD] + start * rows[row, columns.ITEMSIZE]
        return sum_squares(rows[row, columns.FORMAT], address, count)

    def squares(rows, items, ranges, sums, threads):
        status = first_invalid(rows, items, ranges)
        total = 0
        for i in range(rows.shape[0]):
            total += _blocks(rows, i)
            if status < 0 and known_formats >> rows[i, columns.FORMAT] & 1 == 0:
                status = OTHER_FORMATS
        if status < 0 and status != OTHER_FORMATS:
            sums[0] = 0.0
            for thread in numba.prange(threads):
                first = chunk_bound(total, thread, threads)
                last = chunk_bound(total, thread + 1, threads)
                position = 0
                for i in range(rows.shape[0]):
                    blocks = _blocks(rows, i)
                    for block in range(max(first - position, 0), min(last - position, blocks)):
                        sums[position + block] = block_sum(rows, i, block * SUM_BLOCK)
                    position += blocks
            add_up(sums, 0, total)
        return status

    return squares


def _signature() -> Any:
    table, sums = types.Array(types.int64, 2, "C"), types.Array(types.float64, 1, "C")
    return types.int64(table, types.int64, table, sums, types.int64)


@cache
def serial(formats: tuple[str, ...]) -> Driver:
    """Check the gradients, then write the sum of all squares to ``sums[0]``; the status of the check.

    `sums` has room for a number of each block, and for one at least. `formats` are those of the
    gradients, in the order of `FORMATS`. Where the table has another one, nothing is written, and the
    status is `OTHER_FORMATS`.
    """
    return _compiled("serial", formats, parallel=False)


@cache
def parallel(formats: tuple[str, ...]) -> Driver:
    """The same on several threads."""
    return _compiled("parallel", formats, parallel=True)


def _compiled(executor: str, formats: tuple[str, ...], *, parallel: bool) -> Driver:
    return compile_function(
        _driver(formats),
        _signature(),
        f"norm-{executor}-{'-'.join(formats)}",
        parallel=parallel,
        emits=formulas(formats),
        sizes=sizes(formats),
    )
