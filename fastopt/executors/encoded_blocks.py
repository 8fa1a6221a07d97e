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
from fastopt.codecs.base import BLOCK
from fastopt.codecs.blocks import CODES_AT, EXPONENT, ITEM, STEP
from fastopt.executors.encoded import I32, SINGLE, int32, noise_of, resize
from fastopt.executors.memory import I64, place_of, tell_apart

I8 = ir.IntType(8)


def _select(builder: Any, *cases: tuple[Any, Any], otherwise: Any) -> Any:
    """The value of the first case whose condition holds."""
    for condition, value in reversed(cases):
        otherwise = builder.select(condition, value, otherwise)
    return otherwise


def _as_it_is(builder: Any, number: Any) -> Any:
    """A number that LLVM takes as given: it would do parts of a sum in the loop instead of before."""
    return builder.asm(ir.FunctionType(I32, [I32]), "", "=r,0", [number], False)


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
    bits = _select(builder, (is_special, special), (is_zero, int32(0)), otherwise=bits)
    return builder.bitcast(bits, SINGLE)


def _unsigned_offsets(builder: Any, scale: Any) -> list[Any]:
    """What is added to the bits of numbers of a block to get codes one step apart, and two."""
    offsets = blocks.TO_BASE - (blocks.COARSE << STEP), blocks.TO_BASE
    return [_as_it_is(builder, builder.sub(int32(offset), scale)) for offset in offsets]


def _encode_unsigned(builder: Any, number: Any, offsets: Any, part: Any) -> Any:
    to_fine, to_coarse = offsets
    bits = builder.bitcast(number, I32)
    once = builder.add(bits, part)
    fine = builder.ashr(builder.add(once, to_fine), int32(STEP))
    coarse = builder.ashr(builder.add(builder.add(once, part), to_coarse), int32(STEP + 1))
    code = _larger(builder, _larger(builder, fine, coarse), int32(1))
    code = _smaller(builder, code, int32(blocks.INFINITE))  # infinity is above all scales
    is_nan = builder.fcmp_unordered("uno", number, number)
    is_positive = builder.icmp_signed(">", bits, int32(0))
    return _select(builder, (is_nan, int32(blocks.NAN)), (is_positive, code), otherwise=int32(0))


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


def _signed_offsets(builder: Any, scale: Any) -> list[Any]:
    """The scale, which is added to sizes, and what is then added to their bits."""
    return [builder.bitcast(scale, SINGLE), builder.sub(int32(0), scale)]


def _encode_signed(builder: Any, number: Any, offsets: Any, part: Any) -> Any:
    scale, to_base = offsets
    bits = builder.bitcast(number, I32)
    size_bits = builder.and_(bits, int32(blocks.SIZE_BITS))
    shifted = builder.fadd(builder.bitcast(size_bits, SINGLE), scale)
    above = builder.add(builder.bitcast(shifted, I32), to_base)
    size = builder.ashr(builder.add(above, part), int32(STEP))
    size = _smaller(builder, size, int32(blocks.LARGEST_SIZE))
    is_infinite = builder.icmp_signed("==", size_bits, int32(blocks.INFINITE_BITS))
    size = builder.select(is_infinite, int32(blocks.INFINITE_SIZE), size)
    minus = builder.and_(builder.lshr(bits, int32(24)), int32(blocks.MINUS))
    minus = builder.select(builder.icmp_signed(">", size, int32(0)), minus, int32(0))
    is_nan = builder.icmp_signed(">", size_bits, int32(blocks.INFINITE_BITS))
    return builder.select(is_nan, int32(blocks.MINUS), builder.or_(size, minus))


_CODECS: dict[str, tuple[blocks.Blocks, Any, Any, Any]] = {
    "unsigned8": (blocks.UNSIGNED, _decode_unsigned, _unsigned_offsets, _encode_unsigned),
    "signed8": (blocks.SIGNED, _decode_signed, _signed_offsets, _encode_signed),
}


def _item(builder: Any, address: Any, start: Any) -> Any:
    """The address of the block that element `start` begins."""
    number = builder.sdiv(start, ir.Constant(I64, BLOCK))
    return builder.add(address, builder.mul(number, ir.Constant(I64, ITEM.itemsize)))


def _is_not_finite(builder: Any, size: Any) -> Any:
    return builder.icmp_signed(">=", size, int32(blocks.INFINITE_BITS))


