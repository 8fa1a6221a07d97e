"""The look of compiled code at tensors, by the interface of `exchange`."""

from __future__ import annotations

from llvmlite import ir
from numba import types

from fastopt.arrays.object_layout import OBJECT_TYPE
from fastopt.executors.cpu.pointers import read_word
from fastopt.executors.exchange import (
    AT,
    CLEAR_ERROR,
    DATA,
    DESCRIBE,
    DEVICE,
    DEVICE_AT,
    FORM,
    FORM_AT,
    KIND,
    NDIM,
    OFFSET,
    SHAPE,
    SHAPE_AT,
    SIZE,
    STREAM,
    STRIDES,
    STRIDES_AT,
    STRUCT,
)
from fastopt.kernels.compiler import helper
from fastopt.kernels.intrinsics import Builder, Intrinsic, Value, emits
from fastopt.kernels.llvm_operations import I32, I64

WORDS, TABLE = types.Array(types.int64, 1, "C"), types.Array(types.int64, 2, "C")


def c_function(*kinds: ir.Type, result: ir.Type = I32) -> Intrinsic:
    """``call(address, numbers)``: call a C function of integers of these types."""

    @emits(types.int64(types.int64, types.UniTuple(types.int64, len(kinds))))
    def call(builder: Builder, address: Value, numbers: Value) -> Value:
        operands = [builder.extract_value(numbers, i) for i in range(len(kinds))]
        operands = [
            builder.trunc(operand, kind) if kind.width < I64.width else operand
            for operand, kind in zip(operands, kinds, strict=True)
        ]
        function = builder.inttoptr(address, ir.FunctionType(result, kinds).as_pointer())
        returned = builder.call(function, operands)
        return returned if result is I64 else builder.sext(returned, I64)

    return call


_call_describe, _call_clear = c_function(I64, I64), c_function()
_call_stream = c_function(I32, I32, I64)


@helper
def fits(exchange, item, expected):
    """Whether a tensor has this class, device, dtype, shape and strides; fills the struct."""
    if read_word(item + OBJECT_TYPE) != expected[KIND]:
        return False
    if _call_describe(exchange[DESCRIBE], (item, exchange.ctypes.data + 8 * STRUCT)) != 0:
        _call_clear(exchange[CLEAR_ERROR], ())
        return False
    struct = exchange[STRUCT:]
    if struct[DEVICE_AT] != expected[DEVICE] or struct[FORM_AT] != expected[FORM]:
        return False
    if struct[STRIDES_AT] == 0:
        return False
    for axis in range(expected[NDIM]):
        if read_word(struct[SHAPE_AT] + 8 * axis) != read_word(expected[SHAPE] + 8 * axis):
            return False
        if read_word(struct[STRIDES_AT] + 8 * axis) != read_word(expected[STRIDES] + 8 * axis):
            return False
    return True


@helper
def data_of(exchange):
    """The address in the struct."""
    return exchange[STRUCT + AT] + exchange[STRUCT + OFFSET]


@helper
def stream_of(exchange, device):
    """The stream that the library works on now, on a device as DLPack has it; -1 if it cannot say."""
    if exchange[STREAM] == 0:
        return -1
    into = exchange.ctypes.data + 8 * STRUCT
    if _call_stream(exchange[STREAM], (device, device >> 32, into)) != 0:
        _call_clear(exchange[CLEAR_ERROR], ())
        return -1
    return exchange[STRUCT]


@helper
def is_alike(exchange, item, expected):
    """Whether a tensor is like the expected one, in the same memory."""
    if not fits(exchange, item, expected):
        return False
    return data_of(exchange) == expected[DATA] or expected[SIZE] == 0
