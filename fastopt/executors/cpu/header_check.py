"""The check of gradients at every step, in machine code: nanoseconds instead of microseconds.

A gradient is passed as the caller's object, whose header has the type, dtype, shape, flags and address.
The headers of the parameters, and of the caller's other arrays, must be unchanged since the optimizer
was built. Only arrays that are certainly valid pass; all others are checked again in
Python (`arrays.checks`, `arrays.object_headers`), which accepts them or raises the error.
"""

from __future__ import annotations

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
    SKIPPED,
    TYPE,
)
from fastopt.executors.cpu.pointers import read_word
from fastopt.executors.cpu.row_access import Rows, load_word
from fastopt.kernels.compiler import helper
from fastopt.kernels.intrinsics import Builder, Context, Signature, Type, Typed, TypingContext, Value
from fastopt.kernels.llvm_operations import I32, I64

overlaps = helper(checks.overlaps)


def _same(builder: Builder, one: Value, other: Value) -> Value:
    return builder.icmp_signed("==", one, other)


def _false(builder: Builder, variable: Value) -> None:
    builder.store(ir.Constant(ir.IntType(1), 0), variable)


def _like(
    builder: Builder, item: Value, dtype: Value, flags: Value, ndim: Value, lengths: Value
) -> Value:
    """Emit whether an array has this dtype, flags and shape."""
    actual_flags = builder.zext(load_word(builder, item, FLAGS_AT, I32), I64)
    like = _same(builder, builder.and_(actual_flags, flags), flags)
    like = builder.and_(like, _same(builder, load_word(builder, item, DTYPE_AT), dtype))
    actual_ndim = builder.zext(load_word(builder, item, NDIM_AT, I32), I64)
    like = builder.and_(like, _same(builder, actual_ndim, ndim))
    result = cgutils.alloca_once_value(builder, like)
    with builder.if_then(like):
        shape = load_word(builder, item, SHAPE_AT)
        with cgutils.for_range(builder, ndim) as loop:
            at = builder.mul(loop.index, ir.Constant(I64, 8))
            one, other = (load_word(builder, builder.add(start, at)) for start in (shape, lengths))
            with builder.if_then(builder.not_(_same(builder, one, other)), likely=False):
                _false(builder, result)
                loop.do_break()
    return builder.load(result)


def _are_unchanged(builder: Builder, headers: Value) -> Value:
    """Emit whether arrays still have the headers at an address, which follow their number."""
    result = cgutils.alloca_once_value(builder, ir.Constant(ir.IntType(1), 1))
    header_at = cgutils.alloca_once_value(builder, builder.add(headers, ir.Constant(I64, 8)))
    with cgutils.for_range(builder, load_word(builder, headers)) as loop:
        header = builder.load(header_at)
        item, data, dtype, flags, ndim = (
            load_word(builder, header, 8 * getattr(object_headers, word))
            for word in ("OBJECT", "DATA", "DTYPE", "FLAGS", "NDIM")
        )
        lengths = builder.add(header, ir.Constant(I64, 8 * object_headers.LENGTHS))
        like = _like(builder, item, dtype, flags, ndim, lengths)
        unchanged = builder.and_(like, _same(builder, load_word(builder, item, DATA), data))
        with builder.if_then(builder.not_(unchanged), likely=False):
            _false(builder, result)
            loop.do_break()
        builder.store(builder.add(lengths, builder.shl(ndim, ir.Constant(I64, 3))), header_at)
    return builder.load(result)


# What `_inspect` says of a gradient: to be checked in Python, None, at a new address, or at that in the
# table.
UNUSUAL, MISSING, MOVED, USUAL = range(4)


@intrinsic
def _inspect(typing_context: TypingContext, rows: Type, row: Type, item: Type) -> Typed:
    """Compare the object of a gradient and the headers of an array with what its row says of them."""

    def emit(context: Context, builder: Builder, signature: Signature, args: list[Value]) -> Value:
        this = Rows(context, builder, signature, args)[args[1]]
        item = args[2]
        result = cgutils.alloca_once_value(builder, ir.Constant(I64, UNUSUAL))
        # Skipped in a step whose end was interrupted: its hyperparameters are of another step.
        lag = load_word(builder, this.load(COUNTS), 8 * LAG)
        with (
            builder.if_then(_same(builder, lag, this.load(HYPER_LAG))),
            builder.if_else(_same(builder, item, this.load(NONE))) as (is_none, is_object),
        ):
            with is_none:
                builder.store(ir.Constant(I64, MISSING), result)
            with (
                is_object,
                builder.if_then(_same(builder, load_word(builder, item, OBJECT_TYPE), this.load(TYPE))),
            ):
                headers = this.load(HEADERS)
                # Of the parameter, whose header comes first.
                lengths = builder.add(headers, ir.Constant(I64, 8 * (1 + object_headers.LENGTHS)))
                expected = this.load(DTYPE), this.load(FLAGS), this.load(NDIM), lengths
                with (
                    builder.if_then(_like(builder, item, *expected)),
                    builder.if_then(_are_unchanged(builder, headers)),
                ):
                    # An address that is in the table was checked before, and the memory that a step
                    # writes does not move.
                    known = _same(builder, load_word(builder, item, DATA), this.load(GRAD))
                    codes = (ir.Constant(I64, code) for code in (USUAL, MOVED))
                    builder.store(builder.select(known, *codes), result)
        return builder.load(result)

    return types.int64(rows, types.intp, types.int64), emit


@intrinsic
def _note(typing_context: TypingContext, rows: Type, row: Type, item: Type) -> Typed:
    """Write the address of a gradient and the number of elements to step into a row."""

    def emit(context: Context, builder: Builder, signature: Signature, args: list[Value]) -> Value:
        this = Rows(context, builder, signature, args)[args[1]]
        this.change(GRAD, load_word(builder, args[2], DATA))
        this.change(COUNT, this.load(LENGTH))
        return context.get_dummy_value()

    return types.void(rows, types.intp, types.int64), emit


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
        state = _inspect(rows, row, item)
        if state == UNUSUAL:
            return row
        if state == MISSING:
            rows[row, COUNT] = 0
            status = SKIPPED
            continue
        # Intrinsics, and a function of numbers: to pass the table to one of Numba's takes 8 ns for
        # each array.
        if state == MOVED:
            start = read_word(item + DATA)
            if not can_be_at(start, rows[row, LENGTH], rows[row, ITEMSIZE], ranges):
                return row
        _note(rows, row, item)
    return status
