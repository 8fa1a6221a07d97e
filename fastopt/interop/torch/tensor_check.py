"""The gradients and step counts of many tensors, in machine code."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from fastopt.arrays.checks import Array
from fastopt.arrays.object_layout import items_of
from fastopt.executors.cpu.columns import COUNT, COUNTS, GRAD, HYPER_LAG, ITEMSIZE, LAG, LENGTH, STEPS
from fastopt.executors.cpu.header_check import can_be_at
from fastopt.executors.cpu.pointers import read_word, word_reader
from fastopt.executors.exchange import NOTHING, TABLE, WORDS, Expected, data_of, fits
from fastopt.kernels.compiler import compile_function, helper


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


def _gradients(exchange, items, expected, rows, ranges, noted):
    count = 0
    for i in range(expected.shape[0]):
        item = read_word(items + 8 * i)
        if read_word(rows[i, COUNTS] + 8 * LAG) != rows[i, HYPER_LAG]:  # as in the header check
            return -1
        if item == exchange[NOTHING]:
            rows[i, COUNT] = 0
            noted[i] = item
            continue
        if not fits(exchange, item, expected[i]):
            return -1
        start = data_of(exchange)
        if start == 0 and rows[i, LENGTH] > 0:  # a tensor without memory of its own
            return -1
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


@cache
def _gradients_compiled() -> Callable[..., int]:
    signature = types.int64(WORDS, types.int64, *(TABLE,) * 3, WORDS)
    return compile_function(_gradients, signature, "torch-gradients", nogil=False)


@cache
def read_counts() -> Callable[[Array, Array], None]:
    """``read_counts()(locations, counts)``: read step counts, floats at addresses with their sizes."""
    return compile_function(_read, types.void(TABLE, WORDS), "torch-counts")


@cache
def note_steps() -> Callable[..., None]:
    """``note_steps()(counts, before, given, locations, products)``: write counts into torch's tensors.

    For each row that has a gradient, and a count that differs from `before`: the count to the first
    address in `locations`, and the product to the second. Each is followed by a size in bytes, 0 if
    there is no such tensor.
    """
    flags, products = types.Array(types.boolean, 1, "C"), types.Array(types.float64, 1, "C")
    signature = types.void(TABLE, WORDS, flags, TABLE, products)
    return compile_function(_note, signature, "torch-note")


def note(expected: Expected, grads: list[Any], rows: Array, ranges: Array, noted: Array) -> int:
    """Write the addresses of gradients like the expected tensors into an optimizer's table.

    `noted` becomes the argument of the header check in their place; it is not 0 for a gradient that is
    None. Return how many are not None, or -1 if one is to be checked in Python.
    """
    known = expected.exchange, items_of(grads), expected.table
    return int(_gradients_compiled()(*known, rows, ranges, noted))
