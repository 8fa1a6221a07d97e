"""Tensors in machine code: 30 ns each, where making an array takes 700.

A library describes its tensors to compiled code by DLPack's exchange interface: a function that writes
address, device, dtype, shape and strides of a Python object into a struct. Tensors that are not as
expected are left to Python.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from functools import cache

import numpy as np

from fastopt.arrays.checks import Array, address
from fastopt.arrays.object_layout import headers_are_readable
from fastopt.kernels.numba_settings import compiles

# The columns of a table of expected objects. Where KIND is 0 an object is known by its identity.
ID, KIND, DEVICE, FORM, NDIM, SHAPE, STRIDES, DATA, SIZE = range(9)

# The words of DLPack's struct: address, device, dimensions and dtype, shape, strides, offset in bytes.
AT, DEVICE_AT, FORM_AT, SHAPE_AT, STRIDES_AT, OFFSET = range(6)

# What compiled code needs of a library: addresses of functions and of None, and room for a struct.
DESCRIBE, STREAM, CLEAR_ERROR, NOTHING, STRUCT = range(5)


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


def interface(kind: object) -> Array | None:
    """What compiled code needs to look at objects of a class, None if its library does not offer it."""
    return _interface(kind)


@cache  # behind a function of anything: type checkers do not take a class for hashable
def _interface(kind: object) -> Array | None:
    capsule = getattr(kind, "__dlpack_c_exchange_api__", None)
    if capsule is None or not compiles() or not headers_are_readable():
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
