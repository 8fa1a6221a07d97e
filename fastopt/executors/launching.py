"""A step on a device in one call of machine code: check, launch and count.

Launching through Python takes three times as long as the driver, and Ctrl-C could come between a launch
and its count.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

from numba import types

from fastopt.executors.cpu.drivers import count_step
from fastopt.executors.exchange import TABLE, WORDS, are_alike, c_function, stream_of
from fastopt.kernels.compiler import compile_function
from fastopt.kernels.llvm_operations import I32, I64

# What compiled code needs of the driver and the interpreter: addresses of functions, the context that
# kernels were loaded in, and room for the current one.
CONTEXT_OF, LAUNCH, CONTEXT, RELEASE, TAKE, CURRENT = range(6)

# The columns of a table of launches.
FUNCTION, BLOCKS, THREADS, ARGUMENTS = range(4)

# The status of a step; others are the driver's errors.
TAKEN, UNLIKE = 0, -1

_get_context = c_function(I64)
_launch = c_function(I64, *(I32,) * 7, I64, I64, I64)
_release, _take = c_function(result=I64), c_function(I64)


def interpreter() -> list[int]:
    """The addresses of the functions that let other threads run, and take the interpreter again."""
    functions = ctypes.pythonapi.PyEval_SaveThread, ctypes.pythonapi.PyEval_RestoreThread
    return [int(ctypes.cast(function, ctypes.c_void_p).value or 0) for function in functions]


def _step(driver, launches, rows, exchange, expected, items, stream):
    _get_context(driver[CONTEXT_OF], (driver.ctypes.data + 8 * CURRENT,))
    if driver[CURRENT] != driver[CONTEXT] or not are_alike(exchange, items, expected):
        return UNLIKE
    if stream < 0:
        stream = stream_of(exchange, -stream)
        if stream < 0:
            return UNLIKE
    status = 0
    # The driver may wait for the device, whose callbacks may need the interpreter.
    thread = _release(driver[RELEASE], ())
    for i in range(launches.shape[0]):
        if launches[i, BLOCKS] > 0 and status == 0:
            status = _launch(
                driver[LAUNCH],
                (
                    launches[i, FUNCTION],
                    launches[i, BLOCKS],
                    1,
                    1,
                    launches[i, THREADS],
                    1,
                    1,
                    0,
                    stream,
                    launches[i, ARGUMENTS],
                    0,
                ),
            )
    _take(driver[TAKE], (thread,))
    if status == 0:
        for i in range(rows.shape[0]):
            count_step(rows, i)
    return status


@cache
def step() -> Callable[..., int]:
    """``step()(driver, launches, rows, exchange, expected, items, stream)``: a step on a device.

    Gradients that are as `expected`, those whose addresses are at `items`, are known to be bound. The
    launches follow, on a stream or, if that is below zero, on the one that the gradients' library works
    on now, on the DLPack device of that number. Then the step of each row is counted. Return `TAKEN`,
    `UNLIKE` if nothing was launched, or the driver's error.
    """
    signature = types.int64(WORDS, TABLE, TABLE, WORDS, TABLE, types.int64, types.int64)
    return compile_function(_step, signature, "device-step", nogil=False)
