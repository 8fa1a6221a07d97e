"""A step on a device in one call of machine code: check, bind, launch and count.

Launching through Python takes three times as long as the driver, and Ctrl-C could come between a launch
and its count.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from numba import types

from fastopt.executors.cpu.columns import COUNT, GRAD, ITEMSIZE, LENGTH
from fastopt.executors.cpu.header_check import can_be_at
from fastopt.executors.cpu.pointers import read_word, words_at, write_word
from fastopt.executors.cpu.row_access import count_step
from fastopt.executors.exchange import ID, KIND
from fastopt.executors.exchange_code import (
    TABLE,
    WORDS,
    c_function,
    data_of,
    fits,
    is_alike,
    stream_of,
)
from fastopt.executors.interpreter import function_address
from fastopt.kernels.compiler import compile_function, helper
from fastopt.kernels.llvm_operations import I32, I64

# What compiled code needs of the driver and the interpreter: addresses of functions, the context that
# kernels were loaded in, and room for an answer.
CONTEXT_OF, IS_CAPTURING, LAUNCH, COPY, WAIT, RECORD, CONTEXT, RELEASE, TAKE, ROOM = range(10)

# The columns of a table of launches.
FUNCTION, BLOCKS, THREADS, ARGUMENTS = range(4)

# The columns of a table of where launches take the addresses of gradients from: the address of a word,
# the alignment of wide accesses, and whether the launch makes them.
WORD, ALIGNMENT, WIDE = range(3)

# The columns of a table of copies to the device: address, size in bytes and address there, and where
# the ring of buffers is that they go through, with the number of the next one.
HOST, SIZE, DEVICE, RING, NEXT = range(5)

# Copies to the device in flight; a host that is further ahead waits for the device.
UNDER_WAY = 16

# The columns of a ring of buffers in pinned memory, each with an event after its last copy.
BUFFER, EVENT = range(2)

# What a quick step goes by: the address and the rows of each table, and the words of a row; ...
(
    DRIVER,
    ROWS,
    LAUNCHES,
    GRADIENT_WORDS,
    COPIES,
    RINGS,
    RANGES,
    EXPECTED,
    EXCHANGE,
    HELD,
    HELD_EXCHANGE,
) = range(0, 33, 3)
# ... the stream, or below zero the device whose stream compiled code asks for; and whether gradients
# were bound that Python does not know of, at an address.
STREAM, MOVED = 33, 34
WORDS_OF_A_STEP = 35

# The status of a step; others are the driver's errors.
TAKEN, UNLIKE, CAPTURED = 0, -1, -2

_get_context, _ask_capture = c_function(I64), c_function(I64, I64)
_launch = c_function(I64, *(I32,) * 7, I64, I64, I64)
_copy_async, _wait, _record = c_function(*(I64,) * 4), c_function(I64), c_function(I64, I64)
_release, _take = c_function(result=I64), c_function(I64)


def interpreter() -> list[int]:
    """The addresses of the functions that let other threads run, and take the interpreter again."""
    return [function_address("PyEval_SaveThread"), function_address("PyEval_RestoreThread")]


@helper
def _start(driver, launches, stream):
    for i in range(launches.shape[0]):
        if launches[i, BLOCKS] > 0:
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
            if status != 0:
                return status
    return 0


@helper
def _copy(driver, copies, rings, stream):
    """Copy tables through pinned memory, so that the host can change them again."""
    for i in range(copies.shape[0]):
        ring, turn = copies[i, RING], copies[i, NEXT]
        buffer, event = rings[ring + turn, BUFFER], rings[ring + turn, EVENT]
        copies[i, NEXT] = (turn + 1) % UNDER_WAY
        status = _wait(driver[WAIT], (event,))
        if status == 0:
            for word in range(0, copies[i, SIZE], 8):
                write_word(buffer + word, read_word(copies[i, HOST] + word))
            status = _copy_async(driver[COPY], (copies[i, DEVICE], buffer, copies[i, SIZE], stream))
        if status == 0:
            status = _record(driver[RECORD], (event, stream))
        if status != 0:
            return status
    return 0


@helper
def _is_other_context(driver):
    _get_context(driver[CONTEXT_OF], (driver.ctypes.data + 8 * ROOM,))
    return driver[ROOM] != driver[CONTEXT]


@helper
def _capture(driver, stream):
    """`CAPTURED` if what is launched on a stream is recorded in a graph, or the driver's error."""
    driver[ROOM] = 0  # of which the driver writes the lower half
    status = _ask_capture(driver[IS_CAPTURING], (stream, driver.ctypes.data + 8 * ROOM))
    if status == 0 and driver[ROOM] != 0:
        return CAPTURED
    return status


