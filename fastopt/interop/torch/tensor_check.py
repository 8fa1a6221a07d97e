"""The check of many tensors in machine code: 30 ns each, where making an array takes 700.

torch describes tensors to compiled code by DLPack's exchange interface: a function that writes address,
dtype, shape and strides of a Python object into a struct. Tensors that are not as expected are left to
Python.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numba
import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from torch import Tensor

from fastopt.arrays.checks import Array, address
from fastopt.arrays.object_layout import OBJECT_TYPE, headers_are_readable, items_of
from fastopt.codecs.formats import FORMATS
from fastopt.executors.cpu.columns import COUNT, COUNTS, GRAD, HYPER_LAG, ITEMSIZE, LAG, LENGTH, STEPS
from fastopt.executors.cpu.header_check import can_be_at
from fastopt.executors.cpu.pointers import read_word, word_reader
from fastopt.interop.torch.tensors import format_of
from fastopt.kernels.compiler import compile_function, helper
from fastopt.kernels.llvm_operations import I64

# The columns of a table of expected tensors.
ID, DATA, FORM, NDIM, SIZE, SHAPE, STRIDES = range(7)

# The words of DLPack's struct: address, device, dimensions and dtype, shape, strides, offset in bytes.
AT, DEVICE, FORM_AT, SHAPE_AT, STRIDES_AT, OFFSET = range(6)
CPU = 1

UNSIGNED_INTEGER = 1  # DLPack's code


class _Interface(ctypes.Structure):
    """DLPackExchangeAPI, version 1."""

    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("previous", ctypes.c_void_p),
        *((f"function{i}", ctypes.c_void_p) for i in range(3)),
        ("describe", ctypes.c_void_p),
    )


@intrinsic
def _describe(typing_context, function, item, into):
    def emit(context, builder, signature, args):
        kind = ir.FunctionType(ir.IntType(32), [I64] * 2)
        status = builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])
        return builder.sext(status, I64)

    return types.int64(*(types.intp,) * 3), emit


@intrinsic
def _clear_error(typing_context, function):
    def emit(context, builder, signature, args):
        kind = ir.FunctionType(ir.VoidType(), [])
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), [])
        return context.get_dummy_value()

    return types.void(types.intp), emit


def _store(number):
    @intrinsic
    def store(typing_context, address, value):
        def emit(context, builder, signature, args):
            kind = context.get_data_type(number)
            builder.store(args[1], builder.inttoptr(args[0], kind.as_pointer()))
            return context.get_dummy_value()

        return types.void(types.intp, number), emit

    return store


_float32, _float64 = word_reader(types.float32), word_reader(types.float64)
_store_float32, _store_float64 = _store(types.float32), _store(types.float64)


@helper
def _fits(interface, item, expected, dlpack):
    """Whether a tensor in memory has this dtype, shape and strides; fills `dlpack`."""
    if _describe(interface[0], item, dlpack.ctypes.data) != 0:
        _clear_error(interface[1])
        return False
    if dlpack[DEVICE] != CPU or dlpack[FORM_AT] != expected[FORM] or dlpack[STRIDES_AT] == 0:
        return False
    for axis in range(expected[NDIM]):
        if read_word(dlpack[SHAPE_AT] + 8 * axis) != read_word(expected[SHAPE] + 8 * axis):
            return False
        if read_word(dlpack[STRIDES_AT] + 8 * axis) != read_word(expected[STRIDES] + 8 * axis):
            return False
    return True


def _same(interface, items, table):
    dlpack = np.empty(6, np.int64)
    for i in range(table.shape[0]):
        item = read_word(items + 8 * i)
        if item != table[i, ID] or not _fits(interface, item, table[i], dlpack):
            return False
        if dlpack[AT] + dlpack[OFFSET] != table[i, DATA] and table[i, SIZE] > 0:
            return False
    return True


def _gradients(interface, items, table, rows, ranges, noted):
    dlpack, count = np.empty(6, np.int64), 0
    for i in range(table.shape[0]):
        item = read_word(items + 8 * i)
        if read_word(rows[i, COUNTS] + 8 * LAG) != rows[i, HYPER_LAG]:  # as in the header check
            return -1
        if item == interface[3]:
            rows[i, COUNT] = 0
            noted[i] = item
            continue
        if read_word(item + OBJECT_TYPE) != interface[2]:
            return -1
        if not _fits(interface, item, table[i], dlpack):
            return -1
        start = dlpack[AT] + dlpack[OFFSET]
        if start != rows[i, GRAD]:
            if not can_be_at(start, rows[i, LENGTH], rows[i, ITEMSIZE], ranges):
                return -1
            rows[i, GRAD] = start
        if rows[i, COUNT] != rows[i, LENGTH]:
            rows[i, COUNT] = rows[i, LENGTH]
        noted[i] = 0
        count += 1
    return count


def _read(locations, counts):
    for i in range(locations.shape[0]):
        at = locations[i, 0]
        counts[i] = int(_float32(at)) if locations[i, 1] == 4 else int(_float64(at))


@helper
def _store_number(address, size, number):
    if size == 4:
        _store_float32(address, np.float32(number))
    elif size == 8:
        _store_float64(address, np.float64(number))


def _note(counts, before, given, locations, products):
    for i in range(locations.shape[0]):
        if given[i] and counts[i, STEPS] != before[i]:
            _store_number(locations[i, 0], locations[i, 1], counts[i, STEPS])
            _store_number(locations[i, 2], locations[i, 3], products[i])


_WORDS, _TABLE = types.Array(types.int64, 1, "C"), types.Array(types.int64, 2, "C")


@cache
def _same_compiled() -> Callable[..., bool]:
    signature = types.boolean(_WORDS, types.int64, _TABLE)
    return compile_function(_same, signature, "torch-same", nogil=False)


@cache
def _gradients_compiled() -> Callable[..., int]:
    signature = types.int64(_WORDS, types.int64, *(_TABLE,) * 3, _WORDS)
    return compile_function(_gradients, signature, "torch-gradients", nogil=False)


@cache
def read_counts() -> Callable[[Array, Array], None]:
    """``read_counts()(locations, counts)``: read step counts, floats at addresses with their sizes."""
    return compile_function(_read, types.void(_TABLE, _WORDS), "torch-counts")


@cache
def note_steps() -> Callable[..., None]:
    """``note_steps()(counts, before, given, locations, products)``: write counts into torch's tensors.

    For each row that has a gradient, and a count that differs from `before`: the count to the first
    address in `locations`, and the product to the second. Each is followed by a size in bytes, 0 if
    there is no such tensor.
    """
    flags, products = types.Array(types.boolean, 1, "C"), types.Array(types.float64, 1, "C")
    signature = types.void(_TABLE, _WORDS, flags, _TABLE, products)
    return compile_function(_note, signature, "torch-note")


@cache
def interface() -> Array | None:
    """Addresses of DLPack's function, of the one that clears errors, of torch.Tensor and of None.

    None if torch lacks the interface, or has an unknown version of it.
    """
    capsule = getattr(Tensor, "__dlpack_c_exchange_api__", None)
    if capsule is None or numba.config.DISABLE_JIT or not headers_are_readable():
        return None
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    api = _Interface.from_address(get(capsule, b"dlpack_exchange_api"))
    if api.major != 1 or not api.describe:
        return None
    clear = ctypes.cast(ctypes.pythonapi.PyErr_Clear, ctypes.c_void_p).value
    return np.array([api.describe, clear, id(Tensor), id(None)], np.int64)


def _dlpack_dtype(dtype: torch.dtype) -> tuple[int, int]:
    """DLPack's code of the kind, and bits; zeros for a dtype that no array here has."""
    if dtype == torch.uint8:
        return UNSIGNED_INTEGER, 8
    name = format_of(dtype)
    return (FORMATS[name].dlpack, 8 * FORMATS[name].itemsize) if name else (0, 0)


