"""What the machine's memory allows: the arrays of a step, read and written in the same pattern.

Where a C compiler is found this is a loop in C that computes next to nothing; elsewhere NumPy's copy,
which also moves as many bytes as it can.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import partial

import numpy as np

from bench import native
from bench.problems import Problem

NAME = "roofline"


def roofline(problem: Problem, threads: int) -> tuple[Callable[[], object], int]:
    """A function that goes through the arrays and leaves them as they are, and its bytes an element."""
    arrays = list(problem.arrays.values())
    library = native.library(problem.grad.dtype)
    function = getattr(library, f"roofline_{len(arrays)}", None)
    if function is None:
        target = np.empty_like(arrays[0])
        target.fill(0)  # maps its pages
        return partial(np.copyto, target, arrays[0]), 2 * target.itemsize
    keep_and_add = np.array([1.0, 0.0], problem.grad.dtype)
    pointers = [a.ctypes.data_as(ctypes.c_void_p) for a in (keep_and_add, problem.grad, *arrays)]
    size, count = ctypes.c_int64(problem.grad.size), ctypes.c_int(threads)
    step = partial(function, size, count, *pointers)
    if not problem.read_before:
        return step, problem.bytes_per_element
    read = getattr(library, f"read_{problem.read_before}")
    reading = partial(read, size, count, *pointers[1 : 1 + problem.read_before])

    def both() -> None:
        reading()
        step()

    return both, problem.bytes_per_element
