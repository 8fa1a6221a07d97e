"""What steps over rows need beside the rows themselves: values gathered by row, products of matrices."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numba
import numpy as np
from numba import types

from fastopt.executors.compiled import compile_function
from fastopt.executors.options import helper
from fastopt.layouts.arrays import Array


def _nonempty(indptr, found):
    # In leaps: a matrix may have a million rows and entries in a few.
    count, row, rows = 0, 0, indptr.size - 1
    while row < rows:
        # The next row with entries is the last one at which the pointer is still the same.
        low, leap = row, 1
        while low + leap <= rows and indptr[low + leap] == indptr[row]:
            low += leap
            leap *= 2
        high = min(low + leap, rows + 1)
        while high - low > 1:
            middle = (low + high) // 2
            if indptr[middle] == indptr[row]:
                low = middle
            else:
                high = middle
        if low < rows:
            found[count] = low
            count += 1
        row = low + 1
    return count


def _gather(starts, order, columns, entries, out):
    width = entries.shape[1]
    for row in range(out.shape[0]):
        for i in range(out.shape[1]):
            out[row, i] = 0.0
        for position in range(starts[row], starts[row + 1]):
            entry = order[position] if order.size > 0 else position
            first = columns[entry] if columns.size > 0 else 0
            if first < 0 or first + width > out.shape[1]:
                return False
            for i in range(width):
                out[row, first + i] += entries[entry, i]
    return True


@helper
def _multiply(one, other, out):
    for i in range(one.shape[0]):
        for j in range(other.shape[1]):
            total = 0.0
            for k in range(one.shape[1]):
                total += one[i, k] * other[k, j]
            out[i, j] = total


def _products(tree, marks, now, entries, numbers):
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
            numbers[since, 1 + i] = product[entries[i, 0], entries[i, 1]]


def _readable(kind: Any, dimensions: int = 1) -> Any:
    return types.Array(kind, dimensions, "C", readonly=True)


_LONG = types.Array(types.int64, 1, "C")


@cache
def nonempty(index: np.dtype[Any]) -> Callable[[Array, Array], int]:
    """``nonempty(dtype)(indptr, found)``: the rows of a CSR matrix that have entries; how many."""
    signature = types.int64(_readable(numba.from_dtype(index)), _LONG)
    return compile_function(_nonempty, signature, f"nonempty-{index}")


@cache
def gather(index: np.dtype[Any], dtype: np.dtype[Any]) -> Callable[..., bool]:
    """``gather(index, dtype)(starts, order, columns, entries, out)``: sum entries by row.

    Row ``i`` of `out` is the sum of ``entries[order[starts[i]:starts[i + 1]]]``, each from its column
    on, added one after the other to zeros. Without `order` the entries are in order, without
    `columns` they are whole rows. False if an entry would not fit.
    """
    entries = _readable(numba.from_dtype(dtype), 2)
    out = types.Array(numba.from_dtype(dtype), 2, "C")
    columns = _readable(numba.from_dtype(index))
    signature = types.boolean(_LONG, _LONG, columns, entries, out)
    return compile_function(_gather, signature, f"gather-{index}-{dtype}")


@cache
def products(dtype: np.dtype[Any]) -> Callable[..., None]:
    """``products(dtype)(tree, marks, now, entries, numbers)``: what it takes to catch up.

    Leaf ``t`` of the tree is the matrix of step ``t``, a node above the product of its two. For every
    marked step the `entries` of the product of all matrices from it up to `now` are written to its
    row of `numbers`, from the second number on, and the mark is taken off.
    """
    tree, numbers = types.Array(types.float64, 3, "C"), types.Array(numba.from_dtype(dtype), 2, "C")
    marks, entries = types.Array(types.uint8, 1, "C"), types.Array(types.int64, 2, "C")
    signature = types.void(tree, marks, types.int64, entries, numbers)
    return compile_function(_products, signature, f"products-{dtype}")
