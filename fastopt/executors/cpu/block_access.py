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

from collections.abc import Callable
from functools import cache

from llvmlite import ir
from numba import types
from numba.core import cgutils

from fastopt.codecs.base import BLOCK
from fastopt.codecs.blocks import (
    BLOCKS,
    CODES_AT,
    ITEM,
    STEP,
    is_plain,
    larger_finite,
)
from fastopt.codecs.operations import Formula
from fastopt.executors.cpu.element_access import noise_of, prefer_512_bits
from fastopt.executors.cpu.pointers import LINE, element_pointer, in_lanes, mark_noalias
from fastopt.kernels.conversions import resize
from fastopt.kernels.intrinsics import Builder, Intrinsic, Value, emits
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

# Numbers that are encoded at once. LLVM by itself takes as many as fit a register, and then narrows
# eight to bytes by four or five instructions, where AVX2 has two that narrow 32 by seven.
LANES = 32


def _item(builder: Builder, address: Value, start: Value) -> Value:
    """The address of the block that element `start` begins."""
    number = builder.sdiv(start, ir.Constant(I64, BLOCK))
    return builder.add(address, builder.mul(number, ir.Constant(I64, ITEM.itemsize)))


@emits(types.intp())
def scratch(builder: Builder) -> Value:
    """The address of a scratch buffer for the numbers of a block, on the kernel's stack."""
    prefer_512_bits(builder)
    return _room(builder, SINGLE)


@emits(types.intp())
def nowhere(builder: Builder) -> Value:
    """The address of a dummy buffer, for the codes of a block before the first one."""
    return _room(builder, I8)


def _room(builder: Builder, kind: ir.Type) -> Value:
    """The address of a block of zeros on the stack."""
    room = cgutils.alloca_once(builder, kind, size=BLOCK)
    room.align = LINE
    size = kind.width if isinstance(kind, ir.IntType) else 32
    cgutils.memset(builder, room, ir.Constant(I64, BLOCK * size // 8), 0)
    return builder.ptrtoint(room, I64)


@emits(types.intp(types.intp, types.int64))
def codes_of(builder: Builder, address: Value, start: Value) -> Value:
    """The address of the codes of the block that element `start` begins."""
    return builder.add(_item(builder, address, start), ir.Constant(I64, CODES_AT))


@cache
def block_access(
    compute: str, stored: str, dithered: bool, slot: int, room: int, slots: int
) -> dict[str, Intrinsic]:
    """The functions of a kernel for one slot, by name; `position` is an element's in its block.

    ``scale(address, start)`` of the block that element `start` begins, ``is_plain(scale)``,
    ``load(codes, position, scale)`` and ``store(scratch, position, value)``. Then
    ``rescale(address, start, stop, scratch)`` writes and returns the new scale, and
    ``encode_all(codes, scratch, scale, random)`` encodes the scratch with it.

    ``load_plain``, of one element, and ``encode(position, codes, scratch, scale, random)``, of `LANES`
    from that position on, are for plain blocks only.

    The scratch is told apart as number `room`, codes that are written as the number after that.
    """
    number = getattr(types, compute)
    wide = {"float32": SINGLE, "float64": DOUBLE}[compute]
    codec = BLOCKS[stored]
    # A partial block is padded with zeros, so that the count is a constant to LLVM.
    all_of_it = [ir.Constant(I64, number) for number in (0, BLOCK, 1)]
    lanes_of_all = [ir.Constant(I64, number) for number in (0, BLOCK, LANES)]

    def gathered(builder: Builder, scratch: Value, position: Value, kind: ir.Type) -> Value:
        value = builder.load(element_pointer(builder, kind, scratch, position))
        mark_noalias(builder.module, value, room, slots)
        return value

    def encode_lanes(plain: bool, builder: Builder, position: Value, *rest: Value) -> None:
        codes, scratch, scale, random = rest
        offset, constant = emitted(builder, lambda o, scale: codec.offsets(scale), scale)
        if dithered:
            part = noise_of(builder, position, random, slot, slots, STEP, constant, LANES)
        else:
            part = in_lanes(builder, builder.or_(constant, int32(1 << (STEP - 1))), LANES)
        formula = codec.plain_code if plain else codec.other_code
        numbers = builder.load(element_pointer(builder, SINGLE, scratch, position, LANES), align=4)
        mark_noalias(builder.module, numbers, room, slots)
        code = emitted(builder, formula, numbers, in_lanes(builder, offset, LANES), part)
        code = builder.trunc(code, ir.VectorType(I8, LANES))
        raw = builder.store(code, element_pointer(builder, I8, codes, position, LANES), align=1)
        mark_noalias(builder.module, raw, room + 1, slots)

    @emits(types.int32(types.intp, types.int64))
    def scale(builder: Builder, address: Value, start: Value) -> Value:
        position = builder.inttoptr(_item(builder, address, start), I32.as_pointer())
        bits = builder.load(position, align=ITEM.alignment)
        mark_noalias(builder.module, bits, slot, slots)
        return bits

    @emits(types.boolean(types.int32))
    def is_plain_block(builder: Builder, scale: Value) -> Value:
        return emitted(builder, lambda o, scale: is_plain(scale), scale)

    def loader(formula: Formula) -> Intrinsic:
        @emits(number(types.intp, types.int64, types.int32))
        def load(builder: Builder, codes: Value, position: Value, scale: Value) -> Value:
            code = builder.load(element_pointer(builder, I8, codes, position))
            mark_noalias(builder.module, code, slot, slots)
            return resize(builder, emitted(builder, formula, code, scale), wide)

        return load

    @emits(types.void(types.intp, types.int64, number))
    def store(builder: Builder, scratch: Value, position: Value, value: Value) -> None:
        pointer = element_pointer(builder, SINGLE, scratch, position)
        written = builder.store(resize(builder, value, SINGLE), pointer)
        mark_noalias(builder.module, written, room, slots)

    @emits(types.int32(types.intp, types.int64, types.int64, types.intp))
    def rescale(builder: Builder, address: Value, start: Value, stop: Value, scratch: Value) -> Value:
        missing = builder.sub(stop, start), *all_of_it[1:]
        with cgutils.for_range_slice(builder, *missing) as (i, _):
            zero = builder.store(int32(0), element_pointer(builder, I32, scratch, i))
            mark_noalias(builder.module, zero, room, slots)
        largest = cgutils.alloca_once(builder, I32)

        def find(formula: Callable[[Builder, Value, Value], Value]) -> Value:
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
        mark_noalias(builder.module, builder.store(scale, position, align=ITEM.alignment), slot, slots)
        return scale

    words = types.int32, types.int32

    @emits(types.void(types.int64, types.intp, types.intp, *words))
    def encode(
        builder: Builder, position: Value, codes: Value, scratch: Value, scale: Value, random: Value
    ) -> None:
        encode_lanes(True, builder, position, codes, scratch, scale, random)

    @emits(types.void(types.intp, types.intp, *words))
    def encode_all(builder: Builder, codes: Value, scratch: Value, scale: Value, random: Value) -> None:
        marked = emitted(builder, lambda o, scale: is_plain(scale), scale)
        with builder.if_else(marked) as branches:
            for branch, plain in zip(branches, (True, False), strict=True):
                with branch, cgutils.for_range_slice(builder, *lanes_of_all) as (i, _):
                    encode_lanes(plain, builder, i, codes, scratch, scale, random)

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


def _larger_finite(builder: Builder, one: Value, other: Value) -> Value:
    return emitted(builder, larger_finite, one, other)
