"""Loads and stores of 8-bit codes on Numba's simulator, which has the host's memory."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np

from fastopt.codecs import rounding
from fastopt.codecs.base import BLOCK, Array
from fastopt.codecs.blocks import BLOCKS, CODES_AT, ITEM, larger_finite
from fastopt.codecs.operations import NUMPY
from fastopt.executors.cuda.block_layout import HALF_BLOCK, WORD
from fastopt.kernels.intrinsics import Intrinsic


def _codes(address: int, index: int, position: int, width: int) -> Array:
    """So many codes of a block, from a position on."""
    code_at = address + index // BLOCK * ITEM.itemsize + CODES_AT + position
    assert (code_at - address) % width == 0, "a misaligned access is a fault on a device"
    raw = (ctypes.c_uint8 * width).from_address(code_at)
    codes: Array = np.ctypeslib.as_array(raw)
    return codes


def functions(stored: str, slot: int | None) -> dict[str, Intrinsic]:
    """The functions of `block_access.BlockAccess`, by name."""
    codec = BLOCKS[stored]

    def scale_at(address: int, index: int) -> ctypes.c_int32:
        return ctypes.c_int32.from_address(address + index // BLOCK * ITEM.itemsize)

    @np.errstate(invalid="ignore")
    def numbers(codes: Array, scale: int) -> Array:
        decoded: Array = codec.number(NUMPY, codes, np.array([scale], np.int32))
        return decoded

    def load(address: int, index: int, scale: int) -> np.float32:
        return decode(_codes(address, index, index % BLOCK, 1), scale)[0]

    def codes(address: int, index: int, position: int) -> Array:
        places = position, position + HALF_BLOCK
        return np.concatenate([_codes(address, index, place, WORD) for place in places])

    def decode(codes: Array, scale: int) -> tuple[np.float32, ...]:
        return tuple(numbers(codes, scale))

    def put(
        address: int,
        index: int,
        position: int,
        values: Sequence[float],
        scale: int,
        how: Sequence[float],
    ) -> None:
        bits = None
        if slot is not None:
            begin, _, phase = how
            bits = rounding.noise(int(begin), position + len(values), phase, slot)[position:]
        codes = codec.codes(np.array(values, np.float32), np.array([scale], np.int32), bits)
        _codes(address, index, position, len(values))[:] = codes

    def store(address: int, index: int, value: float, scale: int, *how: float) -> None:
        put(address, index, index % BLOCK, [value], scale, how)

    def store_wide(
        address: int, index: int, position: int, values: Sequence[float], scale: int, *how: float
    ) -> None:
        put(address, index, position, values[:WORD], scale, how)
        put(address, index, position + HALF_BLOCK, values[WORD:], scale, how)

    # Integers without a sign.

    def size_of(value: float) -> int:
        bits = codec.size_bits(NUMPY, np.array([value], np.float32).view(np.int32))
        return int(bits.view(np.uint32)[0])

    def finite(largest: int, value: float) -> int:
        return int(larger_finite(NUMPY, *np.array([largest, size_of(value)], np.uint32).view(np.int32)))

    def new_scale(largest: int, plain: bool) -> int:
        return int(codec.scale_bits(NUMPY, np.array([largest], np.int32), plain)[0])

    def store_scale(address: int, index: int, scale: int) -> None:
        scale_at(address, index).value = scale

    return {
        "scale": lambda address, index: scale_at(address, index).value,
        "load": load,
        "codes": codes,
        "decode": decode,
        "larger": lambda largest, value: max(int(largest), size_of(value)),
        "larger_finite": finite,
        "is_plain": lambda largest: largest <= codec.plain_most,
        "new_scale": new_scale,
        "store_scale": store_scale,
        "store": store,
        "store_plain": store_wide,
        "store_other": store_wide,
    }
