"""Blocks of 8-bit codes in machine code. The specification is `fastopt.codecs.blocks`.

A number is decoded where it is loaded. New ones are gathered in a scratch of one block, which stays
in the core's first cache, because a block is encoded as a whole: its largest number decides its scale.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastopt.codecs import blocks
from fastopt.codecs.blocks import BLOCK, CODES_AT, EXPONENT, ITEM, STEP
from fastopt.executors.encoded import I32, SINGLE, int32, noise_of, resize
from fastopt.executors.memory import I64, place_of, tell_apart

I8 = ir.IntType(8)


def _select(builder: Any, *cases: Any) -> Any:
    """The value behind the first condition that holds; the last one stands alone."""
    *pairs, otherwise = cases
    for condition, value in reversed(list(zip(pairs[::2], pairs[1::2], strict=True))):
        otherwise = builder.select(condition, value, otherwise)
    return otherwise


def _smaller(builder: Any, one: Any, other: Any) -> Any:
    return builder.select(builder.icmp_signed("<", one, other), one, other)


def _larger(builder: Any, one: Any, other: Any) -> Any:
    return builder.select(builder.icmp_signed(">", one, other), one, other)


def _decode_unsigned(builder: Any, code: Any, scale: Any) -> Any:
    double = builder.add(code, _smaller(builder, code, int32(blocks.COARSE)))
    base = builder.sub(scale, int32(blocks.TO_BASE))
    bits = builder.add(base, builder.shl(double, int32(STEP)))
    above = builder.shl(builder.sub(code, int32(blocks.INFINITE)), int32(EXPONENT - 1))
    special = builder.add(above, int32(blocks.INFINITE_BITS))
    is_special = builder.icmp_signed(">=", code, int32(blocks.INFINITE))
    is_zero = builder.icmp_signed("==", code, int32(0))
    return builder.bitcast(_select(builder, is_special, special, is_zero, int32(0), bits), SINGLE)


def _encode_unsigned(builder: Any, number: Any, scale: Any, part: Any) -> Any:
    bits = builder.bitcast(number, I32)
    above = builder.sub(bits, builder.sub(scale, int32(blocks.TO_BASE)))
    fine = builder.ashr(builder.add(above, part), int32(STEP))
    fine = builder.sub(fine, int32(blocks.COARSE))
    coarse = builder.add(above, builder.shl(part, int32(1)))
    coarse = builder.ashr(coarse, int32(STEP + 1))
    code = _larger(builder, _larger(builder, fine, coarse), int32(1))
    code = _smaller(builder, code, int32(blocks.LARGEST))
    size = builder.and_(bits, int32(blocks.SIZE_BITS))
    is_nan = builder.icmp_signed(">", size, int32(blocks.INFINITE_BITS))
    is_special = builder.icmp_signed(">=", size, int32(blocks.INFINITE_BITS))
    special = builder.add(builder.zext(is_nan, I32), int32(blocks.INFINITE))
    is_positive = builder.icmp_signed(">", bits, int32(0))
    return _select(builder, is_special, special, is_positive, code, int32(0))


def _decode_signed(builder: Any, code: Any, scale: Any) -> Any:
    size = builder.and_(code, int32(blocks.MINUS - 1))
    bits = builder.add(scale, builder.shl(size, int32(STEP)))
    number = builder.fsub(builder.bitcast(bits, SINGLE), builder.bitcast(scale, SINGLE))
    is_infinite = builder.icmp_signed("==", size, int32(blocks.INFINITE_SIZE))
    bits = builder.bitcast(number, I32)
    bits = builder.select(is_infinite, int32(blocks.INFINITE_BITS), bits)
    sign = builder.shl(builder.and_(code, int32(blocks.MINUS)), int32(24))
    is_nan = builder.icmp_signed("==", code, int32(blocks.MINUS))
    bits = builder.select(is_nan, int32(0x7FC00000), builder.or_(bits, sign))
    return builder.bitcast(bits, SINGLE)


def _encode_signed(builder: Any, number: Any, scale: Any, part: Any) -> Any:
    bits = builder.bitcast(number, I32)
    size_bits = builder.and_(bits, int32(blocks.SIZE_BITS))
    shifted = builder.fadd(builder.bitcast(size_bits, SINGLE), builder.bitcast(scale, SINGLE))
    above = builder.sub(builder.bitcast(shifted, I32), scale)
    size = builder.ashr(builder.add(above, part), int32(STEP))
    size = _smaller(builder, size, int32(blocks.LARGEST_SIZE))
    is_infinite = builder.icmp_signed("==", size_bits, int32(blocks.INFINITE_BITS))
    size = builder.select(is_infinite, int32(blocks.INFINITE_SIZE), size)
    minus = builder.and_(builder.lshr(bits, int32(24)), int32(blocks.MINUS))
    minus = builder.select(builder.icmp_signed(">", size, int32(0)), minus, int32(0))
    is_nan = builder.icmp_signed(">", size_bits, int32(blocks.INFINITE_BITS))
    return builder.select(is_nan, int32(blocks.MINUS), builder.or_(size, minus))


_CODECS = {
    "unsigned8": (blocks.UNSIGNED.scaling, _decode_unsigned, _encode_unsigned),
    "signed8": (blocks.SIGNED.scaling, _decode_signed, _encode_signed),
}


def _item(builder: Any, address: Any, start: Any) -> Any:
    """The address of the block that element `start` begins."""
    number = builder.sdiv(start, ir.Constant(I64, BLOCK))
    return builder.add(address, builder.mul(number, ir.Constant(I64, ITEM.itemsize)))


def _scale_bits(builder: Any, scaling: blocks.Scaling, largest: Any) -> Any:
    power = builder.add(_smaller(builder, largest, int32(scaling.most)), int32(scaling.up))
    power = builder.and_(power, int32(0xFFFFFFFF ^ blocks.MANTISSA))
    power = builder.sub(power, int32(scaling.down << EXPONENT))
    return _larger(builder, power, int32(scaling.least_bits))


@intrinsic  # type: ignore[untyped-decorator]
def scratch(typing_context: Any) -> Any:
    """The address of room for the numbers of a block, on the stack of the kernel."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        room = cgutils.alloca_once(builder, SINGLE, size=BLOCK)
        room.align = 64
        return builder.ptrtoint(room, I64)

    return types.intp(), emit


