"""The drivers: machine code that runs kernels over the table of arrays, on one core and on all.

Both call the same kernels, so the results are the same bits. They are compiled once for all
chains: a new optimizer costs the compilation of its kernel only.

They count the steps too: an interrupt after the machine code could keep Python from counting.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache

from fastopt.codecs.base import Array
from fastopt.executors import threads
from fastopt.kernels.functions import function

# From so many arrays on, all threads check the gradients, if they are awake. Measured on two cores of a
# Zen 3, in us with one checking and with both: 128 arrays of 4000 elements 132 and 132, 256 of 1000 97
# and 91, 512 of 1000 151 and 143, 1000 of 1000 470 and 449. Threads that sleep take 50 us to wake up
# for a second loop.
MANY = 256
THREADS_SLEEP = os.environ.get("OMP_WAIT_POLICY", "").lower() == "passive"

_CODE = f"{__package__}.driver_code"


@cache
def bind() -> Callable[[Array, int, Array], int]:
    """``bind()(rows, items, ranges)``: only check the gradients and note their addresses."""
    return function(_CODE, "bind")


@cache
def serial() -> Callable[[Array, int, Array], int]:
    """``serial()(rows, items, ranges)``: check gradients, then step; return as `first_invalid`."""
    return function(_CODE, "serial")


@cache
def parallel() -> Callable[[Array, int, Array, int], int]:
    """As the serial function, with the number of threads as the last argument."""
    threads.layer()
    return function(_CODE, "parallel")


@cache
def parallel_many() -> Callable[[Array, int, Array, int], int]:
    """The same, with the gradients checked by all threads."""
    threads.layer()
    return function(_CODE, "parallel_many")


def fastest_parallel(rows: int) -> Callable[[Array, int, Array, int], int]:
    """The one of both for a table of so many rows."""
    return parallel_many() if rows >= MANY and not THREADS_SLEEP else parallel()


@cache
def stretch_serial() -> Callable[[Array, int, int, int], None]:
    """``stretch_serial()(rows, start, stop, 1)``: step a stretch of all elements.

    Their gradients were checked. No steps are counted.
    """
    return function(_CODE, "stretch_serial")


@cache
def stretch_parallel() -> Callable[[Array, int, int, int], None]:
    """As the serial function, with the number of threads as the last argument."""
    threads.layer()
    return function(_CODE, "stretch_parallel")


@cache
def touch() -> Callable[[Array, int], None]:
    """``touch()(memory, threads)``: map every page of new memory from the thread that will use it."""
    threads.layer()
    return function(_CODE, "touch")
