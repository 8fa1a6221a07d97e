"""The driver of kernels over the touched rows of a matrix: the same as for whole arrays, row by row.

A kernel works on a stretch of elements. A row is one; only its gradient stands elsewhere, among the
values of the sparse gradient, and the kernel gets an address from which the row would be found there.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np

from fastopt.arrays.checks import Array
from fastopt.changes import Change
from fastopt.executors import threads
from fastopt.executors.dispatch import on_one_core, turn_for
from fastopt.kernels.functions import function

_CODE = f"{__package__}.row_driver_code"

# What `work` holds, the description of a step over rows.
(
    KERNEL,  # address of the machine code of the step; 0 to only catch up
    HYPER,
    CATCH_UP,  # address of the machine code that brings a row up to date
    NUMBERS,  # address of its hyperparameters for rows that were left at step 0, 1, ...
    STRIDE,  # bytes from those of one step to those of the next
    WIDTH,  # elements of a row
    ROWS,  # how many rows there are among the values of the gradient, from its address on
    SUMS,  # address of further ones
    NOW,  # steps since all rows were at the same one; counted by the machine code that takes them
    SUM_BYTES,  # of what the step adds up of a row, written row after row; 0 if there is nothing
) = range(WORK := 10)

FIRST, PARAM, GRAD = range(3)  # in a row of addresses, in front of the slots; behind these the sums

APART = 16  # words between what two threads write to: two cache lines


@cache
def _compiled(name: str, parallel: bool) -> Callable[..., None]:
    if not parallel:
        return function(_CODE, f"{name}_serial")
    threads.layer()
    return function(_CODE, f"{name}_parallel")


def _copies(addresses: Array, count: int) -> Array:
    """A copy of the addresses for each thread, which changes them from row to row."""
    copies = np.empty((count, addresses.size + APART), np.int64)
    copies[:, : addresses.size] = addresses
    return copies


def walking(executor: str, size: int, count: int, *arguments: Any) -> Change:
    """The change that steps rows or brings them up to date, with at most `count` threads.

    Called as ``walking(executor, size, count, work, addresses, row_bytes, rows, positions, last)``.

    Parameters
    ----------
    executor : str
    size : int
        How many elements these rows have.
    count : int
    work : array of int64
        See above.
    addresses : array of int64
        The number of the first element, then the addresses of parameter, gradient and all slots.
    row_bytes : array of int64
        How much of each of them is a row, 0 of what is no array of the parameter's.
    rows : array of int64
        Each at most once.
    positions : array of int64
        The row of each one's gradient in the values, or after these in the sums.
    last : array of int16
        The step at which each row of the matrix was left. Empty: none has to catch up.
    """
    count = 1 if on_one_core(executor, size) else count
    return partial(_compiled("walk", count > 1), *arguments, _copies(arguments[1], count), count)


def walk(executor: str, size: int, *arguments: object) -> None:
    """``walk(executor, size, work, ...)``: work on rows now."""
    count, turn = turn_for(executor, [size])
    with turn:
        walking(executor, size, count, *arguments)()


def sweep(executor: str, size: int, work: Array, addresses: Array, last: Array) -> None:
    """All lagging rows catch up."""
    count, turn = turn_for(executor, [size])
    with turn:
        _compiled("sweep", count > 1)(work, addresses, last, _copies(addresses, count), count)


def summing(executor: str, size: int, *arguments: Any) -> Callable[..., None]:
    """What writes the sums of each row of a sparse gradient, as of an array of its own.

    Called as ``summing(executor, size, work, addresses, row_bytes, rows, positions)``, see `walking`.
    Returns ``write(kernel, sums, place, stride, count)``: with the address of a kernel of
    `executors.cpu.sum_kernels` it writes for each row a number for each of its blocks, at `place` and,
    for each further sum, `stride` later, with at most `count` threads.
    """

    def write(kernel: int, sums: Array, place: int, stride: int, count: int) -> None:
        count = 1 if on_one_core(executor, size) else count
        copies = _copies(arguments[1], count)
        _compiled("sum", count > 1)(*arguments, copies, kernel, sums, place, stride, count)

    return write
