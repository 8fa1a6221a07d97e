"""Loads and stores of blocks of 8-bit codes in machine code, by the formulas of `codecs.blocks`.

A number is decoded when it is loaded. New numbers are gathered in a scratch buffer of one block, which
stays in the L1 cache, because a block is encoded as a whole: its largest number decides its scale.

It is encoded in chunks that alternate with those of the next block (`kernels.source`): while the
processor's divider computes roots and quotients, which take most of the time, its other units are idle
otherwise. It took RMSProp with an 8-bit state on one core from 0.67 ns an element, when a
block was encoded as soon as it was stepped, to 0.59; and to 0.52 that blocks of finite numbers are
encoded and decoded by functions of their own. Both with former codes; see `codecs.blocks`.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastopt.codecs.base import BLOCK
from fastopt.codecs.blocks import (
    BLOCKS,
    CODES_AT,
    ITEM,
    STEP,
    is_plain,
    larger_finite,
)
from fastopt.executors.cpu.element_access import noise_of, prefer_512_bits
from fastopt.executors.cpu.pointers import LINE, element_pointer, mark_noalias
from fastopt.kernels.conversions import resize
from fastopt.kernels.llvm_operations import (
    DOUBLE,
    I8,
    I32,
    I64,
    SINGLE,
    emitted,
    int32,
    larger_word,
)


def _item(builder: ir.IRBuilder, address: ir.Value, start: ir.Value) -> ir.Value:
    """The address of the block that element `start` begins."""
    number = builder.sdiv(start, ir.Constant(I64, BLOCK))
    return builder.add(address, builder.mul(number, ir.Constant(I64, ITEM.itemsize)))


@intrinsic  # type: ignore[untyped-decorator]
def scratch(typing_context: Any) -> Any:
    """The address of a scratch buffer for the numbers of a block, on the kernel's stack."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        prefer_512_bits(builder)
        return _room(builder, SINGLE)

    return types.intp(), emit


@intrinsic  # type: ignore[untyped-decorator]
def nowhere(typing_context: Any) -> Any:
    """The address of a dummy buffer, for the codes of a block before the first one."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return _room(builder, I8)

    return types.intp(), emit


def _room(builder: ir.IRBuilder, kind: ir.Type) -> ir.Value:
    """The address of a block of zeros on the stack."""
    room = cgutils.alloca_once(builder, kind, size=BLOCK)
    room.align = LINE
    size = kind.width if isinstance(kind, ir.IntType) else 32
    cgutils.memset(builder, room, ir.Constant(I64, BLOCK * size // 8), 0)
    return builder.ptrtoint(room, I64)


@intrinsic  # type: ignore[untyped-decorator]
def codes_of(typing_context: Any, address: Any, start: Any) -> Any:
    """The address of the codes of the block that element `start` begins."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.add(_item(builder, *args), ir.Constant(I64, CODES_AT))

    return types.intp(types.intp, types.int64), emit