def _scale_bits(builder: Any, scaling: blocks.Scaling, largest: Any) -> Any:
    power = builder.add(_smaller(builder, largest, int32(scaling.most)), int32(scaling.up))
    power = builder.and_(power, int32(0xFFFFFFFF ^ blocks.MANTISSA))
    power = builder.sub(power, int32(scaling.down << EXPONENT))
    return _larger(builder, power, int32(scaling.least_bits))


@intrinsic  # type: ignore[untyped-decorator]
def scratch(typing_context: Any) -> Any:
    """The address of room for the numbers of a block, on the stack of the kernel."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        # LLVM prefers 256 bits. In the cache of one core, RMSProp with an 8-bit state took 0.72 ns an
        # element with them and 0.58 with 512 (float32: 0.48). llvmlite only knows attributes by name.
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')
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
) -> tuple[Any, ...]:
    """What a kernel needs for one slot, whose scratch is told apart as number `room`.

    ``scale(address, start)``, ``load(codes, index, scale)``, ``store(scratch, index, value)``,
    ``larger(largest, value)``, which gathers the bits of the largest number, and, when a block is done,
    ``encode(address, start, stop, scratch, largest, random)``.
    """
    number = getattr(types, compute)
    wide = {"float32": SINGLE, "float64": ir.DoubleType()}[compute]
    codec, decode_number, offsets_of, encode_number = _CODECS[stored]

    def size_bits(builder: Any, bits: Any) -> Any:
        """Bits that compare like sizes; without a sign, negative numbers are below all others."""
        return builder.and_(bits, int32(blocks.SIZE_BITS)) if codec.has_sign else bits

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
    def larger(typing_context: Any, largest: Any, value: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            bits = builder.bitcast(resize(builder, args[1], SINGLE), I32)
            return _larger(builder, args[0], size_bits(builder, bits))

        return types.int32(types.int32, number), emit

    @intrinsic  # type: ignore[untyped-decorator]
    def encode(
        typing_context: Any,
        address: Any,
        start: Any,
        stop: Any,
        scratch: Any,
        largest: Any,
        random: Any,
    ) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            address, start, stop, scratch, largest, random = args
            item = _item(builder, address, start)
            # A block that is not full is encoded with zeros behind its end: LLVM knows the count then.
            all_of_it = [ir.Constant(I64, number) for number in (0, BLOCK, 1)]
            missing = builder.sub(stop, start), *all_of_it[1:]

            def number_at(index: Any, kind: Any) -> Any:
                value = builder.load(place_of(builder, kind, scratch, index))
                tell_apart(builder.module, value, room, slots)
                return value

            with cgutils.for_range_slice(builder, *missing) as (i, _):
                zero = builder.store(int32(0), place_of(builder, I32, scratch, i))
                tell_apart(builder.module, zero, room, slots)
            finite_largest = cgutils.alloca_once_value(builder, largest)
            with builder.if_then(_is_not_finite(builder, largest), likely=False):
                # Rare: what is not finite concerns its own element only.
                builder.store(int32(0), finite_largest)
                with cgutils.for_range_slice(builder, *all_of_it) as (i, _):
                    size = size_bits(builder, number_at(i, I32))
                    finite = builder.select(_is_not_finite(builder, size), int32(0), size)
                    builder.store(
                        _larger(builder, builder.load(finite_largest), finite), finite_largest
                    )
            scale = _scale_bits(builder, codec.scaling, builder.load(finite_largest))
            place = builder.inttoptr(item, I32.as_pointer())
            tell_apart(builder.module, builder.store(scale, place, align=ITEM.alignment), slot, slots)
            offsets = offsets_of(builder, scale)
            codes = builder.add(item, ir.Constant(I64, CODES_AT))
            with cgutils.for_range_slice(builder, *all_of_it) as (i, _):
                if dithered:
                    part = builder.lshr(noise_of(builder, i, random, slot), int32(32 - STEP))
                else:
                    part = int32(1 << (STEP - 1))
                code = encode_number(builder, number_at(i, SINGLE), offsets, part)
                raw = builder.store(builder.trunc(code, I8), place_of(builder, I8, codes, i))
                tell_apart(builder.module, raw, slot, slots)
            return context.get_dummy_value()

        words = types.intp, types.int64, types.int64, types.intp, types.int32, types.int32
        return types.void(*words), emit

    return scale, load, store, larger, encode
