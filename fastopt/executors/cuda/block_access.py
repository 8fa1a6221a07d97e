"""Loads and stores of 8-bit codes on a device. The formulas are those of `fastopt.codecs.blocks`.

A warp has a block: each of its threads eight elements, whose new numbers stay in registers until the
largest of all 256 is known, which the threads find among themselves.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from fastopt.codecs import rounding
from fastopt.codecs.base import BLOCK
from fastopt.codecs.blocks import BLOCKS, CODES_AT, ITEM, larger_finite
from fastopt.codecs.operations import NUMPY, Operations, Value
from fastopt.executors.cuda import device
from fastopt.executors.cuda.element_access import noise_of, pointer_to
from fastopt.kernels.llvm_operations import I8, I32, I64, emitted, int32

ALIGNED = 4  # bytes: of a block's scale, and of four codes that move together

ALL_THREADS, BUTTERFLY, LAST_LANE = 0xFFFFFFFF, 3, device.WARP - 1


class BlockAccess(NamedTuple):
    """What a kernel needs for a state in blocks, whose addresses are multiples of `ALIGNED`.

    Numbers are tuples where `width` elements are loaded or stored at once.
    """

    scale: Any  # (address, index): the bits of the scale of the block with this element
    load: Any  # (address, index, scale)
    load_wide: Any
    larger: Any  # (largest, value): gathers the bits of the largest finite number
    new_scale: Any  # (largest): for the largest number of all threads of a warp
    store_scale: Any  # (address, index, scale)
    store: Any  # (address, index, value, scale), and if it is rounded at random (first, table, phase)
    store_wide: Any


def _place(builder: Any, address: Any, index: Any, offset: Any) -> Any:
    """The address of what is `offset` bytes into the block with an element."""
    item = builder.lshr(index, ir.Constant(I64, BLOCK.bit_length() - 1))
    begin = builder.mul(item, ir.Constant(I64, ITEM.itemsize))
    return builder.add(address, builder.add(begin, offset))


def _code_place(builder: Any, address: Any, index: Any) -> Any:
    within = builder.and_(index, ir.Constant(I64, BLOCK - 1))
    return _place(builder, address, index, builder.add(within, ir.Constant(I64, CODES_AT)))


def _at(builder: Any, kind: Any, place: Any) -> Any:
    return pointer_to(builder, kind, place, ir.Constant(I64, 0))


@cache
def block_access(stored: str, dithered: bool, slot: int, width: int) -> BlockAccess:
    """The functions for one slot; numbers are float32."""
    if device.SIMULATED:
        return _simulated(stored, slot if dithered else None, width)
    scale, larger, new_scale, store_scale = _scales(stored)
    load, load_wide = (_loader(stored, count) for count in (1, width))
    store, store_wide = (_storer(stored, dithered, slot, count) for count in (1, width))
    return BlockAccess(scale, load, load_wide, larger, new_scale, store_scale, store, store_wide)


def _scales(stored: str) -> tuple[Any, ...]:
    codec = BLOCKS[stored]

    def larger_number(o: Operations, largest: Value, number: Value) -> Value:
        return larger_finite(o, largest, codec.size_bits(o, o.as_bits(number)))

    @device.intrinsic  # type: ignore[untyped-decorator]
    def scale(typing_context: Any, address: Any, index: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            place = _place(builder, args[0], args[1], ir.Constant(I64, 0))
            return builder.load(_at(builder, I32, place), align=ALIGNED)

        return types.int32(types.int64, types.int64), emit

    @device.intrinsic  # type: ignore[untyped-decorator]
    def larger(typing_context: Any, largest: Any, value: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return emitted(builder, larger_number, *args)

        return types.int32(types.int32, types.float32), emit

    @device.intrinsic  # type: ignore[untyped-decorator]
    def new_scale(typing_context: Any, largest: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return emitted(builder, codec.scale_bits, args[0])

        return types.int32(types.int32), emit

    @device.intrinsic  # type: ignore[untyped-decorator]
    def store_scale(typing_context: Any, address: Any, index: Any, scale: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            place = _place(builder, args[0], args[1], ir.Constant(I64, 0))
            builder.store(args[2], _at(builder, I32, place), align=ALIGNED)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, types.int32), emit

    return scale, larger, new_scale, store_scale


def _loader(stored: str, width: int) -> Any:
    codec = BLOCKS[stored]
    result = types.float32 if width == 1 else types.UniTuple(types.float32, width)
    whole = ir.IntType(8 * width)

    @device.intrinsic  # type: ignore[untyped-decorator]
    def load(typing_context: Any, address: Any, index: Any, scale: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            place = _at(builder, whole, _code_place(builder, args[0], args[1]))
            found = builder.load(place, align=width)
            if width == 1:
                return emitted(builder, codec.number, found, args[2])
            each = [builder.lshr(found, ir.Constant(whole, 8 * lane)) for lane in range(width)]
            codes = [builder.trunc(code, I8) for code in each]
            numbers = [emitted(builder, codec.number, code, args[2]) for code in codes]
            return context.make_tuple(builder, result, numbers)

        return result(types.int64, types.int64, types.int32), emit

    return load


def _storer(stored: str, dithered: bool, slot: int, width: int) -> Any:
    codec = BLOCKS[stored]
    bits = codec.dither
    given = types.float32 if width == 1 else types.UniTuple(types.float32, width)
    whole = ir.IntType(8 * width)

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address, index, value, scale, *how = args
        numbers = [value] if width == 1 else cgutils.unpack_tuple(builder, value, width)
        parts = [int32(1 << (bits - 1))] * width
        if dithered:
            noise = noise_of(builder, index, how, slot, width)
            parts = [builder.lshr(own, int32(32 - bits)) for own in noise]
        offset, constant = emitted(builder, codec.offsets, scale)
        codes = ir.Constant(whole, 0)
        for lane, (number, part) in enumerate(zip(numbers, parts, strict=True)):
            dither = builder.or_(constant, part)
            code = builder.trunc(emitted(builder, codec.code, number, offset, dither), I8)
            shifted = builder.shl(builder.zext(code, whole), ir.Constant(whole, 8 * lane))
            codes = builder.or_(codes, shifted)
        place = _at(builder, whole, _code_place(builder, address, index))
        builder.store(codes, place, align=width)
        return context.get_dummy_value()

    words = types.int64, types.int64, given, types.int32
    if not dithered:

        @device.intrinsic  # type: ignore[untyped-decorator]
        def store(typing_context: Any, address: Any, index: Any, value: Any, scale: Any) -> Any:
            return types.void(*words), emit

        return store

    @device.intrinsic  # type: ignore[untyped-decorator]
    def store_dithered(
        typing_context: Any,
        address: Any,
        index: Any,
        value: Any,
        scale: Any,
        first: Any,
        table: Any,
        phase: Any,
    ) -> Any:
        return types.void(*words, types.int64, types.int64, types.float32), emit

    return store_dithered


def _larger(o: Operations, one: Value, other: Value) -> Value:
    return o.maximum(one, other)


@cache
def largest_of_warp() -> Any:
    """``largest(number)``: of those that the threads of a warp have, which all must ask."""

    @device.intrinsic  # type: ignore[untyped-decorator]
    def largest(typing_context: Any, number: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            (found,) = args
            result = ir.LiteralStructType((I32, ir.IntType(1)))
            kind = ir.FunctionType(result, [I32] * 5)
            shuffle = cgutils.get_or_insert_function(builder.module, kind, "llvm.nvvm.shfl.sync.i32")
            distance = device.WARP // 2
            while distance:
                numbers = ALL_THREADS, BUTTERFLY, None, distance, LAST_LANE
                given = [found if own is None else int32(own) for own in numbers]
                other = builder.extract_value(builder.call(shuffle, given), 0)
                found = emitted(builder, _larger, found, other)
                distance //= 2
            return found

        return types.int32(types.int32), emit

    return largest


# On Numba's simulator there are no shuffles: threads meet in shared memory. A block there is a warp.
SIMULATED_LARGEST = """
def largest_of_warp(number):
    shared = cuda.shared.array(WARP, int32)
    shared[cuda.threadIdx.x] = number
    cuda.syncthreads()
    found = max(int(own) for own in shared)
    cuda.syncthreads()
    return found
