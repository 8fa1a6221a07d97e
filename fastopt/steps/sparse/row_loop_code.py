"""The loops of `row_loops`, to be compiled: sorting and summing gradients, products of matrices."""

from __future__ import annotations

import numpy as np
from numba import from_dtype, types

from fastopt.kernels.compiler import Definition, helper
from fastopt.kernels.intrinsics import Type
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


_LONG, _TABLE = types.Array(types.int64, 1, "C"), types.Array(types.int64, 2, "C")


def _array(dtype: str, dimensions: int = 1, *, readonly: bool = False) -> Type:
    return types.Array(from_dtype(np.dtype(dtype)), dimensions, "C", readonly=readonly)


sort_rows = Definition(_sort, types.void(_LONG, _LONG, _LONG))
group_duplicates = Definition(_group_duplicates, types.UniTuple(types.int64, 2)(*(_LONG,) * 5))


def nonempty(index: str) -> Definition:
    return Definition(_nonempty, types.int64(_array(index, readonly=True), _LONG))


def add_rows(dtype: str) -> Definition:
    values, out = _array(dtype, 2, readonly=True), _array(dtype, 2)
    return Definition(_add_rows, types.void(_LONG, _LONG, values, out))


def scatter(index: str, dtype: str) -> Definition:
    columns, data = _array(index, readonly=True), _array(dtype, readonly=True)
    return Definition(_scatter, types.boolean(_LONG, columns, data, _array(dtype, 2)))


def products(dtype: str) -> Definition:
    tree, marks, last = _array("float64", 3), _array("uint8"), _array("int16")
    numbers = _array(dtype, 2)
    signature = types.void(tree, marks, last, _LONG, types.int64, _TABLE, numbers)
    return Definition(_products, signature)
