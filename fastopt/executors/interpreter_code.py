"""The calls of compiled code into the interpreter, while it holds the lock."""

from __future__ import annotations

from fastopt.arrays.object_layout import OBJECT_TYPE
from fastopt.executors.cpu.pointers import read_word
from fastopt.executors.exchange_code import c_function
from fastopt.executors.interpreter import CALL, CLEAR_ERROR, GET_ITEM, NEXT_ITEM, RELEASE, TRUE
from fastopt.kernels.compiler import helper
from fastopt.kernels.llvm_operations import I64

_of_four, _of_three = c_function(*(I64,) * 4), c_function(*(I64,) * 3, result=I64)
_of_two, _of_one, _of_none = c_function(I64, I64, result=I64), c_function(I64), c_function()


@helper
def release(python, item):
    """Give up a reference."""
    _of_one(python[RELEASE], (item,))


@helper
def item_of(python, dictionary, key):
    """The item of a dict under a string, borrowed; 0 if there is none."""
    return _of_two(python[GET_ITEM], (dictionary, key))


@helper
def has_items(python, dictionary, items):
    """Whether a dict has these keys and values in this order: addresses, two for each item.

    The words behind them are room for what is found, and behind that for the position.
    """
    size, at = items.shape[0] - 3, items.ctypes.data
    items[size + 2] = 0
    room = at + 8 * size
    for i in range(0, size, 2):
        status = _of_four(python[NEXT_ITEM], (dictionary, room + 16, room, room + 8))
        if status == 0 or items[size] != items[i] or items[size + 1] != items[i + 1]:
            return False
    return _of_four(python[NEXT_ITEM], (dictionary, room + 16, room, room + 8)) == 0


@helper
def attribute_of(python, getter, descriptor, item):
    """An attribute, to be released; 0 if there is an error, which Python meets again if it asks.

    The first two are a `getter_of`. To find it by the attribute's name takes 10 ns longer.
    """
    attribute = _of_three(getter, (descriptor, item, read_word(item + OBJECT_TYPE)))
    if attribute == 0:
        _of_none(python[CLEAR_ERROR], ())
    return attribute


@helper
def is_true(python, function, item):
    """Whether a function of one object returns True; also if there is an error, as above."""
    result = _of_two(python[CALL], (function, item))
    if result == 0:
        _of_none(python[CLEAR_ERROR], ())
        return True
    release(python, result)
    return result == python[TRUE]
