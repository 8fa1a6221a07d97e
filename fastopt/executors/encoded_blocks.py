"""Blocks of 8-bit codes in machine code. The specification is `fastopt.codecs.blocks`.

A number is decoded where it is loaded. New ones are gathered in a scratch of one block, which stays
in the core's first cache, because a block is encoded as a whole: its largest number decides its scale.

It is encoded a piece at a time between the pieces of the next one (`compiled.source`): while the
processor's divider is at work on roots and quotients, which take most of the time, its other units
have nothing else to do. RMSProp with an 8-bit state on one core takes 0.59 ns an element, and took 0.67
when a block was encoded as soon as it was stepped.
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
from fastopt.executors.memory import I64, LINE, place_of, tell_apart

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
    """The bits of the scale, which is added to sizes, and what is then added to their bits."""
    return [scale, builder.sub(int32(0), scale)]


def _encode_signed(builder: Any, number: Any, offsets: Any, part: Any) -> Any:
    scale, to_base = offsets
    bits = builder.bitcast(number, I32)
    size_bits = builder.and_(bits, int32(blocks.SIZE_BITS))
    shifted = builder.fadd(builder.bitcast(size_bits, SINGLE), builder.bitcast(scale, SINGLE))
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
        return _room(builder, SINGLE)

    return types.intp(), emit


@intrinsic  # type: ignore[untyped-decorator]
def nowhere(typing_context: Any) -> Any:
    """An address for the codes of the block before the first one."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _room(builder, I8)

    return types.intp(), emit


