"""Blocks of 8-bit codes in machine code; the formulas of a code are those of `fastopt.codecs.blocks`.

A number is decoded where it is loaded. New ones are gathered in a scratch of one block, which stays
in the core's first cache, because a block is encoded as a whole: its largest number decides its scale.

It is encoded a piece at a time between the pieces of the next one (`compiled.source`): while the
processor's divider is at work on roots and quotients, which take most of the time, its other units
have nothing else to do. It took RMSProp with an 8-bit state on one core from 0.67 ns an element, when a
block was encoded as soon as it was stepped, to 0.59; and to 0.52 that blocks without infinities and
NaN, which are nearly all, are encoded and decoded by functions of their own.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastopt.codecs.base import BLOCK
from fastopt.codecs.blocks import BLOCKS, CODES_AT, ITEM, larger_finite
from fastopt.executors.cpu.element_access import noise_of, prefer_512_bits
from fastopt.executors.cpu.pointers import LINE, element_pointer, mark_noalias
from fastopt.kernels.conversions import resize
from fastopt.kernels.llvm_operations import DOUBLE, I8, I32, I64, SINGLE, emitted, int32


def _item(builder: Any, address: Any, start: Any) -> Any:
    """The address of the block that element `start` begins."""
    number = builder.sdiv(start, ir.Constant(I64, BLOCK))
    return builder.add(address, builder.mul(number, ir.Constant(I64, ITEM.itemsize)))


@intrinsic  # type: ignore[untyped-decorator]
def scratch(typing_context: Any) -> Any:
    """The address of room for the numbers of a block, on the stack of the kernel."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        prefer_512_bits(builder)
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

    ``load_plain`` and ``encode`` are for blocks without infinities and NaN, which ``is_plain(codes)``
    and the third result of ``rescale`` tell: it takes half the instructions to leave them out.

    The scratch is told apart as number `room`, codes that are written as the number after that.
    """
    number = getattr(types, compute)
    wide = {"float32": SINGLE, "float64": DOUBLE}[compute]
    codec = BLOCKS[stored]
    dither = codec.dither
    # A block that is not full is encoded with zeros behind its end: LLVM knows the count then.
    all_of_it = [ir.Constant(I64, number) for number in (0, BLOCK, 1)]

    def gathered(builder: Any, scratch: Any, place: Any, kind: Any) -> Any:
        value = builder.load(element_pointer(builder, kind, scratch, place))
        mark_noalias(builder.module, value, room, slots)
        return value

    def encode_one(formula: Any, builder: Any, place: Any, codes: Any, *rest: Any) -> None:
        scratch, offset, constant, random = rest
        if dithered:
            part = noise_of(builder, place, random, slot, slots, dither, constant)
        else:
            part = builder.or_(constant, int32(1 << (dither - 1)))
        code = emitted(builder, formula, gathered(builder, scratch, place, SINGLE), offset, part)
        raw = builder.store(builder.trunc(code, I8), element_pointer(builder, I8, codes, place))
        mark_noalias(builder.module, raw, room + 1, slots)

    @intrinsic  # type: ignore[untyped-decorator]
    def scale(typing_context: Any, address: Any, start: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            place = builder.inttoptr(_item(builder, *args), I32.as_pointer())
            bits = builder.load(place, align=ITEM.alignment)
            mark_noalias(builder.module, bits, slot, slots)
            return bits

        return types.int32(types.intp, types.int64), emit

    def code_at(builder: Any, codes: Any, place: Any) -> Any:
        raw = builder.load(element_pointer(builder, I8, codes, place))
        mark_noalias(builder.module, raw, slot, slots)
        return raw

    @intrinsic  # type: ignore[untyped-decorator]
    def is_plain(typing_context: Any, codes: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            found = cgutils.alloca_once_value(builder, I8(0))
            with cgutils.for_range_slice(builder, *all_of_it) as (i, _):
                special = emitted(builder, codec.is_special, code_at(builder, args[0], i))
                builder.store(builder.or_(builder.load(found), builder.zext(special, I8)), found)
            return builder.icmp_unsigned("==", builder.load(found), I8(0))

        return types.boolean(types.intp), emit

    def loader(formula: Any) -> Any:
        @intrinsic  # type: ignore[untyped-decorator]
        def load(typing_context: Any, codes: Any, place: Any, scale: Any) -> Any:
            def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
                code = code_at(builder, *args[:2])
                return resize(builder, emitted(builder, formula, code, args[2]), wide)

            return number(types.intp, types.int64, types.int32), emit

        return load

    @intrinsic  # type: ignore[untyped-decorator]
    def store(typing_context: Any, scratch: Any, place: Any, value: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = element_pointer(builder, SINGLE, args[0], args[1])
            written = builder.store(resize(builder, args[2], SINGLE), pointer)
            mark_noalias(builder.module, written, room, slots)
            return context.get_dummy_value()

        return types.void(types.intp, types.int64, number), emit

    @intrinsic  # type: ignore[untyped-decorator]
    def rescale(typing_context: Any, address: Any, start: Any, stop: Any, scratch: Any) -> Any:
        result = types.Tuple((types.int32, types.int32, types.boolean))

        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            address, start, stop, scratch = args
            missing = builder.sub(stop, start), *all_of_it[1:]
            with cgutils.for_range_slice(builder, *missing) as (i, _):
                zero = builder.store(int32(0), element_pointer(builder, I32, scratch, i))
                mark_noalias(builder.module, zero, room, slots)
            largest = cgutils.alloca_once_value(builder, int32(0))

            def look(larger: Any) -> None:
                builder.store(int32(0), largest)
                with cgutils.for_range_slice(builder, *all_of_it) as (i, _):
                    size = emitted(builder, codec.size_bits, gathered(builder, scratch, i, I32))
                    builder.store(larger(builder, builder.load(largest), size), largest)

            look(_larger_word)  # with a sign bit it is larger than all others
            plain = builder.icmp_unsigned("<=", builder.load(largest), int32(codec.scaling.most))
            with builder.if_then(builder.not_(plain), likely=False):
                look(_larger_finite)  # what is not finite concerns its own element only
            scale = emitted(builder, codec.scale_bits, builder.load(largest))
            place = builder.inttoptr(_item(builder, address, start), I32.as_pointer())
            mark_noalias(builder.module, builder.store(scale, place, align=ITEM.alignment), slot, slots)
            return context.make_tuple(builder, result, [*emitted(builder, codec.offsets, scale), plain])

        return result(types.intp, types.int64, types.int64, types.intp), emit

    words = types.int32, types.int32, types.int32

    @intrinsic  # type: ignore[untyped-decorator]
    def encode(
        typing_context: Any, place: Any, codes: Any, scratch: Any, one: Any, other: Any, random: Any
    ) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            encode_one(codec.finite_code, builder, *args)
            return context.get_dummy_value()

        return types.void(types.int64, types.intp, types.intp, *words), emit

    @intrinsic  # type: ignore[untyped-decorator]
    def encode_all(
        typing_context: Any, codes: Any, scratch: Any, one: Any, other: Any, random: Any
    ) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            with cgutils.for_range_slice(builder, *all_of_it) as (i, _):
                encode_one(codec.code, builder, i, *args)
            return context.get_dummy_value()

        return types.void(types.intp, types.intp, *words), emit

    loads = {"load": loader(codec.number), "load_plain": loader(codec.finite_number)}
    encodes = {"rescale": rescale, "encode": encode, "encode_all": encode_all}
    return {"scale": scale, "is_plain": is_plain, **loads, "store": store, **encodes}


def _larger_word(builder: Any, one: Any, other: Any) -> Any:
    return builder.select(builder.icmp_unsigned(">", one, other), one, other)


def _larger_finite(builder: Any, one: Any, other: Any) -> Any:
    return emitted(builder, larger_finite, one, other)