@helper
def _start_and_count(driver, launches, rows, copies, rings, stream, moved):
    # The driver may wait for the device, whose callbacks may need the interpreter.
    thread = _release(driver[RELEASE], ())
    status = _copy(driver, copies, rings, stream) if moved else 0
    if status == 0:
        status = _start(driver, launches, stream)
    _take(driver[TAKE], (thread,))
    if status == 0:
        for i in range(rows.shape[0]):
            count_step(rows, i)
    return status


@helper
def _changed(exchange, held):
    """The number of the first tensor that is not as expected, -1 if all are."""
    for i in range(held.shape[0]):
        if not is_alike(exchange, held[i, ID], held[i]):
            return i
    return -1


def _first_changed(exchange, held):
    return _changed(exchange, held)


def _launch_all(driver, launches, rows, stream):
    if _is_other_context(driver):
        return UNLIKE
    nothing = launches  # is copied
    return _start_and_count(driver, launches, rows, nothing, nothing, stream, False)


@helper
def _table(tables, which):
    return words_at(tables[which], tables[which + 1], tables[which + 2])


def _step(place, items):
    tables = words_at(place, 1, WORDS_OF_A_STEP)[0]
    driver = _table(tables, DRIVER)[0]
    if _is_other_context(driver):
        return UNLIKE
    if _changed(_table(tables, HELD_EXCHANGE)[0], _table(tables, HELD)) >= 0:
        return UNLIKE
    rows, words, expected = (
        _table(tables, ROWS),
        _table(tables, GRADIENT_WORDS),
        _table(tables, EXPECTED),
    )
    exchange, ranges = _table(tables, EXCHANGE)[0], _table(tables, RANGES)
    for i in range(rows.shape[0]):
        item = read_word(items + 8 * i)
        if item != 0:
            if i >= expected.shape[0]:
                return UNLIKE
            if expected[i, KIND] == 0:
                if item != expected[i, ID]:
                    return UNLIKE
            else:
                if not fits(exchange, item, expected[i]):
                    return UNLIKE
                start = data_of(exchange)
                if start != rows[i, GRAD]:
                    if start == 0 and rows[i, LENGTH] > 0:
                        return UNLIKE
                    if not can_be_at(start, rows[i, LENGTH], rows[i, ITEMSIZE], ranges):
                        return UNLIKE
                    rows[i, GRAD] = start
        is_wide = rows[i, GRAD] % words[i, ALIGNMENT] == 0
        if rows[i, COUNT] != rows[i, LENGTH] or is_wide != (words[i, WIDE] != 0):
            return UNLIKE
    stream = tables[STREAM]
    if stream < 0:
        stream = stream_of(exchange, -stream)
        if stream < 0:
            return UNLIKE
    status = _capture(driver, stream)
    if status != 0:
        return status
    moved = False
    for i in range(rows.shape[0]):
        if read_word(words[i, WORD]) != rows[i, GRAD]:
            write_word(words[i, WORD], rows[i, GRAD])
            moved = True
    if moved:
        write_word(tables[MOVED], 1)
    launches, copies, rings = (
        _table(tables, LAUNCHES),
        _table(tables, COPIES),
        _table(tables, RINGS),
    )
    return _start_and_count(driver, launches, rows, copies, rings, stream, moved)


@cache
def launch() -> Callable[..., int]:
    """``launch()(driver, launches, rows, stream)``: start all launches, and count a step of each row.

    Return `TAKEN`, `UNLIKE` if nothing was launched, or the driver's error.
    """
    signature = types.int64(WORDS, TABLE, TABLE, types.int64)
    return compile_function(_launch_all, signature, "device-launch", nogil=False)


@cache
def step() -> Callable[..., int]:
    """``step()(tables, items)``: take a step of all arrays whose gradients are usual.

    `tables` is an address too: to take an array apart costs 60 ns, a tenth of the step.
    `items` is the address of as many addresses of gradient objects, which are to be as expected; 0
    where the gradient's address is noted in the rows already. Gradients in other memory than before are
    bound. Then as `launch`, on a stream or on the one that the gradients' library works on now.
    `UNLIKE` if a gradient is not usual, the launches are not those for it, or one of the arrays that
    the launches have bound has changed; `CAPTURED`, before anything is bound, if the step would be
    recorded in a graph.
    """
    signature = types.int64(types.int64, types.int64)
    return compile_function(_step, signature, "device-step", nogil=False)


@cache
def first_changed() -> Callable[..., int]:
    """``first_changed()(exchange, held)``: which tensor is not as a table has it, -1 if all are."""
    return compile_function(_first_changed, types.int64(WORDS, TABLE), "device-changed", nogil=False)