"""


def _codes(address: int, index: int, width: int) -> Any:
    """Codes on Numba's simulator, where the memory of the device is the host's."""
    place = address + index // BLOCK * ITEM.itemsize + CODES_AT + index % BLOCK
    assert (place - address) % width == 0, "a misaligned access is a fault on a device"
    raw: Any = (ctypes.c_uint8 * width).from_address(place)
    return np.frombuffer(raw, np.uint8)


def _simulated(stored: str, slot: int | None, width: int) -> BlockAccess:
    codec = BLOCKS[stored]

    def scale_at(address: int, index: int) -> Any:
        return ctypes.c_int32.from_address(address + index // BLOCK * ITEM.itemsize)

    def loader(width: int) -> Any:
        @np.errstate(invalid="ignore")
        def load(address: int, index: int, scale: int) -> Any:
            codes = _codes(address, index, width)
            numbers = codec.number(NUMPY, codes, np.array([scale], np.int32))
            return numbers[0] if width == 1 else tuple(numbers)

        return load

    def storer(width: int) -> Any:
        def store(address: int, index: int, value: Any, scale: int, *how: Any) -> None:
            bits = None
            if slot is not None:
                first, _, phase = how
                place = index % BLOCK
                bits = rounding.noise(first + index - place, place + width, phase, slot)[place:]
            numbers = np.array([value] if width == 1 else value, np.float32)
            codes = codec.codes(numbers, np.array([scale], np.int32), bits)
            _codes(address, index, width)[:] = codes

        return store

    def larger(largest: int, value: Any) -> int:
        bits = codec.size_bits(NUMPY, np.array([value], np.float32).view(np.int32))
        return int(larger_finite(NUMPY, largest, bits)[0])

    def store_scale(address: int, index: int, scale: int) -> None:
        scale_at(address, index).value = scale

    return BlockAccess(
        scale=lambda address, index: scale_at(address, index).value,
        load=loader(1),
        load_wide=loader(width),
        larger=larger,
        new_scale=lambda largest: int(codec.scale_bits(NUMPY, np.array([largest], np.int32))[0]),
        store_scale=store_scale,
        store=storer(1),
        store_wide=storer(width),
    )