def _room(builder: Any, kind: Any) -> Any:
    """The address of a block of zeros on the stack."""
    room = cgutils.alloca_once(builder, kind, size=BLOCK)
    room.align = LINE
    size = kind.width if isinstance(kind, ir.IntType) else 32
    cgutils.memset(builder, room, ir.Constant(I64, BLOCK * size // 8), 0)
    return builder.ptrtoint(room, I64)


@intrinsic  # type: ignore[untyped-decorator]
def codes_of(typing_context: Any, address: Any, start: Any) -> Any:
    """The address of the codes of the block that element `start` begins."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.add(_item(builder, *args), ir.Constant(I64, CODES_AT))

    return types.intp(types.intp, types.int64), emit


@cache
def block_access(
    compute: str, stored: str, dithered: bool, slot: int, room: int, slots: int
) -> dict[str, Any]:
    """What a kernel needs for one slot, by name; `place` is where in its block an element is.

    ``scale(address, start)`` of the block that element `start` begins, ``load(codes, place, scale)``
    and ``store(scratch, place, value)``. Then ``rescale(address, start, stop, scratch)`` writes the new
    scale, and gives two numbers for ``encode(place, codes, scratch, *them, random)``, which reads the
    scratch and writes one code, and ``encode_all(codes, scratch, *them, random)``.

    The scratch is told apart as number `room`, codes that are written as the number after that.
    """
    number = getattr(types, compute)
    wide = {"float32": SINGLE, "float64": ir.DoubleType()}[compute]
    codec, decode_number, offsets_of, encode_number = _CODECS[stored]
    # A block that is not full is encoded with zeros behind its end: LLVM knows the count then.
    all_of_it = [ir.Constant(I64, number) for number in (0, BLOCK, 1)]

    def size_bits(builder: Any, bits: Any) -> Any:
        """Bits that compare like sizes; without a sign, negative numbers are below all others."""
        return builder.and_(bits, int32(blocks.SIZE_BITS)) if codec.has_sign else bits

    def gathered(builder: Any, scratch: Any, place: Any, kind: Any) -> Any:
        value = builder.load(place_of(builder, kind, scratch, place))
        tell_apart(builder.module, value, room, slots)
        return value

    def encode_one(builder: Any, place: Any, codes: Any, scratch: Any, *rest: Any) -> None:
        *offsets, random = rest
        if dithered:
            part = builder.lshr(noise_of(builder, place, random, slot), int32(32 - STEP))
        else:
            part = int32(1 << (STEP - 1))
        code = encode_number(builder, gathered(builder, scratch, place, SINGLE), offsets, part)
        raw = builder.store(builder.trunc(code, I8), place_of(builder, I8, codes, place))
        tell_apart(builder.module, raw, room + 1, slots)

    @intrinsic  # type: ignore[untyped-decorator]
    def scale(typing_context: Any, address: Any, start: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            place = builder.inttoptr(_item(builder, *args), I32.as_pointer())
            bits = builder.load(place, align=ITEM.alignment)
            tell_apart(builder.module, bits, slot, slots)
            return bits

        return types.int32(types.intp, types.int64), emit

    @intrinsic  # type: ignore[untyped-decorator]
    def load(typing_context: Any, codes: Any, place: Any, scale: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            raw = builder.load(place_of(builder, I8, args[0], args[1]))
            tell_apart(builder.module, raw, slot, slots)
            code = builder.zext(raw, I32)
            return resize(builder, decode_number(builder, code, args[2]), wide)

        return number(types.intp, types.int64, types.int32), emit

    @intrinsic  # type: ignore[untyped-decorator]
    def store(typing_context: Any, scratch: Any, place: Any, value: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = place_of(builder, SINGLE, args[0], args[1])
            written = builder.store(resize(builder, args[2], SINGLE), pointer)
            tell_apart(builder.module, written, room, slots)
            return context.get_dummy_value()

        return types.void(types.intp, types.int64, number), emit

    @intrinsic  # type: ignore[untyped-decorator]
    def rescale(typing_context: Any, address: Any, start: Any, stop: Any, scratch: Any) -> Any:
        offsets = types.UniTuple(types.int32, 2)

        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            address, start, stop, scratch = args
            missing = builder.sub(stop, start), *all_of_it[1:]
            with cgutils.for_range_slice(builder, *missing) as (i, _):
                zero = builder.store(int32(0), place_of(builder, I32, scratch, i))
                tell_apart(builder.module, zero, room, slots)
            largest = cgutils.alloca_once_value(builder, int32(0))

            def look(finite: bool) -> None:
                builder.store(int32(0), largest)
                with cgutils.for_range_slice(builder, *all_of_it) as (i, _):
                    size = size_bits(builder, gathered(builder, scratch, i, I32))
                    if finite:
                        size = builder.select(_is_not_finite(builder, size), int32(0), size)
                    builder.store(_larger(builder, builder.load(largest), size), largest)

            look(finite=False)
            with builder.if_then(_is_not_finite(builder, builder.load(largest)), likely=False):
                look(finite=True)  # rare: what is not finite concerns its own element only
            scale = _scale_bits(builder, codec.scaling, builder.load(largest))
            place = builder.inttoptr(_item(builder, address, start), I32.as_pointer())
            tell_apart(builder.module, builder.store(scale, place, align=ITEM.alignment), slot, slots)
            return context.make_tuple(builder, offsets, offsets_of(builder, scale))

        return offsets(types.intp, types.int64, types.int64, types.intp), emit

    words = types.int32, types.int32, types.int32

    @intrinsic  # type: ignore[untyped-decorator]
    def encode(
        typing_context: Any, place: Any, codes: Any, scratch: Any, one: Any, other: Any, random: Any
    ) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            encode_one(builder, *args)
            return context.get_dummy_value()

        return types.void(types.int64, types.intp, types.intp, *words), emit

    @intrinsic  # type: ignore[untyped-decorator]
    def encode_all(
        typing_context: Any, codes: Any, scratch: Any, one: Any, other: Any, random: Any
    ) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            with cgutils.for_range_slice(builder, *all_of_it) as (i, _):
                encode_one(builder, i, *args)
            return context.get_dummy_value()

        return types.void(types.intp, types.intp, *words), emit

    functions = (scale, load, store, rescale, encode, encode_all)
    return dict(zip(ACCESS, functions, strict=True))


ACCESS = "scale", "load", "store", "rescale", "encode", "encode_all"
