"""Compiled loops for steps by rows: sorting and summing gradients, products of matrices."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from fastopt.arrays.checks import Array
from fastopt.codecs.base import DType
from fastopt.kernels.functions import function

_CODE = f"{__package__}.row_loop_code"


@cache
def nonempty(index: DType) -> Callable[[Array, Array], int]:
    """``nonempty(dtype)(indptr, found)``: find the nonempty rows of a CSR matrix; their number."""
    return function(_CODE, "nonempty", str(index))


@cache
def sort() -> Callable[[Array, Array, Array], None]:
    """``sort()(rows, ordered, order)``: rows from 0 on sorted, and where each was.

    Equal ones stay in the order in which they came.
    """
    return function(_CODE, "sort_rows")


@cache
def group_duplicates() -> Callable[..., tuple[int, int]]:
    """``group_duplicates()(given, rows, positions, starts, repeated)``: distinct rows.

    Each of the `given` rows is written to `rows` once, sorted, and the position of its gradient to
    `positions`: its index in `given`, or after all of these the index of its sum. Sum ``i`` is of the
    gradients at ``repeated[starts[i]:starts[i + 1]]``. Returns the numbers of rows and of sums; the
    first of `starts` must be zero.
    """
    return function(_CODE, "group_duplicates")


@cache
def add_rows(dtype: DType) -> Callable[..., None]:
    """``add_rows(dtype)(starts, order, values, out)``: sums of rows.

    Row ``i`` of `out` is the sum of ``values[order[starts[i]:starts[i + 1]]]``, from left to right.
    """
    return function(_CODE, "add_rows", str(dtype))


@cache
def scatter(index: DType, dtype: DType) -> Callable[..., bool]:
    """``scatter(index, dtype)(starts, columns, data, out)``: rows of a CSR matrix as dense ones.

    Entries of one element are added from left to right, to zero. False if one is outside of `out`.
    """
    return function(_CODE, "scatter", str(index), str(dtype))


@cache
def products(dtype: DType) -> Callable[..., None]:
    """``products(dtype)(tree, marks, last, rows, now, entries, numbers)``: what it takes to catch up.

    Leaf ``t`` of the tree is the matrix of step ``t``, a node above the product of its two. For every
    step that is marked, or at which some of the rows were left, the `entries` of the product of all
    matrices from it up to `now` are written to its row of `numbers`, where those of transforms
    begin. The marks are taken off.
    """
    return function(_CODE, "products", str(dtype))
