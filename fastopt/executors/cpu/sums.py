"""Machine code that sums over the table of arrays what transforms declare, on one core and on all.

It checks the gradients first, as `drivers` does: so a step's check and its first sums are one call.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeAlias

from fastopt.codecs.base import Array
from fastopt.executors import threads
from fastopt.kernels.functions import function

Driver: TypeAlias = Callable[[Any, int, Any, Any, Any, Any, int], int]

# The lines of `kernels`:
(
    CODE,  # address of a kernel of `sum_kernels`, 0 where nothing is summed,
    OF_ROWS,  # and how many numbers of touched rows, of a sparse gradient, are in `sums` already
) = range(2)

_CODE = f"{__package__}.sum_code"


@cache
def serial() -> Driver:
    """``serial()(rows, items, ranges, kernels, sums, totals, 1)``: check gradients, and sum.

    Returns the status of the check (`header_check.first_invalid`). Unless that is a row, the sums over
    all arrays, or over each, are written. `kernels` has two lines with a number for each row, `sums`
    room for a number of each sum and block, and `totals` a row for each sum, with a number for each
    array or for all.
    """
    return function(_CODE, "serial")


@cache
def parallel() -> Driver:
    """The same on several threads."""
    threads.layer()
    return function(_CODE, "parallel")


@cache
def each_total() -> Callable[[Array, Array, Array, Array], None]:
    """``each_total()(numbers, layout, room, totals)``: add the sums of the blocks of each array.

    `layout` has a column for each array: where its sums begin in `numbers`, its blocks and how many
    sums each of them has. `room` is for the blocks of one, `totals` has a row for each sum.
    """
    return function(_CODE, "each_total")
