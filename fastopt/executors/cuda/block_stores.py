"""Stores of 8-bit codes on a device: one at a time, or eight of a thread as two words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from llvmlite import ir
from numba import types
from numba.core import cgutils

from fastopt.codecs.base import BLOCK
from fastopt.codecs.blocks import BLOCKS, STEP
from fastopt.codecs.operations import Formula
from fastopt.executors.cuda import device
from fastopt.executors.cuda.block_layout import (
    ALIGNED,
    EIGHT_NUMBERS,
    HALF_BLOCK,
    WORD,
    code_address,
    either,
    marked_plain,
    pointer_at,
)
from fastopt.executors.cuda.code_words import WORDS
from fastopt.executors.cuda.element_access import halves_of, noise_at, noise_of_block
from fastopt.kernels.intrinsics import Builder, Intrinsic, Value, emits
from fastopt.kernels.llvm_operations import (
    I8,
    I16,
    I32,
    I64,
    Emitted,
    LLVMOperations,
    emitted,
    int32,
)

# What starts the sums of eight numbers, and the function of four and of what is added to them.
Words: TypeAlias = tuple[Value, Callable[[list[Value], list[Value]], Value]]


def storers(stored: str, slot: int | None) -> tuple[Intrinsic, Intrinsic, Intrinsic]:
    """The functions that store one number, and eight; `slot` is that of the random bits, or None."""
    codec, (lift, word, _) = BLOCKS[stored], WORDS[stored]
    half = 1 << (STEP - 1)

    def constants(builder: Builder, scale: Value) -> tuple[Value, Value]:
        pair: tuple[Value, Value] = emitted(builder, lambda o, scale: codec.offsets(scale), scale)
        return pair

    def common(builder: Builder, how: Sequence[Value], count: int) -> Value:
        """The part of the random bits that a block has in common, or a half."""
        if slot is None:
            return int32(half << (count - STEP))
        return noise_of_block(builder, how[0], how[2], slot, count)

    def dithers(
        builder: Builder, start: Value, how: Sequence[Value], position: Value, width: int, count: int
    ) -> list[Value]:
        """What is added to the sums, of which `start` is that of all elements."""
        if slot is None:
            return [start] * width
        return noise_at(builder, start, how[1], position, width, count)

    def other_code(builder: Builder, number: Value, scale: Value, noise: Value) -> Value:
        offset, constant = constants(builder, scale)
        dither = builder.or_(constant, noise)
        return emitted(builder, codec.other_code, number, offset, dither)

    bits = () if slot is None else (types.int64, types.int64, types.float32)
    eight = types.int64, types.int64, types.int64, EIGHT_NUMBERS, types.int32

    @emits(types.void(types.int64, types.int64, types.float32, types.int32, *bits), device.intrinsic)
    def store(
        builder: Builder, address: Value, index: Value, number: Value, scale: Value, *how: Value
    ) -> None:
        position = builder.and_(index, ir.Constant(I64, BLOCK - 1))
        start = common(builder, how, STEP)
        (noise,) = dithers(builder, start, how, position, 1, STEP)

        def encode(plain: bool) -> list[Value]:
            if not plain:
                return [other_code(builder, number, scale, noise)]
            offset, constant = constants(builder, scale)
            return [emitted(builder, codec.plain_code, number, offset, builder.or_(constant, noise))]

        (code,) = either(builder, marked_plain(builder, scale), encode)
        pointer = pointer_at(builder, I8, code_address(builder, address, index))
        builder.store(builder.trunc(code, I8), pointer, align=1)

    def store_words(
        builder: Builder, args: Sequence[Value], words: Callable[[Value], Words], count: int
    ) -> None:
        """Store twice four numbers; `words` gives what starts the sums, and the function of four."""
        address, index, position, values, _, *how = args
        numbers = cgutils.unpack_tuple(builder, values, 2 * WORD)
        start, encode = words(common(builder, how, count))
        places = [ir.Constant(I64, distance) for distance in (0, HALF_BLOCK)]
        added = [
            dithers(builder, start, how, builder.add(position, place), WORD, count) for place in places
        ]
        codes = [encode(numbers[:WORD], added[0]), encode(numbers[WORD:], added[1])]
        begin = code_address(builder, address, index, position)
        for place, four in zip(places, codes, strict=True):
            builder.store(four, pointer_at(builder, I32, builder.add(begin, place)), align=ALIGNED)

    @emits(types.void(*eight, *bits), device.intrinsic)
    def store_plain(builder: Builder, *args: Value) -> None:
        offset, constant = constants(builder, args[4])

        def words(noise: Value) -> Words:
            # Lower bits of the constant are zero, which makes one constant of both.
            start = builder.xor(noise, builder.shl(constant, int32(lift)))
            return start, lambda four, added: _word(builder, word, four, offset, added)

        store_words(builder, args, words, STEP + lift)

    @emits(types.void(*eight, *bits), device.intrinsic)
    def store_other(builder: Builder, *args: Value) -> None:
        def encode(four: list[Value], noise: list[Value]) -> Value:
            pairs = zip(four, noise, strict=True)
            return _joined(builder, [other_code(builder, one, args[4], bits) for one, bits in pairs])

        store_words(builder, args, lambda noise: (noise, encode), STEP)

    return store, store_plain, store_other


class _WordOperations(LLVMOperations):
    """The operations of `code_words`."""

    def upper_halves(self, one: Emitted, other: Emitted) -> Emitted:
        builder = one.builder
        halves = [halves_of(builder, word.raw)[1] for word in (one, other)]
        kind = ir.FunctionType(I32, [I16, I16])
        return Emitted(builder, builder.asm(kind, "mov.b32 $0, {$1, $2};", "=r,h,h", halves, False))

    def mixed_bits(self, mask: int, one: Emitted, other: Emitted) -> Emitted:
        # One instruction, if the compiler does not see that the mask is a constant.
        builder, kind = one.builder, ir.FunctionType(I32, [])
        hidden = Emitted(builder, builder.asm(kind, f"mov.b32 $0, {mask};", "=r", [], False))
        return ((one ^ other) & hidden) ^ other


def _word(
    builder: Builder, word: Formula, numbers: list[Value], offset: Value, dithers: list[Value]
) -> Value:
    def formula(o: LLVMOperations, offset: Emitted, *values: Emitted) -> Emitted:
        packed: Emitted = word(o, values[:WORD], offset, values[WORD:])
        return packed

    return emitted(builder, formula, offset, *numbers, *dithers, operations=_WordOperations)


def _joined(builder: Builder, codes: list[Value]) -> Value:
    """Four codes as a word, the first lowest."""
    word = codes[-1]
    for code in codes[-2::-1]:
        word = builder.or_(builder.shl(word, int32(8)), builder.and_(code, int32(0xFF)))
    return word
