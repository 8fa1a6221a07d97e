"""What compiled code calls of the interpreter: addresses of its functions."""

from __future__ import annotations

import ctypes
from functools import cache

import numpy as np

from fastopt.arrays.checks import Array

# Addresses of functions of CPython, and of True and None.
GET_ITEM, CALL, RELEASE, CLEAR_ERROR, NEXT_ITEM, TRUE, NONE = range(7)

_TP_DESCR_GET = 54  # in CPython's typeslots.h, whose numbers never change

_FUNCTIONS = (
    "PyDict_GetItemWithError",
    "PyObject_CallOneArg",
    "Py_DecRef",
    "PyErr_Clear",
    "PyDict_Next",
)


def function_address(name: str) -> int:
    """The address of a function of CPython's C interface."""
    return int(ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value or 0)


def getter_of(descriptor: object) -> tuple[int, int]:
    """The addresses of the function by which a descriptor's class gets attributes, and of it itself."""
    get_slot = ctypes.pythonapi.PyType_GetSlot
    get_slot.restype, get_slot.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_int)
    return int(get_slot(type(descriptor), _TP_DESCR_GET) or 0), id(descriptor)


@cache
def python_calls() -> Array:
    """The table that the functions of `interpreter_code` take."""
    return np.array([*map(function_address, _FUNCTIONS), id(True), id(None)], np.int64)
