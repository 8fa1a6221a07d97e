"""The check of gradients at every step, in machine code: nanoseconds where Python takes microseconds.

A gradient passes as the object that the caller gave; its header says the type, dtype, shape, flags and
address. The headers of the parameters, and of whatever else belongs to the caller, must still say
what they did when the optimizer was made. The layout of a header is part of NumPy's and CPython's
binary interface, and is tried out once before it is relied on. This only lets through what is
surely right; whatever else comes is looked at again by Python (`arrays.checks`,
`arrays.object_headers`), which either accepts it or raises the error.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import numpy as np

from fastopt.arrays import checks, object_headers
from fastopt.arrays.object_headers import ALIGNED, CONTIGUOUS, WRITEABLE
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
from fastopt.executors.cpu.pointers import read_int, read_word
from fastopt.kernels.compiler import helper

SKIPPED = -2

_FIELDS = object.__basicsize__  # the fields of an array follow the object's own
OBJECT_TYPE = _FIELDS - 8
DATA, NDIM_AT, SHAPE_AT, DTYPE_AT, FLAGS_AT = (_FIELDS + offset for offset in (0, 8, 16, 40, 48))


LIST_ITEMS = _FIELDS + 8  # behind the length


_word_at = ctypes.c_ssize_t.from_address


def _word(item: Any, offset: int) -> int:
    return _word_at(id(item) + offset).value


def items_of(found: list[Any]) -> int:
    """The address of the addresses of a list's items; valid as long as the list does not change."""
    return _word_at(id(found) + LIST_ITEMS).value


def identities(found: list[Any]) -> bytes:
    """Which objects a list has: by their own == arrays and tensors would compare elements.

    A copy of the list's own content takes 2 us for a thousand objects, and to ask each for its id 35.
    """
    if headers_are_readable():
        return ctypes.string_at(items_of(found), 8 * len(found))
    return np.array(list(map(id, found)), np.int64).tobytes()


@cache
def headers_are_readable() -> bool:
    """Whether array headers are laid out as assumed, found by looking at a few."""
    if object.__basicsize__ != 16 or ctypes.sizeof(ctypes.c_void_p) != 8:
        return False

    def matches(array: Any) -> bool:
        shape = (ctypes.c_ssize_t * array.ndim).from_address(_word(array, SHAPE_AT))
        flags = _word(array, FLAGS_AT) & (CONTIGUOUS | ALIGNED | WRITEABLE)
        expected = CONTIGUOUS * array.flags.c_contiguous
        expected += ALIGNED * array.flags.aligned + WRITEABLE * array.flags.writeable
        return (
            _word(array, OBJECT_TYPE) == id(np.ndarray)
            and _word(array, DATA) == array.__array_interface__["data"][0]
            and _word(array, NDIM_AT) & 0xFFFFFFFF == array.ndim
            and tuple(shape) == array.shape
            and _word(array, DTYPE_AT) == id(array.dtype)
            and flags == expected
        )

    frozen = np.ones(3)
    frozen.flags.writeable = False
    samples = frozen, np.ones((5, 7)), np.ones((2, 3), np.float32)[:, ::2], np.ones(9, np.float32)[1:4]
    bytewise = np.ones(33, np.int8)[1:].view(np.float64)
    arrays = [*samples, bytewise]
    ids = (ctypes.c_ssize_t * len(arrays)).from_address(items_of(arrays))
    return list(ids) == list(map(id, arrays)) and all(map(matches, arrays))


overlaps = helper(checks.overlaps)


@helper
def _is_like(item, dtype, flags, ndim, lengths):
    """Whether the header of an array says this."""
    if read_word(item + DTYPE_AT) != dtype or read_int(item + FLAGS_AT) & flags != flags:
        return False
    if read_int(item + NDIM_AT) != ndim:
        return False
    axis, actual = 0, read_word(item + SHAPE_AT)
    while axis < ndim and read_word(actual + 8 * axis) == read_word(lengths + 8 * axis):
        axis += 1
    return axis == ndim


@helper
def _are_unchanged(at):
    """Whether so many arrays still have the headers that follow (`arrays.object_headers`)."""
    count, at = read_word(at), at + 8
    for _ in range(count):
        item, ndim = read_word(at + 8 * object_headers.OBJECT), read_word(at + 8 * object_headers.NDIM)
        if read_word(item + DATA) != read_word(at + 8 * object_headers.DATA):
            return False
        dtype, flags = (
            read_word(at + 8 * object_headers.DTYPE),
            read_word(at + 8 * object_headers.FLAGS),
        )
        if not _is_like(item, dtype, flags, ndim, at + 8 * object_headers.LENGTHS):
            return False
        at += 8 * (object_headers.LENGTHS + ndim)
    return True


@helper
def can_be_at(start, length, itemsize, ranges):
    """Whether so many elements can be there: aligned, and apart from what a step writes."""
    stop = start + length * itemsize
    return start % itemsize == 0 and not overlaps(start, stop, ranges[0], ranges[1])


@helper
def first_invalid(rows, items, ranges):
    """Write the gradients' addresses into the table; the first row that needs another look.

    Where all is well, -1, or `SKIPPED` if some gradients are None.

    `rows` is the table (`executors.cpu.columns`), `items` the address of as many addresses of gradient
    objects (0 where the table has the gradient's address already), `ranges` the sorted starts and
    ends of all memory that a gradient may not share.
    """
    status = -1
    for row in range(rows.shape[0]):
        item = read_word(items + 8 * row)
        if item == 0:
            continue
        # Left out of a step whose end was interrupted: its hyperparameters are not those of its step.
        if read_word(rows[row, COUNTS] + 8 * LAG) != rows[row, HYPER_LAG]:
            return row
        if item == rows[row, NONE]:
            rows[row, COUNT] = 0
            status = SKIPPED
            continue
        if read_word(item + OBJECT_TYPE) != rows[row, TYPE]:
            return row
        own = rows[row, HEADERS]
        lengths = own + 8 * (1 + object_headers.LENGTHS)  # of the parameter, whose header comes first
        if not _is_like(item, rows[row, DTYPE], rows[row, FLAGS], rows[row, NDIM], lengths):
            return row
        if not _are_unchanged(own):
            return row
        start = read_word(item + DATA)
        # An address that is in the table was found to be apart: what a step writes stays where it is.
        # Not in a function of its own: to pass it a table takes 8 ns for each array.
        if start != rows[row, GRAD]:
            if not can_be_at(start, rows[row, LENGTH], rows[row, ITEMSIZE], ranges):
                return row
            rows[row, GRAD] = start
        # What is not written need not come from this core's cache to those of the other threads.
        if rows[row, COUNT] != rows[row, LENGTH]:
            rows[row, COUNT] = rows[row, LENGTH]
    return status