@intrinsic  # type: ignore[untyped-decorator]
def codes_of(typing_context: Any, address: Any, start: Any) -> Any:
    """What the index of an element is added to for the address of its code."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        codes = builder.add(_item(builder, *args), ir.Constant(I64, CODES_AT))
        return builder.sub(codes, args[1])

    return types.intp(types.intp, types.int64), emit


@cache
def block_access(
    compute: str, stored: str, dithered: bool, slot: int, room: int, slots: int
) -> tuple[Any, Any, Any, Any]:
    """What a kernel needs for one slot, whose scratch is told apart as number `room`.

    ``scale(address, start)``, ``load(codes, index, scale)``, ``store(scratch, index, value)`` and, when
    a block is done, ``encode(address, start, stop, scratch, element, phase)``.
    """
    number = getattr(types, compute)
    wide = {"float32": SINGLE, "float64": ir.DoubleType()}[compute]
    scaling, decode_number, encode_number = _CODECS[stored]

    @intrinsic  # type: ignore[untyped-decorator]
    def scale(typing_context: Any, address: Any, start: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            place = builder.inttoptr(_item(builder, *args), I32.as_pointer())
            bits = builder.load(place, align=ITEM.alignment)
            tell_apart(builder.module, bits, slot, slots)
            return bits

        return types.int32(types.intp, types.int64), emit

    @intrinsic  # type: ignore[untyped-decorator]
    def load(typing_context: Any, codes: Any, index: Any, scale: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            raw = builder.load(place_of(builder, I8, args[0], args[1]))
            tell_apart(builder.module, raw, slot, slots)
            code = builder.zext(raw, I32)
            return resize(builder, decode_number(builder, code, args[2]), wide)

        return number(types.intp, types.int64, types.int32), emit

    @intrinsic  # type: ignore[untyped-decorator]
    def store(typing_context: Any, scratch: Any, index: Any, value: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = place_of(builder, SINGLE, args[0], args[1])
            written = builder.store(resize(builder, args[2], SINGLE), pointer)
            tell_apart(builder.module, written, room, slots)
            return context.get_dummy_value()

        return types.void(types.intp, types.int64, number), emit

    @intrinsic  # type: ignore[untyped-decorator]
    def encode(
        typing_context: Any,
        address: Any,
        start: Any,
        stop: Any,
        scratch: Any,
        element: Any,
        phase: Any,
    ) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            address, start, stop, scratch, first, phase = args
            count, one = builder.sub(stop, start), ir.Constant(I64, 1)
            begin = ir.Constant(I64, 0)
            item = _item(builder, address, start)

            def number_at(index: Any, kind: Any) -> Any:
                value = builder.load(place_of(builder, kind, scratch, index))
                tell_apart(builder.module, value, room, slots)
                return value

            largest = cgutils.alloca_once_value(builder, int32(0))
            with cgutils.for_range_slice(builder, begin, count, one) as (i, _):
                size = builder.and_(number_at(i, I32), int32(blocks.SIZE_BITS))
                finite = builder.icmp_signed("<", size, int32(blocks.INFINITE_BITS))
                size = builder.select(finite, size, int32(0))
                builder.store(_larger(builder, builder.load(largest), size), largest)
            scale = _scale_bits(builder, scaling, builder.load(largest))
            place = builder.inttoptr(item, I32.as_pointer())
            tell_apart(builder.module, builder.store(scale, place, align=ITEM.alignment), slot, slots)

            codes = builder.add(item, ir.Constant(I64, CODES_AT))
            with cgutils.for_range_slice(builder, begin, count, one) as (i, _):
                if dithered:
                    noise = noise_of(builder, builder.add(first, i), phase, slot)
                    part = builder.lshr(noise, int32(32 - STEP))
                else:
                    part = int32(1 << (STEP - 1))
                code = encode_number(builder, number_at(i, SINGLE), scale, part)
                raw = builder.store(builder.trunc(code, I8), place_of(builder, I8, codes, i))
                tell_apart(builder.module, raw, slot, slots)
            return context.get_dummy_value()

        words = types.intp, types.int64, types.int64, types.intp, types.int64, types.int32
        return types.void(*words), emit

    return scale, load, store, encode
