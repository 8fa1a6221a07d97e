"""What compiled code calls of the interpreter, while it holds the lock."""

from __future__ import annotations

import ctypes
from functools import cache

import numpy as np

from fastopt.arrays.checks import Array
from fastopt.executors.exchange import c_function
from fastopt.kernels.compiler import helper
from fastopt.kernels.llvm_operations import I64

# Addresses of functions of CPython, and of True and None.
GET_ITEM, GET_ATTRIBUTE, CALL, RELEASE, CLEAR_ERROR, TRUE, NONE = range(7)

_FUNCTIONS = (
    "PyDict_GetItemWithError",
    "PyObject_GetAttr",
    "PyObject_CallOneArg",
    "Py_DecRef",
    "PyErr_Clear",
)

_of_two, _of_one, _of_none = c_function(I64, I64, result=I64), c_function(I64), c_function()


def function_address(name: str) -> int:
    """The address of a function of CPython's C interface."""
    return int(ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value or 0)


@cache
def python_calls() -> Array:
    """The table that the functions below take."""
    return np.array([*map(function_address, _FUNCTIONS), id(True), id(None)], np.int64)


@helper
def release(python, item):
    """Give up a reference."""
    _of_one(python[RELEASE], (item,))


@helper
def item_of(python, dictionary, key):
    """The item of a dict under a string, borrowed; 0 if there is none."""
    return _of_two(python[GET_ITEM], (dictionary, key))


@helper
def attribute_of(python, item, name):
    """An attribute, to be released; 0 if there is an error, which Python meets again if it asks."""
    attribute = _of_two(python[GET_ATTRIBUTE], (item, name))
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
