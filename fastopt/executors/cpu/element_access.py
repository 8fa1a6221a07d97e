"""Loads and stores of one element of every format, in machine code.

Functions that take a `builder` emit LLVM instructions.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastopt.codecs import rounding
from fastopt.codecs.formats import FORMATS
from fastopt.executors.cpu.pointers import LINE, element_pointer, in_lanes, mark_noalias
from fastopt.kernels.conversions import decode, divide, encode, hashed, join, stored_type
from fastopt.kernels.intrinsics import (
    Builder,
    Context,
    Intrinsic,
    Signature,
    Type,
    Typed,
    TypingContext,
    Value,
    emits,
)
from fastopt.kernels.llvm_operations import I16, I32, I64, int32


def noise_of(
    builder: Builder,
    position: Value,
    random: Value,
    slot: int,
    slots: int,
    width: int,
    plus: Value | None = None,
    lanes: int = 1,
) -> Value:
    """Random bits for the element at a position in its block, or for a vector of so many `lanes`.

    They are the `width` upper ones of 32, or-ed with `plus`, whose lower bits are zero. Both are
    applied to the table and to the bits of a block, `random` from `random_of`, so that an element takes
    one instruction.
    """
    bits = [int32(int(number) >> (32 - width)) for number in rounding.table()]
    kind = ir.ArrayType(I32, len(bits))
    table = cgutils.global_constant(builder, "fastopt.noise", ir.Constant(kind, bits))
    table.align = LINE
    at = element_pointer(builder, I32, builder.ptrtoint(table, I64), position, lanes)
    element_bits = builder.load(at, align=4)
    mark_noalias(builder.module, element_bits, slots - 1, slots)
    common = builder.add(random, int32(slot * rounding.PER_SLOT % 2**32))
    common = builder.lshr(common, int32(32 - width))
    common = common if plus is None else builder.or_(common, plus)
    return builder.xor(element_bits, in_lanes(builder, common, lanes))


def prefer_512_bits(builder: Builder) -> None:
    """Let a kernel use the widest vectors, which pay for encoding and for sums.

    LLVM prefers 256 bits. In the cache of one core RMSProp took, in ns an element, 0.73 with them and
    0.53 with 512 for an 8-bit state, 0.61 and 0.57 for bfloat16 with stochastic rounding; the other
    formats take the same time. So do sums, whose float64 would leave vectors of 4 to float32: three
    norms beside RMSProp made it 1.04 and 0.51.
    """
    # llvmlite's attributes are a set that only takes names that it knows.
    set.add(builder.function.attributes, '"prefer-vector-width"="512"')


@emits(types.int32(types.int64, types.int32))
def random_of(builder: Builder, element: Value, phase: Value) -> Value:
    """The random bits that the elements of a block share, from the index of the first one."""
    return builder.add(hashed(builder, element), phase)


@intrinsic  # type: ignore[untyped-decorator]
def phase_bits(typing_context: TypingContext, phase: Type) -> Typed:
    """Convert the phase in the hyperparameters, a float, to the upper bits of an integer."""

    def emit(context: Context, builder: Builder, signature: Signature, args: list[Value]) -> Value:
        prefer_512_bits(builder)
        number = builder.fptoui(args[0], I32)
        return builder.shl(number, int32(32 - rounding.PHASE_BITS))

    return types.int32(phase), emit


@cache
def element_access(
    compute: str, stored: str, dithered: bool, slot: int, slots: int
) -> tuple[Intrinsic, Intrinsic]:
    """``load(address, index)`` and ``store(address, index, value, position, random)`` for a slot.

    The arithmetic is in the dtype `compute`, the array has the format `stored`. `position`, that of the
    element in its block, and `random`, the bits of the block, are used only with `dithered`. The last
    of the slots is the table of random bits.
    """
    number = getattr(types, compute)
    kind = stored_type(stored)

    @emits(number(types.intp, types.int64))
    def load(builder: Builder, address: Value, index: Value) -> Value:
        raw = builder.load(element_pointer(builder, kind, address, index))
        mark_noalias(builder.module, raw, slot, slots)
        return decode(builder, stored, raw, stored_type(compute))

    @emits(types.void(types.intp, types.int64, number, types.int64, types.int32))
    def store(
        builder: Builder, address: Value, index: Value, value: Value, position: Value, random: Value
    ) -> None:
        pointer = element_pointer(builder, kind, address, index)
        noise = None
        if dithered:
            noise = noise_of(builder, position, random, slot, slots, FORMATS[stored].cut)
        raw = encode(builder, stored, value, noise)
        mark_noalias(builder.module, builder.store(raw, pointer), slot, slots)

    return load, store


@cache
def split_access(
    stored: str, width: int, numbers: tuple[int, int], slots: int
) -> tuple[Intrinsic, Intrinsic]:
    """As `element_access`, for a parameter of two arrays: their addresses come one after the other.

    `width` is that of its corrections, and `numbers` has the slots of both.
    """
    kinds = I16, ir.IntType(width)

    def pointers(builder: Builder, addresses: Sequence[Value], index: Value) -> list[Value]:
        pairs = zip(kinds, addresses, strict=True)
        return [element_pointer(builder, kind, address, index) for kind, address in pairs]

    @emits(types.float32(types.intp, types.intp, types.int64))
    def load(builder: Builder, address: Value, correction: Value, index: Value) -> Value:
        parts = [builder.load(pointer) for pointer in pointers(builder, (address, correction), index)]
        for part, slot in zip(parts, numbers, strict=True):
            mark_noalias(builder.module, part, slot, slots)
        return join(builder, stored, parts, width)

    words = types.intp, types.intp, types.int64, types.float32, types.int64, types.int32

    @emits(types.void(*words))
    def store(
        builder: Builder, address: Value, correction: Value, index: Value, value: Value, *_: Value
    ) -> None:
        both = zip(
            divide(builder, stored, value, width),
            pointers(builder, (address, correction), index),
            numbers,
            strict=True,
        )
        for part, pointer, slot in both:
            mark_noalias(builder.module, builder.store(part, pointer), slot, slots)

    return load, store
