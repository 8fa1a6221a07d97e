"""Stores of 8-bit codes on a device: one at a time, or eight of a thread as two words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from fastopt.codecs.base import BLOCK
from fastopt.codecs.blocks import BLOCKS, STEP
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


def storers(stored: str, slot: int | None) -> tuple[Any, Any, Any]:
    """The functions that store one number, and eight; `slot` is that of the random bits, or None."""
    codec, (lift, word, _) = BLOCKS[stored], WORDS[stored]
    half = 1 << (STEP - 1)

    def constants(builder: ir.IRBuilder, scale: ir.Value) -> Any:
        return emitted(builder, lambda o, scale: codec.offsets(scale), scale)

    def common(builder: ir.IRBuilder, how: Any, count: int) -> Any:
        """The part of the random bits that a block has in common, or a half."""
        if slot is None:
            return int32(half << (count - STEP))
        return noise_of_block(builder, how[0], how[2], slot, count)

    def dithers(
        builder: ir.IRBuilder, start: ir.Value, how: Any, position: ir.Value, width: int, count: int
    ) -> list[ir.Value]:
        """What is added to the sums, of which `start` is that of all elements."""
        if slot is None:
            return [start] * width
        return noise_at(builder, start, how[1], position, width, count)

    def other_code(builder: ir.IRBuilder, number: ir.Value, scale: ir.Value, noise: ir.Value) -> Any:
        offset, constant = constants(builder, scale)
        dither = builder.or_(constant, noise)
        return emitted(builder, codec.other_code, number, offset, dither)

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        address, index, number, scale, *how = args
        position = builder.and_(index, ir.Constant(I64, BLOCK - 1))
        start = common(builder, how, STEP)
        (noise,) = dithers(builder, start, how, position, 1, STEP)

        def encode(plain: bool) -> list[Any]:
            if not plain:
                return [other_code(builder, number, scale, noise)]
            offset, constant = constants(builder, scale)
            return [emitted(builder, codec.plain_code, number, offset, builder.or_(constant, noise))]

        (code,) = either(builder, marked_plain(builder, scale), encode)
        pointer = pointer_at(builder, I8, code_address(builder, address, index))
        builder.store(builder.trunc(code, I8), pointer, align=1)
        return context.get_dummy_value()

    def store_words(builder: ir.IRBuilder, args: Any, words: Callable[..., Any], count: int) -> None:
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

    def emit_plain(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        offset, constant = constants(builder, args[4])

        def words(noise: Any) -> Any:
            # Lower bits of the constant are zero, which makes one constant of both.
            start = builder.xor(noise, builder.shl(constant, int32(lift)))
            return start, lambda four, added: _word(builder, word, four, offset, added)

        store_words(builder, args, words, STEP + lift)
        return context.get_dummy_value()

    def emit_other(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        def encode(four: list[Any], noise: list[Any]) -> Any:
            pairs = zip(four, noise, strict=True)
            return _joined(builder, [other_code(builder, one, args[4], bits) for one, bits in pairs])

        store_words(builder, args, lambda noise: (noise, encode), STEP)
        return context.get_dummy_value()

    one = types.int64, types.int64, types.float32, types.int32
    eight = types.int64, types.int64, types.int64, EIGHT_NUMBERS, types.int32
    bits = () if slot is None else (types.int64, types.int64, types.float32)
    plain, other = (_intrinsic((*eight, *bits), each) for each in (emit_plain, emit_other))
    return _intrinsic((*one, *bits), emit), plain, other


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
    builder: ir.IRBuilder, word: ir.Value, numbers: list[Any], offset: ir.Value, dithers: list[Any]
) -> ir.Value:
    def formula(o: Any, offset: Any, *values: Any) -> Any:
        return word(o, values[:WORD], offset, values[WORD:])

    return emitted(builder, formula, offset, *numbers, *dithers, operations=_WordOperations)


def _joined(builder: ir.IRBuilder, codes: list[Any]) -> ir.Value:
    """Four codes as a word, the first lowest."""
    word = codes[-1]
    for code in codes[-2::-1]:
        word = builder.or_(builder.shl(word, int32(8)), builder.and_(code, int32(0xFF)))
    return word


def _intrinsic(arguments: tuple[Any, ...], emit: Any) -> Any:
    """A function without a result, of arguments of these types."""
    names = [f"argument{k}" for k in range(len(arguments))]
    scope = {"result": (types.void(*arguments), emit)}
    exec(f"def store(typing_context, {', '.join(names)}):\n    return result\n", scope)
    return device.intrinsic(scope["store"])