class Expected:
    """Expected tensors, and checks against them.

    Parameters
    ----------
    tensors : sequence of Tensor
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = list(tensors)  # kept alive: the table has their ids
        self._shapes = [np.array([*t.shape, *t.stride(), 0], np.int64) for t in tensors]
        self._table = np.zeros((len(self._tensors), STRIDES + 1), np.int64)
        for row, tensor, shape in zip(self._table, self._tensors, self._shapes, strict=True):
            code, bits = _dlpack_dtype(tensor.dtype)
            row[ID], row[DATA], row[SIZE] = id(tensor), tensor.data_ptr(), tensor.numel()
            row[FORM] = tensor.dim() | code << 32 | bits << 40 | 1 << 48
            row[NDIM], row[SHAPE] = tensor.dim(), address(shape)
            row[STRIDES] = row[SHAPE] + 8 * tensor.dim()

    def are(self, tensors: list[Any]) -> bool:
        """Whether these are the expected tensors themselves, with the same memory."""
        table, known = self._table, interface()
        return len(tensors) == len(table) and bool(_same_compiled()(known, items_of(tensors), table))

    def note(self, grads: list[Any], rows: Array, ranges: Array, noted: Array) -> int:
        """Write the addresses of gradients like these tensors into an optimizer's table.

        `noted` becomes the argument of the header check in their place; it is not 0 for a gradient that
        is None. Return how many are not None, or -1 if one is to be checked in Python.
        """
        count = _gradients_compiled()(interface(), items_of(grads), self._table, rows, ranges, noted)
        return int(count)
