"""Loads and stores of kernels, by address: one element, or as many as fill 16 bytes.

Indexing an array stays a 4-byte access on a device, however it is written. These helpers load and
store a vector, so that a thread moves four float32 by one instruction; it takes 2.4 times fewer
instructions for an element, and the address must be a multiple of the vector's size.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from fastopt.executors.cuda import device
from fastopt.executors.memory import FLOATS, I64, ITEMSIZE, _convert

WIDEST = 16  # bytes of the largest access
GLOBAL = 1  # the address space, for instructions that need not find out
I32 = ir.IntType(32)


def width_of(dtype: str) -> int:
    """How many elements a thread loads at once."""
    return WIDEST // ITEMSIZE[dtype]


def _pointer(builder: Any, element: Any, address: Any, index: Any, width: int) -> Any:
    first = builder.inttoptr(address, ir.PointerType(element, GLOBAL))
    place = builder.gep(first, [index], inbounds=True)
    if width == 1:
        return place
    return builder.bitcast(place, ir.PointerType(ir.VectorType(element, width), GLOBAL))


@cache
def loader(dtype: str, stored: str, width: int = 1) -> Any:
    """``load(address, index)``: a number in `dtype` from an array that holds `stored`, or a tuple."""
    if device.SIMULATED:
        return _simulated_loader(dtype, stored, width)
    number, element = getattr(types, dtype), FLOATS[stored]
    result = number if width == 1 else types.UniTuple(number, width)

    @device.intrinsic
    def load(typing_context: Any, address: Any, index: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            place = _pointer(builder, element, *args, width)
            found = builder.load(place, align=width * ITEMSIZE[stored])
            if width == 1:
                return _convert(builder, found, FLOATS[dtype])
            each = [builder.extract_element(found, I32(lane)) for lane in range(width)]
            converted = [_convert(builder, one, FLOATS[dtype]) for one in each]
            return context.make_tuple(builder, result, converted)

        return result(types.int64, types.int64), emit

    return load


@cache
def storer(dtype: str, stored: str, width: int = 1) -> Any:
    """``store(address, index, value)``, with a tuple of values if several are stored at once."""
    if device.SIMULATED:
        return _simulated_storer(stored, width)
    number, element = getattr(types, dtype), FLOATS[stored]
    given = number if width == 1 else types.UniTuple(number, width)

    @device.intrinsic
    def store(typing_context: Any, address: Any, index: Any, value: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            place = _pointer(builder, element, args[0], args[1], width)
            if width == 1:
                whole = _convert(builder, args[2], element)
            else:
                whole = ir.Constant(ir.VectorType(element, width), ir.Undefined)
                for lane in range(width):
                    one = _convert(builder, builder.extract_value(args[2], lane), element)
                    whole = builder.insert_element(whole, one, I32(lane))
            builder.store(whole, place, align=width * ITEMSIZE[stored])
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, given), emit

    return store


@cache
def word_loader() -> Any:
    """``load(address, index)`` of a 64-bit integer."""
    if device.SIMULATED:
        return lambda address, index: ctypes.c_int64.from_address(address + 8 * index).value

    @device.intrinsic
    def load(typing_context: Any, address: Any, index: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.load(_pointer(builder, I64, *args, 1), align=8)

        return types.int64(types.int64, types.int64), emit

    return load


@cache
def word_storer() -> Any:
    """``store(address, index, value)`` of a 64-bit integer."""
    if device.SIMULATED:

        def simulated(address: int, index: int, value: int) -> None:
            ctypes.c_int64.from_address(address + 8 * index).value = value

        return simulated

    @device.intrinsic
    def store(typing_context: Any, address: Any, index: Any, value: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            builder.store(args[2], _pointer(builder, I64, args[0], args[1], 1), align=8)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, types.int64), emit

    return store


def _at(stored: str, address: int, index: int, width: int) -> Any:
    """The memory behind an address, as an array: on Numba's simulator it is the host's."""
    size = ITEMSIZE[stored]
    assert (address + index * size) % (width * size) == 0, "a misaligned access is a fault on a device"
    raw = (ctypes.c_char * (width * size)).from_address(address + index * size)
    return np.frombuffer(raw, stored)


def _simulated_loader(dtype: str, stored: str, width: int) -> Any:
    def load(address: int, index: int) -> Any:
        found = _at(stored, address, index, width).astype(dtype)
        return found[0] if width == 1 else tuple(found)

    return load


def _simulated_storer(stored: str, width: int) -> Any:
    def store(address: int, index: int, value: Any) -> None:
        _at(stored, address, index, width)[:] = value

    return store
