"""Loads and stores of 8-bit codes on a device. The formulas are those of `fastopt.codecs.blocks`.

A warp has a block: each of its threads eight elements, whose new numbers stay in registers until the
largest of all 256 is known, which the threads find among themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import product
from typing import NamedTuple

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
from fastopt.kernels.intrinsics import Builder, Intrinsic, Value, emits
from fastopt.kernels.llvm_operations import I8, I32, I64, emitted, int32, larger_word


class BlockAccess(NamedTuple):
    """The functions of a kernel for a state in blocks, whose addresses are multiples of `ALIGNED`.

    Numbers are tuples where `width` elements are loaded or stored at once.
    """

    scale: Intrinsic  # (address, index): the bits of the scale of the block with this element
    load: Intrinsic  # (address, index, scale)
    codes: Intrinsic  # (address, index, position): eight codes, as of `store_plain`, in two words
    decode: Intrinsic  # (codes, scale): their numbers
    larger: Intrinsic  # (largest, value): the larger of two numbers, as bits
    larger_finite: Intrinsic  # the same, where only finite numbers count
    is_plain: Intrinsic  # (largest): whether the block is plain whose largest number this is
    new_scale: Intrinsic  # (largest, plain): of the block
    store_scale: Intrinsic  # (address, index, scale)
    # (address, index, value, scale), and with stochastic rounding the index of the block's first
    # element among those of all arrays, table and phase.
    store: Intrinsic
    # (address, index, position, values, scale) and the same, for plain blocks and others: four numbers
    # from a position in a block on, and as many `HALF_BLOCK` further.
    store_plain: Intrinsic
    store_other: Intrinsic


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


def _scales(stored: str) -> dict[str, Intrinsic]:
    """The functions that have to do with scales, by name."""
    codec = BLOCKS[stored]

    def gatherer(gather: Callable[[Builder, Value, Value], Value]) -> Intrinsic:
        @emits(types.int32(types.int32, types.float32), device.intrinsic)
        def gather_number(builder: Builder, largest: Value, value: Value) -> Value:
            size = emitted(builder, lambda o, number: codec.size_bits(o, o.as_bits(number)), value)
            return gather(builder, largest, size)

        return gather_number

    @emits(types.boolean(types.int32), device.intrinsic)
    def within(builder: Builder, largest: Value) -> Value:
        return builder.icmp_unsigned("<=", largest, int32(codec.plain_most))

    @emits(types.int32(types.int64, types.int64), device.intrinsic)
    def scale(builder: Builder, address: Value, index: Value) -> Value:
        scale_at = in_block(builder, address, index, ir.Constant(I64, 0))
        return builder.load(pointer_at(builder, I32, scale_at), align=ALIGNED)

    @emits(types.int32(types.int32, types.boolean), device.intrinsic)
    def new_scale(builder: Builder, largest: Value, plain: Value) -> Value:
        return emitted(builder, codec.scale_bits, largest, plain)

    @emits(types.void(types.int64, types.int64, types.int32), device.intrinsic)
    def store_scale(builder: Builder, address: Value, index: Value, scale: Value) -> None:
        scale_at = in_block(builder, address, index, ir.Constant(I64, 0))
        builder.store(scale, pointer_at(builder, I32, scale_at), align=ALIGNED)

    return {
        "scale": scale,
        "larger": gatherer(larger_word),
        "larger_finite": gatherer(lambda builder, *values: emitted(builder, larger_finite, *values)),
        "is_plain": within,
        "new_scale": new_scale,
        "store_scale": store_scale,
    }


def _loader(stored: str) -> Intrinsic:
    codec = BLOCKS[stored]

    @emits(types.float32(types.int64, types.int64, types.int32), device.intrinsic)
    def load(builder: Builder, address: Value, index: Value, scale: Value) -> Value:
        code = builder.load(pointer_at(builder, I8, code_address(builder, address, index)), align=1)

        def decode(plain: bool) -> list[Value]:
            formula = codec.plain_number if plain else codec.other_number
            return [emitted(builder, formula, code, scale)]

        return either(builder, marked_plain(builder, scale), decode)[0]

    return load


@cache
def _codes_loader() -> Intrinsic:
    @emits(EIGHT_CODES(types.int64, types.int64, types.int64), device.intrinsic)
    def codes(builder: Builder, address: Value, index: Value, position: Value) -> Value:
        begin, words = code_address(builder, address, index, position), []
        for distance in (0, HALF_BLOCK):
            at = pointer_at(builder, I32, builder.add(begin, ir.Constant(I64, distance)))
            words.append(builder.load(at, align=ALIGNED))
        return cgutils.pack_array(builder, words)

    return codes


def _decoder(stored: str) -> Intrinsic:
    codec, plain_number = BLOCKS[stored], WORDS[stored].number

    @emits(EIGHT_NUMBERS(EIGHT_CODES, types.int32), device.intrinsic)
    def decode(builder: Builder, words: Value, scale: Value) -> Value:
        shifts = [int32(8 * lane) for lane in range(WORD)]
        pairs = product(cgutils.unpack_tuple(builder, words, 2), shifts)
        codes = [builder.trunc(builder.lshr(word, shift), I8) for word, shift in pairs]

        def decode_all(plain: bool) -> list[Value]:
            formula = plain_number if plain else codec.other_number
            return [emitted(builder, formula, code, scale) for code in codes]

        return cgutils.pack_array(builder, either(builder, marked_plain(builder, scale), decode_all))

    return decode