@cache
def block_access(
    compute: str, stored: str, dithered: bool, slot: int, room: int, slots: int
) -> dict[str, Any]:
    """The functions of a kernel for one slot, by name; `position` is an element's in its block.

    ``scale(address, start)`` of the block that element `start` begins, ``is_plain(scale)``,
    ``load(codes, position, scale)`` and ``store(scratch, position, value)``. Then
    ``rescale(address, start, stop, scratch)`` writes and returns the new scale, and
    ``encode_all(codes, scratch, scale, random)`` encodes the scratch with it.

    ``load_plain`` and ``encode(position, codes, scratch, scale, random)``, of one element, are for
    plain blocks only.

    The scratch is told apart as number `room`, codes that are written as the number after that.
    """
    number = getattr(types, compute)
    wide = {"float32": SINGLE, "float64": DOUBLE}[compute]
    codec = BLOCKS[stored]
    # A partial block is padded with zeros, so that the count is a constant to LLVM.
    all_of_it = [ir.Constant(I64, number) for number in (0, BLOCK, 1)]

    def gathered(
        builder: ir.IRBuilder, scratch: ir.Value, position: ir.Value, kind: ir.Type
    ) -> ir.Value:
        value = builder.load(element_pointer(builder, kind, scratch, position))
        mark_noalias(builder.module, value, room, slots)
        return value

    def encode_one(plain: bool, builder: ir.IRBuilder, position: ir.Value, *rest: Any) -> None:
        codes, scratch, scale, random = rest
        offset, constant = emitted(builder, lambda o, scale: codec.offsets(scale), scale)
        if dithered:
            part = noise_of(builder, position, random, slot, slots, STEP, constant)
        else:
            part = builder.or_(constant, int32(1 << (STEP - 1)))
        formula = codec.plain_code if plain else codec.other_code
        code = emitted(builder, formula, gathered(builder, scratch, position, SINGLE), offset, part)
        raw = builder.store(builder.trunc(code, I8), element_pointer(builder, I8, codes, position))
        mark_noalias(builder.module, raw, room + 1, slots)

    @intrinsic  # type: ignore[untyped-decorator]
    def scale(typing_context: Any, address: Any, start: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            position = builder.inttoptr(_item(builder, *args), I32.as_pointer())
            bits = builder.load(position, align=ITEM.alignment)
            mark_noalias(builder.module, bits, slot, slots)
            return bits

        return types.int32(types.intp, types.int64), emit

    @intrinsic  # type: ignore[untyped-decorator]
    def is_plain_block(typing_context: Any, scale: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            return emitted(builder, lambda o, scale: is_plain(scale), *args)

        return types.boolean(types.int32), emit

    def loader(formula: Any) -> Any:
        @intrinsic  # type: ignore[untyped-decorator]
        def load(typing_context: Any, codes: Any, position: Any, scale: Any) -> Any:
            def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
                codes, position, scale = args
                code = builder.load(element_pointer(builder, I8, codes, position))
                mark_noalias(builder.module, code, slot, slots)
                return resize(builder, emitted(builder, formula, code, scale), wide)

            return number(types.intp, types.int64, types.int32), emit

        return load

    @intrinsic  # type: ignore[untyped-decorator]
    def store(typing_context: Any, scratch: Any, position: Any, value: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            pointer = element_pointer(builder, SINGLE, args[0], args[1])
            written = builder.store(resize(builder, args[2], SINGLE), pointer)
            mark_noalias(builder.module, written, room, slots)
            return context.get_dummy_value()

        return types.void(types.intp, types.int64, number), emit

    @intrinsic  # type: ignore[untyped-decorator]
    def rescale(typing_context: Any, address: Any, start: Any, stop: Any, scratch: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            address, start, stop, scratch = args
            missing = builder.sub(stop, start), *all_of_it[1:]
            with cgutils.for_range_slice(builder, *missing) as (i, _):
                zero = builder.store(int32(0), element_pointer(builder, I32, scratch, i))
                mark_noalias(builder.module, zero, room, slots)
            largest = cgutils.alloca_once(builder, I32)

            def find(formula: Any) -> Any:
                """The largest magnitude."""
                builder.store(int32(0), largest)
                with cgutils.for_range_slice(builder, *all_of_it) as (i, _):
                    size = emitted(builder, codec.size_bits, gathered(builder, scratch, i, I32))
                    builder.store(formula(builder, builder.load(largest), size), largest)
                return builder.load(largest)

            # One instruction a vector where all numbers are finite.
            plain = builder.icmp_unsigned("<=", find(larger_word), int32(codec.plain_most))
            with builder.if_then(builder.not_(plain), likely=False):
                find(_larger_finite)
            scale = emitted(builder, codec.scale_bits, builder.load(largest), plain)
            position = builder.inttoptr(_item(builder, address, start), I32.as_pointer())
            mark_noalias(
                builder.module, builder.store(scale, position, align=ITEM.alignment), slot, slots
            )
            return scale

        return types.int32(types.intp, types.int64, types.int64, types.intp), emit

    words = types.int32, types.int32

    @intrinsic  # type: ignore[untyped-decorator]
    def encode(
        typing_context: Any, position: Any, codes: Any, scratch: Any, scale: Any, random: Any
    ) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            encode_one(True, builder, *args)
            return context.get_dummy_value()

        return types.void(types.int64, types.intp, types.intp, *words), emit

    @intrinsic  # type: ignore[untyped-decorator]
    def encode_all(typing_context: Any, codes: Any, scratch: Any, scale: Any, random: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            marked = emitted(builder, lambda o, scale: is_plain(scale), args[2])
            with builder.if_else(marked) as branches:
                for branch, plain in zip(branches, (True, False), strict=True):
                    with branch, cgutils.for_range_slice(builder, *all_of_it) as (i, _):
                        encode_one(plain, builder, i, *args)
            return context.get_dummy_value()

        return types.void(types.intp, types.intp, *words), emit

    return {
        "scale": scale,
        "is_plain": is_plain_block,
        "load": loader(codec.number),
        "load_plain": loader(codec.plain_number),
        "store": store,
        "rescale": rescale,
        "encode": encode,
        "encode_all": encode_all,
    }


def _larger_finite(builder: ir.IRBuilder, one: ir.Value, other: ir.Value) -> ir.Value:
    return emitted(builder, larger_finite, one, other)
