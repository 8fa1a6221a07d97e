"""Loads and stores of 8-bit codes on a device. The formulas are those of `fastopt.codecs.blocks`.

A warp has a block: each of its threads eight elements, whose new numbers stay in registers until the
largest of all 256 is known, which the threads find among themselves.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils

from fastopt.codecs.blocks import BLOCKS, larger_finite
from fastopt.executors.cuda import block_stores, device, simulated_blocks
from fastopt.executors.cuda.block_layout import (
    ALIGNED,
    EIGHT_CODES,
    EIGHT_NUMBERS,
    HALF_BLOCK,
    WORD,
    code_address,
    either,
    in_block,
    marked_plain,
    pointer_at,
)
from fastopt.executors.cuda.code_words import WORDS
from fastopt.kernels.llvm_operations import I8, I32, I64, emitted, int32, larger_word


class BlockAccess(NamedTuple):
    """The functions of a kernel for a state in blocks, whose addresses are multiples of `ALIGNED`.

    Numbers are tuples where `width` elements are loaded or stored at once.
    """

    scale: Any  # (address, index): the bits of the scale of the block with this element
    load: Any  # (address, index, scale)
    codes: Any  # (address, index, position): eight codes, as of `store_plain`, in two words
    decode: Any  # (codes, scale): their numbers
    larger: Any  # (largest, value): the larger of two numbers, as bits
    larger_finite: Any  # the same, where only finite numbers count
    is_plain: Any  # (largest): whether the block is plain whose largest number this is
    new_scale: Any  # (largest, plain): of the block
    store_scale: Any  # (address, index, scale)
    # (address, index, value, scale), and with stochastic rounding the index of the block's first
    # element among those of all arrays, table and phase.
    store: Any
    # (address, index, position, values, scale) and the same, for plain blocks and others: four numbers
    # from a position in a block on, and as many `HALF_BLOCK` further.
    store_plain: Any
    store_other: Any


@cache
def block_access(stored: str, dithered: bool, slot: int) -> BlockAccess:
    """The functions for one slot; numbers are float32."""
    if device.SIMULATED:
        return BlockAccess(**simulated_blocks.functions(stored, slot if dithered else None))
    store, store_plain, store_other = block_stores.storers(stored, slot if dithered else None)
    return BlockAccess(
        **_scales(stored),
        load=_loader(stored),
        codes=_codes_loader(),
        decode=_decoder(stored),
        store=store,
        store_plain=store_plain,
        store_other=store_other,
    )


def _scales(stored: str) -> dict[str, Any]:
    """The functions that have to do with scales, by name."""
    codec = BLOCKS[stored]

    def gatherer(gather: Any) -> Any:
        @device.intrinsic  # type: ignore[untyped-decorator]
        def gather_number(typing_context: Any, largest: Any, value: Any) -> Any:
            def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
                size = emitted(
                    builder, lambda o, number: codec.size_bits(o, o.as_bits(number)), args[1]
                )
                return gather(builder, args[0], size)

            return types.int32(types.int32, types.float32), emit

        return gather_number

    @device.intrinsic  # type: ignore[untyped-decorator]
    def within(typing_context: Any, largest: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            return builder.icmp_unsigned("<=", args[0], int32(codec.plain_most))

        return types.boolean(types.int32), emit

    @device.intrinsic  # type: ignore[untyped-decorator]
    def scale(typing_context: Any, address: Any, index: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            scale_at = in_block(builder, args[0], args[1], ir.Constant(I64, 0))
            return builder.load(pointer_at(builder, I32, scale_at), align=ALIGNED)

        return types.int32(types.int64, types.int64), emit

    @device.intrinsic  # type: ignore[untyped-decorator]
    def new_scale(typing_context: Any, largest: Any, plain: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            return emitted(builder, codec.scale_bits, *args)

        return types.int32(types.int32, types.boolean), emit

    @device.intrinsic  # type: ignore[untyped-decorator]
    def store_scale(typing_context: Any, address: Any, index: Any, scale: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            scale_at = in_block(builder, args[0], args[1], ir.Constant(I64, 0))
            builder.store(args[2], pointer_at(builder, I32, scale_at), align=ALIGNED)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, types.int32), emit

    return {
        "scale": scale,
        "larger": gatherer(larger_word),
        "larger_finite": gatherer(lambda builder, *values: emitted(builder, larger_finite, *values)),
        "is_plain": within,
        "new_scale": new_scale,
        "store_scale": store_scale,
    }


def _loader(stored: str) -> Any:
    codec = BLOCKS[stored]

    @device.intrinsic  # type: ignore[untyped-decorator]
    def load(typing_context: Any, address: Any, index: Any, scale: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            code = builder.load(pointer_at(builder, I8, code_address(builder, *args[:2])), align=1)

            def decode(plain: bool) -> list[Any]:
                formula = codec.plain_number if plain else codec.other_number
                return [emitted(builder, formula, code, args[2])]

            return either(builder, marked_plain(builder, args[2]), decode)[0]

        return types.float32(types.int64, types.int64, types.int32), emit

    return load


@cache
def _codes_loader() -> Any:
    @device.intrinsic  # type: ignore[untyped-decorator]
    def codes(typing_context: Any, address: Any, index: Any, position: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            begin, words = code_address(builder, *args), []
            for distance in (0, HALF_BLOCK):
                at = pointer_at(builder, I32, builder.add(begin, ir.Constant(I64, distance)))
                words.append(builder.load(at, align=ALIGNED))
            return context.make_tuple(builder, EIGHT_CODES, words)

        return EIGHT_CODES(types.int64, types.int64, types.int64), emit

    return codes


def _decoder(stored: str) -> Any:
    codec, plain_number = BLOCKS[stored], WORDS[stored].number

    @device.intrinsic  # type: ignore[untyped-decorator]
    def decode(typing_context: Any, codes: Any, scale: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            words = cgutils.unpack_tuple(builder, args[0], 2)
            shifts = [int32(8 * lane) for lane in range(WORD)]
            codes = [builder.trunc(builder.lshr(word, shift), I8) for word in words for shift in shifts]

            def decode_all(plain: bool) -> list[Any]:
                formula = plain_number if plain else codec.other_number
                return [emitted(builder, formula, code, args[1]) for code in codes]

            numbers = either(builder, marked_plain(builder, args[1]), decode_all)
            return context.make_tuple(builder, EIGHT_NUMBERS, numbers)

        return EIGHT_NUMBERS(EIGHT_CODES, types.int32), emit

    return decode
