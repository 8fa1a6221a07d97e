"""Compiled loops for steps by rows: sorting and summing gradients, products of matrices."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numba
import numpy as np
from numba import types

from fastopt.arrays.checks import Array
from fastopt.codecs.base import DType
from fastopt.kernels.compiler import compile_function, helper
from fastopt.kernels.job import NUMBERS

# Rows of a CSR matrix that are passed at once where none has entries: two cache lines of its pointers.
# In leaps, doubled each time, 10^4 of 10^7 rows took 10 ms to find, since every load waits for another.
STRIDE = 32

# Bits of a digit by which rows are sorted, at most. From 7 to 13 all took the same.
DIGIT = 11


def _nonempty(indptr, nonempty):
    count, rows = 0, indptr.size - 1
    for start in range(0, rows, STRIDE):
        stop = min(start + STRIDE, rows)
        if indptr[start] != indptr[stop]:
            for row in range(start, stop):
                if indptr[row] != indptr[row + 1] and count < nonempty.size:
                    nonempty[count] = row
                    count += 1
    return count


@helper
def _in_order(rows):
    """Rows in the high bits, where each was in the `low` lowest ones, sorted; and `low`.

    By digits of the row, the last digit first: whatever the values, a pass over all for each. 10^4 of
    10^6 rows take 55 us, NumPy's sort of such numbers as long with AVX-512 and 500 without, its stable
    argsort 660. What a parameter with that many rows takes leaves the two enough bits.
    """
    every = np.uint64(0)
    for i in range(rows.size):
        every |= np.uint64(rows[i])
    bits, low = np.uint64(1), np.uint64(1)
    while every >> bits:
        bits += np.uint64(1)
    while np.uint64(rows.size) >> low:
        low += np.uint64(1)
    digits = (int(bits) + DIGIT - 1) // DIGIT
    width = np.uint64((int(bits) + digits - 1) // digits)
    mask = (np.uint64(1) << width) - np.uint64(1)
    packed, target = np.empty(rows.size, np.uint64), np.empty(rows.size, np.uint64)
    for i in range(rows.size):
        packed[i] = np.uint64(rows[i]) << low | np.uint64(i)
    begins, shift = np.empty(1 << int(width), np.uint64), low
    for _ in range(digits):
        begins[:] = 0
        for i in range(rows.size):
            begins[packed[i] >> shift & mask] += np.uint64(1)
        total = np.uint64(0)
        for value in range(begins.size):
            count = begins[value]
            begins[value] = total
            total += count
        for i in range(rows.size):
            number = packed[i]
            value = number >> shift & mask
            position = begins[value]
            begins[value] = position + np.uint64(1)
            target[position] = number
        packed, target = target, packed
        shift += width
    return packed, low


def _sort(rows, ordered, order):
    packed, low = _in_order(rows)
    for i in range(rows.size):
        ordered[i] = packed[i] >> low
        order[i] = packed[i] & ((np.uint64(1) << low) - np.uint64(1))


def _group_duplicates(unsorted, rows, positions, starts, repeated):
    packed, low = _in_order(unsorted)
    mask = (np.uint64(1) << low) - np.uint64(1)
    count = several = first = 0
    while first < unsorted.size:
        row = packed[first] >> low
        rows[count], positions[count] = row, packed[first] & mask
        stop = first + 1
        while stop < unsorted.size and packed[stop] >> low == row:
            stop += 1
        if stop > first + 1:
            positions[count] = unsorted.size + several
            starts[several + 1] = starts[several] + stop - first
            for i in range(first, stop):
                repeated[starts[several] + i - first] = packed[i] & mask
            several += 1
        count, first = count + 1, stop
    return count, several


def _add_rows(starts, order, values, out):
    for row in range(out.shape[0]):
        out[row] = values[order[starts[row]]]
        for position in range(starts[row] + 1, starts[row + 1]):
            for column in range(out.shape[1]):
                out[row, column] += values[order[position], column]


def _scatter(starts, columns, data, out):
    for row in range(out.shape[0]):
        for column in range(out.shape[1]):
            out[row, column] = 0.0
        for entry in range(starts[row], starts[row + 1]):
            column = columns[entry]
            if column < 0 or column >= out.shape[1]:
                return False
            out[row, column] += data[entry]
    return True


@helper
def _multiply(one, other, out):
    for i in range(one.shape[0]):
        for j in range(other.shape[1]):
            total = 0.0
            for k in range(one.shape[1]):
                total += one[i, k] * other[k, j]
            out[i, j] = total


def _products(tree, marks, last, rows, now, entries, numbers):
    for i in range(rows.size):
        marks[last[rows[i]]] = 1
    leaves, size = tree.shape[0] // 2, tree.shape[1]
    product, early, spare = np.eye(size), np.eye(size), np.empty((size, size))
    reached = now  # the product is that of the steps from here on
    for since in range(now - 1, -1, -1):
        if marks[since] == 0:
            continue
        marks[since] = 0
        for i in range(size):
            for j in range(size):
                early[i, j] = 1.0 if i == j else 0.0
        # The nodes that cover the steps from `since` on: those at the low end, then at the high end.
        low, high = since + leaves, reached + leaves
        while low < high:
            if low & 1:
                _multiply(tree[low], early, spare)
                early, spare = spare, early
                low += 1
            if high & 1:
                high -= 1
                _multiply(product, tree[high], spare)
                product, spare = spare, product
            low >>= 1
            high >>= 1
        _multiply(product, early, spare)
        product, spare = spare, product
        reached = since
        for i in range(entries.shape[0]):
            numbers[since, NUMBERS + i] = product[entries[i, 0], entries[i, 1]]
    marks[now] = 0


def _readable(kind: object, dimensions: int = 1) -> Any:
    return types.Array(kind, dimensions, "C", readonly=True)


_LONG = types.Array(types.int64, 1, "C")


@cache
def nonempty(index: DType) -> Callable[[Array, Array], int]:
    """``nonempty(dtype)(indptr, found)``: find the nonempty rows of a CSR matrix; their number."""
    signature = types.int64(_readable(numba.from_dtype(index)), _LONG)
    return compile_function(_nonempty, signature, f"nonempty-{index}")


@cache
def sort() -> Callable[[Array, Array, Array], None]:
    """``sort()(rows, ordered, order)``: rows from 0 on sorted, and where each was.

    Equal ones stay in the order in which they came.
    """
    return compile_function(_sort, types.void(_LONG, _LONG, _LONG), "sort-rows")


@cache
def group_duplicates() -> Callable[..., tuple[int, int]]:
    """``group_duplicates()(given, rows, positions, starts, repeated)``: distinct rows.

    Each of the `given` rows is written to `rows` once, sorted, and the position of its gradient to
    `positions`: its index in `given`, or after all of these the index of its sum. Sum ``i`` is of the
    gradients at ``repeated[starts[i]:starts[i + 1]]``. Returns the numbers of rows and of sums; the
    first of `starts` must be zero.
    """
    return compile_function(
        _group_duplicates, types.UniTuple(types.int64, 2)(*(_LONG,) * 5), "group-duplicates"
    )


@cache
def add_rows(dtype: DType) -> Callable[..., None]:
    """``add_rows(dtype)(starts, order, values, out)``: sums of rows.

    Row ``i`` of `out` is the sum of ``values[order[starts[i]:starts[i + 1]]]``, from left to right.
    """
    values, out = _readable(numba.from_dtype(dtype), 2), types.Array(numba.from_dtype(dtype), 2, "C")
    return compile_function(_add_rows, types.void(_LONG, _LONG, values, out), f"add-rows-{dtype}")


@cache
def scatter(index: DType, dtype: DType) -> Callable[..., bool]:
    """``scatter(index, dtype)(starts, columns, data, out)``: rows of a CSR matrix as dense ones.

    Entries of one element are added from left to right, to zero. False if one is outside of `out`.
    """
    columns, data = _readable(numba.from_dtype(index)), _readable(numba.from_dtype(dtype))
    out = types.Array(numba.from_dtype(dtype), 2, "C")
    signature = types.boolean(_LONG, columns, data, out)
    return compile_function(_scatter, signature, f"scatter-{index}-{dtype}")


@cache
def products(dtype: DType) -> Callable[..., None]:
    """``products(dtype)(tree, marks, last, rows, now, entries, numbers)``: what it takes to catch up.

    Leaf ``t`` of the tree is the matrix of step ``t``, a node above the product of its two. For every
    step that is marked, or at which some of the rows were left, the `entries` of the product of all
    matrices from it up to `now` are written to its row of `numbers`, where those of transforms
    begin. The marks are taken off.
    """
    tree, numbers = types.Array(types.float64, 3, "C"), types.Array(numba.from_dtype(dtype), 2, "C")
    marks, entries = types.Array(types.uint8, 1, "C"), types.Array(types.int64, 2, "C")
    last = types.Array(types.int16, 1, "C")
    signature = types.void(tree, marks, last, _LONG, types.int64, entries, numbers)
    return compile_function(_products, signature, f"products-{dtype}")
