"""Loads and stores of parameters in two arrays, 16-bit numbers and corrections (`codecs.split`)."""

from __future__ import annotations

from functools import cache

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from fastopt.codecs.base import Array
from fastopt.codecs.corrections import Correction, correction_of_width
from fastopt.codecs.floats import floats
from fastopt.executors.cuda import device
from fastopt.executors.cuda.element_access import GLOBAL, Numbers, lane_of, memory_at, pointer_to
from fastopt.kernels.conversions import divide, join
from fastopt.kernels.intrinsics import Builder, Intrinsic, Value, emits
from fastopt.kernels.llvm_operations import I16, I32


def split_access(stored: str, bits: int, width: int) -> dict[str, Intrinsic]:
    """The functions of a kernel, for one element and for `width` of them; `bits` of a correction."""
    access = {}
    for wide, count in (("", 1), ("_wide", width)):
        access[f"load{wide}"] = _loader(stored, bits, count)
        access[f"store{wide}"] = _storer(stored, bits, count)
    return access


@cache
def _loader(stored: str, bits: int, width: int) -> Intrinsic:
    """``load(address, correction, index)``: a float32, or a tuple of them."""
    if device.SIMULATED:
        return _simulated_loader(stored, bits, width)
    kinds = I16, ir.IntType(bits)
    result = types.float32 if width == 1 else types.UniTuple(types.float32, width)

    @emits(result(types.int64, types.int64, types.int64), device.intrinsic)
    def load(builder: Builder, address: Value, correction: Value, index: Value) -> Value:
        loaded = [
            builder.load(pointer_to(builder, kind, at, index, width), align=width * kind.width // 8)
            for kind, at in zip(kinds, (address, correction), strict=True)
        ]
        if width == 1:
            return join(builder, stored, loaded, bits)
        pairs = list(zip(loaded, kinds, strict=True))
        numbers = [
            join(builder, stored, [lane_of(builder, *pair, lane) for pair in pairs], bits)
            for lane in range(width)
        ]
        return cgutils.pack_array(builder, numbers)

    return load


@cache
def _storer(stored: str, bits: int, width: int) -> Intrinsic:
    """``store(address, correction, index, value)``, with a tuple of values if there are several."""
    if device.SIMULATED:
        return _simulated_storer(stored, bits, width)
    kinds = I16, ir.IntType(bits)
    value_type = types.float32 if width == 1 else types.UniTuple(types.float32, width)

    @emits(types.void(types.int64, types.int64, types.int64, value_type), device.intrinsic)
    def store(builder: Builder, address: Value, correction: Value, index: Value, value: Value) -> None:
        numbers = [value]
        if width > 1:
            numbers = [builder.extract_value(value, lane) for lane in range(width)]
        both = zip(*(divide(builder, stored, number, bits) for number in numbers), strict=True)
        for kind, at, parts in zip(kinds, (address, correction), both, strict=True):
            pointer, whole = pointer_to(builder, kind, at, index, width), parts[0]
            if width > 1:
                whole = ir.Constant(ir.VectorType(kind, width), ir.Undefined)
                for lane, part in enumerate(parts):
                    whole = builder.insert_element(whole, part, I32(lane))
                pointer = builder.bitcast(pointer, ir.PointerType(whole.type, GLOBAL))
            builder.store(whole, pointer, align=width * kind.width // 8)

    return store


def _both(stored: str, codec: Correction, args: tuple[int, int, int], width: int) -> list[Array]:
    """The elements of both arrays from an index on, on Numba's simulator."""
    *addresses, index = args
    dtypes = floats(stored).dtype, codec.dtype
    pairs = zip(dtypes, addresses, strict=True)
    return [memory_at(dtype, address, index, width) for dtype, address in pairs]


def _simulated_loader(stored: str, bits: int, width: int) -> Intrinsic:
    codec = correction_of_width(bits)

    def load(address: int, correction: int, index: int) -> Numbers:
        joined = codec.join(*_both(stored, codec, (address, correction, index), width))
        return joined[0] if width == 1 else tuple(joined)

    return load


def _simulated_storer(stored: str, bits: int, width: int) -> Intrinsic:
    codec = correction_of_width(bits)

    def store(address: int, correction: int, index: int, value: Numbers) -> None:
        numbers = np.array([value] if width == 1 else value, np.float32)
        half, rest = _both(stored, codec, (address, correction, index), width)
        half[:], rest[:] = codec.divide(numbers, half.dtype)

    return store
