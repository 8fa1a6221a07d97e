"""Where CPython and NumPy keep what machine code reads of objects: addresses, flags, items of lists.

This layout is part of their binary interface, and is verified on a few samples before it is relied on.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from fastopt.codecs.base import Array
from fastopt.validation import T

# Flags in the header of an array, as NumPy defines them.
CONTIGUOUS, ALIGNED, WRITEABLE = 0x0001, 0x0100, 0x0400

_FIELDS = object.__basicsize__  # the fields of an array follow the object's own
OBJECT_TYPE = _FIELDS - 8
DATA, NDIM_AT, SHAPE_AT, DTYPE_AT, FLAGS_AT = (_FIELDS + offset for offset in (0, 8, 16, 40, 48))
LIST_ITEMS = _FIELDS + 8  # after the length

_word_at = ctypes.c_ssize_t.from_address


def _word(item: object, offset: int) -> int:
    return _word_at(id(item) + offset).value


@cache
def headers_are_readable() -> bool:
    """Whether array headers have the assumed layout, verified on a few samples."""
    if object.__basicsize__ != 16 or ctypes.sizeof(ctypes.c_void_p) != 8:
        return False

    def matches(array: Array) -> bool:
        shape = (ctypes.c_ssize_t * array.ndim).from_address(_word(array, SHAPE_AT))
        flags = _word(array, FLAGS_AT) & (CONTIGUOUS | ALIGNED | WRITEABLE)
        expected = CONTIGUOUS * array.flags.c_contiguous
        expected += ALIGNED * array.flags.aligned + WRITEABLE * array.flags.writeable
        return (
            _word(array, OBJECT_TYPE) == id(np.ndarray)
            and _word(array, DATA) == _declared_address(array)
            and _word(array, NDIM_AT) & 0xFFFFFFFF == array.ndim
            and tuple(shape) == array.shape
            and _word(array, DTYPE_AT) == id(array.dtype)
            and flags == expected
        )

    frozen = np.ones(3)
    frozen.flags.writeable = False
    samples = frozen, np.ones((5, 7)), np.ones((2, 3), np.float32)[:, ::2], np.ones(9, np.float32)[1:4]
    bytewise = np.ones(33, np.int8)[1:].view(np.float64)
    arrays: list[Array] = [*samples, bytewise]
    ids = (ctypes.c_ssize_t * len(arrays)).from_address(items_of(arrays))
    return list(ids) == list(map(id, arrays)) and all(map(matches, arrays))


def data_address(array: object) -> int:
    """The address of the first element of an array: in 0.2 us, where NumPy takes 1.5 to say it."""
    if isinstance(array, np.ndarray) and headers_are_readable():
        return _word_at(id(array) + DATA).value
    return _declared_address(array)


def _declared_address(array: Any) -> int:
    return int(array.__array_interface__["data"][0])


def items_of(objects: list[T]) -> int:
    """The address of the pointers to a list's items; valid while the list does not change."""
    return _word(objects, LIST_ITEMS)


def identities(objects: Sequence[object]) -> bytes:
    """The ids of a list's objects, to compare lists: == of arrays and tensors compares elements.

    Copying the list's pointers takes 2 us for a thousand objects, and asking each for its id 35.
    """
    if type(objects) is list and headers_are_readable():  # `items_of`, without a call
        return ctypes.string_at(_word_at(id(objects) + LIST_ITEMS).value, 8 * len(objects))
    return np.array(list(map(id, objects)), np.int64).tobytes()
