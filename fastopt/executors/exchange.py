"""Tensors in machine code: 30 ns each, where making an array takes 700.

A library describes its tensors to compiled code by DLPack's exchange interface: a function that writes
address, device, dtype, shape and strides of a Python object into a struct. Tensors that are not as
expected are left to Python.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from functools import cache

import numba
import numpy as np
from llvmlite import ir
from numba import types

from fastopt.arrays.checks import Array, address
from fastopt.arrays.object_layout import OBJECT_TYPE, headers_are_readable
from fastopt.executors.cpu.pointers import read_word
from fastopt.kernels.compiler import helper
from fastopt.kernels.intrinsics import Builder, Intrinsic, Value, emits
from fastopt.kernels.llvm_operations import I32, I64

# The columns of a table of expected objects. Where KIND is 0 an object is known by its identity.
ID, KIND, DEVICE, FORM, NDIM, SHAPE, STRIDES, DATA, SIZE = range(9)

# The words of DLPack's struct: address, device, dimensions and dtype, shape, strides, offset in bytes.
AT, DEVICE_AT, FORM_AT, SHAPE_AT, STRIDES_AT, OFFSET = range(6)

# What compiled code needs of a library: addresses of functions and of None, and room for a struct.
DESCRIBE, STREAM, CLEAR_ERROR, NOTHING, STRUCT = range(5)

WORDS, TABLE = types.Array(types.int64, 1, "C"), types.Array(types.int64, 2, "C")


class Interface(ctypes.Structure):
    """DLPackExchangeAPI, version 1."""

    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("previous", ctypes.c_void_p),
        *((f"function{i}", ctypes.c_void_p) for i in range(3)),
        ("describe", ctypes.c_void_p),
        ("stream", ctypes.c_void_p),
    )


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


def interface(kind: object) -> Array | None:
    """What compiled code needs to look at objects of a class, None if its library does not offer it."""
    return _interface(kind)


@cache  # behind a function of anything: type checkers do not take a class for hashable
def _interface(kind: object) -> Array | None:
    capsule = getattr(kind, "__dlpack_c_exchange_api__", None)
    if capsule is None or numba.config.DISABLE_JIT or not headers_are_readable():
        return None
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    api = Interface.from_address(get(capsule, b"dlpack_exchange_api"))
    if api.major != 1 or not api.describe:
        return None
    clear = ctypes.cast(ctypes.pythonapi.PyErr_Clear, ctypes.c_void_p).value
    return np.array([api.describe, api.stream or 0, clear, id(None), *[0] * (OFFSET + 1)], np.int64)


def can_be_negated(strides: Iterable[int]) -> bool:
    """Whether a tensor may have signs that are yet to be applied, which DLPack does not show.

    It is the imaginary part of a complex one then, so all of its strides are even.
    """
    return not any(stride % 2 for stride in strides)


_DESCRIBE = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_void_p)


class Expected:
    """A table of expected tensors, which it does not keep alive.

    Parameters
    ----------
    tensors : sequence of tensor
    exchange : array
        The `interface` of their library.

    Raises
    ------
    Exception
        Of the library's: a tensor cannot be described, since it has no memory of its own.
    """

    def __init__(self, tensors: Sequence[object], exchange: Array) -> None:
        self.exchange, self._kinds = exchange, list(map(type, tensors))
        self.table = np.zeros((len(tensors), SIZE + 1), np.int64)
        self._shapes: dict[tuple[int, ...], Array] = {}  # one for tensors that are alike: in cache
        describe = _DESCRIBE(int(exchange[DESCRIBE]))
        struct = np.zeros(OFFSET + 1, np.int64)
        for row, tensor, kind in zip(self.table, tensors, self._kinds, strict=True):
            describe(tensor, address(struct))
            ndim = int(struct[FORM_AT]) & 0xFFFFFFFF
            lists = [_numbers(int(struct[column]), ndim) for column in (SHAPE_AT, STRIDES_AT)]
            numbers = *lists[0], *lists[1], 0
            shape = self._shapes.setdefault(numbers, np.array(numbers, np.int64))
            row[[ID, KIND, DEVICE, FORM]] = id(tensor), id(kind), struct[DEVICE_AT], struct[FORM_AT]
            row[[NDIM, SHAPE, STRIDES]] = ndim, address(shape), address(shape) + 8 * ndim
            row[[DATA, SIZE]] = struct[AT] + struct[OFFSET], np.prod(shape[:ndim])

    @classmethod
    def identities(cls, objects: Sequence[object]) -> Expected:
        """Expect these very objects, which the caller keeps alive."""
        expected = cls([], np.zeros(STRUCT + OFFSET + 1, np.int64))
        expected.table = np.zeros((len(objects), SIZE + 1), np.int64)
        expected.table[:, ID] = list(map(id, objects))
        return expected


def _numbers(at: int, count: int) -> list[int]:
    return list((ctypes.c_int64 * count).from_address(at)) if count else []
