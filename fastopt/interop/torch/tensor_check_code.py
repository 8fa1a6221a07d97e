"""The loops of `tensor_check` over parameters, states and gradients, to be compiled."""

from __future__ import annotations

import numpy as np
from numba import types

from fastopt.executors.cpu.columns import COUNT, COUNTS, GRAD, HYPER_LAG, ITEMSIZE, LAG, LENGTH, STEPS
from fastopt.executors.cpu.header_check import can_be_at
from fastopt.executors.cpu.pointers import borrowed, number_writer, read_word, word_reader
from fastopt.executors.exchange import ID
from fastopt.executors.exchange_code import TABLE, WORDS, data_of, fits, is_alike
from fastopt.executors.interpreter import NONE
from fastopt.executors.interpreter_code import attribute_of, has_items, is_true, item_of, release
from fastopt.interop.torch.tensor_check import (
    ASKED,
    DESCRIPTOR,
    DISAGREE,
    GETTER,
    IS_NEGATED,
    LAGS,
    NAME,
    OWNER,
    PARAM,
    REPLACED,
    STATES,
    UNUSUAL,
)
from fastopt.kernels.compiler import Definition, helper

_float32, _float64 = word_reader(types.float32), word_reader(types.float64)
_store_float32, _store_float64 = number_writer(types.float32), number_writer(types.float64)


@helper
def _load_number(address, size):
    return np.float64(_float32(address)) if size == 4 else _float64(address)


@helper
def _store_number(address, size, number):
    if size == 4:
        _store_float32(address, np.float32(number))
    elif size == 8:
        _store_float64(address, np.float64(number))


def _scan(
    python,
    exchange,
    asked,
    items,
    states,
    found_in,
    others,
    params,
    grads,
    rows,
    ranges,
    noted,
    locations,
):
    exchange, states = borrowed(exchange), borrowed(states)
    grads, ranges = borrowed(grads), borrowed(ranges)
    if asked[STATES] != 0 and not has_items(python, asked[STATES], items):
        return REPLACED
    for i in range(states.shape[0]):
        item = states[i, ID]
        if found_in[i, OWNER] != 0 and item_of(python, found_in[i, OWNER], found_in[i, NAME]) != item:
            return REPLACED
        if not is_alike(exchange, item, states[i]):
            return REPLACED
    for i in range(others.shape[0]):
        grad = attribute_of(python, asked[GETTER], asked[DESCRIPTOR], others[i])
        if grad != 0:
            release(python, grad)
        if grad != python[NONE]:
            return REPLACED
    count = 0
    for i in range(params.shape[0]):
        if asked[LAGS] != 0 and read_word(rows[i, COUNTS] + 8 * LAG) != rows[i, HYPER_LAG]:
            return UNUSUAL  # as in the header check
        grad = attribute_of(python, asked[GETTER], asked[DESCRIPTOR], params[i, PARAM])
        if grad == 0:
            return UNUSUAL
        if grad == python[NONE]:
            release(python, grad)
            rows[i, COUNT] = 0
            noted[i] = grad
            continue
        usual = fits(exchange, grad, grads[i])
        start = data_of(exchange)  # before other threads may run, and describe what they step
        if usual and params[i, ASKED] != 0:
            usual = not is_true(python, asked[IS_NEGATED], grad)
        release(python, grad)  # the parameter keeps it
        if not usual or (start == 0 and rows[i, LENGTH] > 0):  # 0: it has no memory of its own
            return UNUSUAL
        if start != rows[i, GRAD]:
            if not can_be_at(start, rows[i, LENGTH], rows[i, ITEMSIZE], ranges):
                return UNUSUAL
            rows[i, GRAD] = start
        if rows[i, COUNT] != rows[i, LENGTH]:
            rows[i, COUNT] = rows[i, LENGTH]
        noted[i] = 0
        count += 1
    for i in range(locations.shape[0]):
        if _load_number(locations[i, 0], locations[i, 1]) != read_word(rows[i, COUNTS] + 8 * STEPS):
            return count + DISAGREE
    return count


def _note(counts, has_gradient, locations, ahead):
    for i in range(locations.shape[0]):
        at, size = locations[i, 0], locations[i, 1]
        if size > 0 and has_gradient[i] and _load_number(at, size) != counts[i, STEPS]:
            _store_number(at, size, counts[i, STEPS])
            _store_number(locations[i, 2], locations[i, 3], ahead[i, 0])
            _store_number(locations[i, 4], locations[i, 5], ahead[i, 1])


_KINDS = WORDS, WORDS, WORDS, WORDS, TABLE, TABLE, WORDS, *(TABLE,) * 4, WORDS, TABLE
_FLAGS, _NUMBERS = types.Array(types.boolean, 1, "C"), types.Array(types.float64, 2, "C")

scan = Definition(_scan, types.int64(*_KINDS), nogil=False)
note_steps = Definition(_note, types.void(TABLE, _FLAGS, TABLE, _NUMBERS))
