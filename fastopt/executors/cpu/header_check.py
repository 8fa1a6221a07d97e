"""The check of gradients at every step, in machine code: nanoseconds instead of microseconds.

A gradient is passed as the caller's object, whose header has the type, dtype, shape, flags and address.
The headers of the parameters, and of the caller's other arrays, must be unchanged since the optimizer
was built. Only arrays that are certainly valid pass; all others are checked again in
Python (`arrays.checks`, `arrays.object_headers`), which accepts them or raises the error.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastopt.arrays import checks, object_headers
from fastopt.arrays.object_layout import DATA, DTYPE_AT, FLAGS_AT, NDIM_AT, OBJECT_TYPE, SHAPE_AT
from fastopt.executors.cpu.columns import (
    COUNT,
    COUNTS,
    DTYPE,
    FLAGS,
    GRAD,
    HEADERS,
    HYPER_LAG,
    ITEMSIZE,
    LAG,
    LENGTH,
    NDIM,
    NONE,
    TYPE,
)
from fastopt.executors.cpu.pointers import read_word
from fastopt.kernels.compiler import helper
from fastopt.kernels.llvm_operations import I32, I64

SKIPPED = -2

overlaps = helper(checks.overlaps)


def _load(builder: Any, address: Any, offset: int = 0, kind: Any = I64) -> Any:
    at = builder.add(address, ir.Constant(I64, offset))
    return builder.load(builder.inttoptr(at, kind.as_pointer()))


def _same(builder: Any, one: Any, other: Any) -> Any:
    return builder.icmp_signed("==", one, other)


def _false(builder: Any, variable: Any) -> None:
    builder.store(ir.Constant(ir.IntType(1), 0), variable)


def _like(builder: Any, item: Any, dtype: Any, flags: Any, ndim: Any, lengths: Any) -> Any:
    """Emit whether an array has this dtype, flags and shape."""
    actual_flags = builder.zext(_load(builder, item, FLAGS_AT, I32), I64)
    like = _same(builder, builder.and_(actual_flags, flags), flags)
    like = builder.and_(like, _same(builder, _load(builder, item, DTYPE_AT), dtype))
    actual_ndim = builder.zext(_load(builder, item, NDIM_AT, I32), I64)
    like = builder.and_(like, _same(builder, actual_ndim, ndim))
    result = cgutils.alloca_once_value(builder, like)
    with builder.if_then(like):
        shape = _load(builder, item, SHAPE_AT)
        with cgutils.for_range(builder, ndim) as loop:
            at = builder.mul(loop.index, ir.Constant(I64, 8))
            one, other = (_load(builder, builder.add(start, at)) for start in (shape, lengths))
            with builder.if_then(builder.not_(_same(builder, one, other)), likely=False):
                _false(builder, result)
                loop.do_break()
    return builder.load(result)


# Both are emitted, because Numba takes 0.2 s and 0.1 s for what LLVM compiles in no time.


@intrinsic
def _is_like(typing_context: Any, item: Any, dtype: Any, flags: Any, ndim: Any, lengths: Any) -> Any:
    """Whether an array has this dtype, flags and shape."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _like(builder, *args)

    return types.boolean(*(types.int64,) * 5), emit


@intrinsic
def _are_unchanged(typing_context: Any, headers: Any) -> Any:
    """Whether arrays still have the headers at an address, which follow their number."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        result = cgutils.alloca_once_value(builder, ir.Constant(ir.IntType(1), 1))
        header_at = cgutils.alloca_once_value(builder, builder.add(args[0], ir.Constant(I64, 8)))
        with cgutils.for_range(builder, _load(builder, args[0])) as loop:
            header = builder.load(header_at)
            item, data, dtype, flags, ndim = (
                _load(builder, header, 8 * getattr(object_headers, word))
                for word in ("OBJECT", "DATA", "DTYPE", "FLAGS", "NDIM")
            )
            lengths = builder.add(header, ir.Constant(I64, 8 * object_headers.LENGTHS))
            like = _like(builder, item, dtype, flags, ndim, lengths)
            unchanged = builder.and_(like, _same(builder, _load(builder, item, DATA), data))
            with builder.if_then(builder.not_(unchanged), likely=False):
                _false(builder, result)
                loop.do_break()
            builder.store(builder.add(lengths, builder.shl(ndim, ir.Constant(I64, 3))), header_at)
        return builder.load(result)

    return types.boolean(types.int64), emit


@helper
def can_be_at(start, length, itemsize, ranges):
    """Whether a gradient may be at an address: aligned, and apart from memory that a step writes."""
    stop = start + length * itemsize
    return start % itemsize == 0 and not overlaps(start, stop, ranges[0], ranges[1])


@helper
def first_invalid(rows, items, ranges):
    """Write the gradients' addresses into the table; return the first row to be checked in Python.

    If all gradients are valid, -1, or `SKIPPED` if some are None.

    `rows` is the table (`executors.cpu.columns`), `items` the address of as many addresses of gradient
    objects (0 where the table has the gradient's address already), `ranges` the sorted starts and
    ends of all memory that a gradient may not share.
    """
    status = -1
    for row in range(rows.shape[0]):
        item = read_word(items + 8 * row)
        if item == 0:
            continue
        # Skipped in a step whose end was interrupted: its hyperparameters are of another step.
        if read_word(rows[row, COUNTS] + 8 * LAG) != rows[row, HYPER_LAG]:
            return row
        if item == rows[row, NONE]:
            rows[row, COUNT] = 0
            status = SKIPPED
            continue
        if read_word(item + OBJECT_TYPE) != rows[row, TYPE]:
            return row
        headers = rows[row, HEADERS]
        lengths = headers + 8 * (
            1 + object_headers.LENGTHS
        )  # of the parameter, whose header comes first
        if not _is_like(item, rows[row, DTYPE], rows[row, FLAGS], rows[row, NDIM], lengths):
            return row
        if not _are_unchanged(headers):
            return row
        start = read_word(item + DATA)
        # An address that is in the table was checked before, and the memory that a step writes does not
        # move. Not in a separate function: passing the table takes 8 ns for each array.
        if start != rows[row, GRAD]:
            if not can_be_at(start, rows[row, LENGTH], rows[row, ITEMSIZE], ranges):
                return row
            rows[row, GRAD] = start
        # Writing only on a change keeps the line in the caches of the other threads.
        if rows[row, COUNT] != rows[row, LENGTH]:
            rows[row, COUNT] = rows[row, LENGTH]
    return status
