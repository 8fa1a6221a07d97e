"""Loads and stores of parameters in two arrays, 16-bit numbers and corrections (`codecs.split`)."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from fastopt.codecs.base import Array
from fastopt.codecs.corrections import Correction, correction_of_width
from fastopt.codecs.floats import floats
from fastopt.executors.cuda import device
from fastopt.executors.cuda.element_access import GLOBAL, lane_of, memory_at, pointer_to
from fastopt.kernels.conversions import divide, join
from fastopt.kernels.llvm_operations import I16, I32


def split_access(stored: str, bits: int, width: int) -> dict[str, Any]:
    """The functions of a kernel, for one element and for `width` of them; `bits` of a correction."""
    access = {}
    for wide, count in (("", 1), ("_wide", width)):
        access[f"load{wide}"] = _loader(stored, bits, count)
        access[f"store{wide}"] = _storer(stored, bits, count)
    return access


@cache
def _loader(stored: str, bits: int, width: int) -> Any:
    """``load(address, correction, index)``: a float32, or a tuple of them."""
    if device.SIMULATED:
        return _simulated_loader(stored, bits, width)
    kinds = I16, ir.IntType(bits)
    result = types.float32 if width == 1 else types.UniTuple(types.float32, width)

    @device.intrinsic  # type: ignore[untyped-decorator]
    def load(typing_context: Any, address: Any, correction: Any, index: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            loaded = [
                builder.load(
                    pointer_to(builder, kind, at, args[2], width), align=width * kind.width // 8
                )
                for kind, at in zip(kinds, args[:2], strict=True)
            ]
            if width == 1:
                return join(builder, stored, loaded, bits)
            numbers = [
                join(
                    builder,
                    stored,
                    [lane_of(builder, *pair, lane) for pair in zip(loaded, kinds, strict=True)],
                    bits,
                )
                for lane in range(width)
            ]
            return context.make_tuple(builder, result, numbers)

        return result(types.int64, types.int64, types.int64), emit

    return load


@cache
def _storer(stored: str, bits: int, width: int) -> Any:
    """``store(address, correction, index, value)``, with a tuple of values if there are several."""
    if device.SIMULATED:
        return _simulated_storer(stored, bits, width)
    kinds = I16, ir.IntType(bits)
    value_type = types.float32 if width == 1 else types.UniTuple(types.float32, width)

    @device.intrinsic  # type: ignore[untyped-decorator]
    def store(typing_context: Any, address: Any, correction: Any, index: Any, value: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            numbers = [args[3]]
            if width > 1:
                numbers = [builder.extract_value(args[3], lane) for lane in range(width)]
            both = zip(*(divide(builder, stored, number, bits) for number in numbers), strict=True)
            for kind, at, parts in zip(kinds, args[:2], both, strict=True):
                pointer, whole = pointer_to(builder, kind, at, args[2], width), parts[0]
                if width > 1:
                    whole = ir.Constant(ir.VectorType(kind, width), ir.Undefined)
                    for lane, part in enumerate(parts):
                        whole = builder.insert_element(whole, part, I32(lane))
                    pointer = builder.bitcast(pointer, ir.PointerType(whole.type, GLOBAL))
                builder.store(whole, pointer, align=width * kind.width // 8)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, types.int64, value_type), emit

    return store


def _both(stored: str, codec: Correction, args: tuple[int, int, int], width: int) -> list[Array]:
    """The elements of both arrays from an index on, on Numba's simulator."""
    *addresses, index = args
    dtypes = floats(stored).dtype, codec.dtype
    pairs = zip(dtypes, addresses, strict=True)
    return [memory_at(dtype, address, index, width) for dtype, address in pairs]


def _simulated_loader(stored: str, bits: int, width: int) -> Any:
    codec = correction_of_width(bits)

    def load(address: int, correction: int, index: int) -> Any:
        joined = codec.join(*_both(stored, codec, (address, correction, index), width))
        return joined[0] if width == 1 else tuple(joined)

    return load


def _simulated_storer(stored: str, bits: int, width: int) -> Any:
    codec = correction_of_width(bits)

    def store(address: int, correction: int, index: int, value: Any) -> None:
        numbers = np.array([value] if width == 1 else value, np.float32)
        half, rest = _both(stored, codec, (address, correction, index), width)
        half[:], rest[:] = codec.divide(numbers, half.dtype)

    return store
