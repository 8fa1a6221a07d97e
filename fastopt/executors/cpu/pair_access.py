"""Loads and stores of pairs of 16-bit elements in machine code: see `pairs`."""

from __future__ import annotations

from functools import cache

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from fastopt.codecs import rounding
from fastopt.codecs.formats import FORMATS
from fastopt.codecs.operations import SIGN_BIT
from fastopt.executors.cpu.element_access import prefer_512_bits
from fastopt.executors.cpu.pairs import HALF
from fastopt.executors.cpu.pointers import LINE, element_pointer, mark_noalias
from fastopt.kernels.conversions import decode, encode, stored_type
from fastopt.kernels.intrinsics import Builder, Intrinsic, Scope, Value, emits
from fastopt.kernels.job import Job
from fastopt.kernels.llvm_operations import I16, I32, I64, SINGLE, int32


def pair_access(job: Job) -> Scope:
    """The functions of the lines of `pairs.pair_lines`, by name."""
    arrays, slots = job.arrays, len(job.arrays) + 1  # the last of the slots is the table of random bits
    access: Scope = {"minus_zero_of": minus_zero_of}
    for name, _, storage, slot, _ in arrays:
        functions = _access(job.compute.name, *storage, slot, slots)
        access |= {f"{verb}_{name}": function for verb, function in functions.items()}
    return access


@emits(types.float32(types.int64))
def minus_zero_of(builder: Builder, start: Value) -> Value:
    """-0.0, from an index, which has no sign; LLVM does not know that, nor what a sum with it is."""
    prefer_512_bits(builder)
    sign = builder.trunc(builder.lshr(start, ir.Constant(I64, 63)), I32)
    return builder.bitcast(builder.or_(sign, int32(SIGN_BIT)), SINGLE)


@cache
def _access(compute: str, stored: str, dithered: bool, slot: int, slots: int) -> dict[str, Intrinsic]:
    number = getattr(types, compute)

    def pointer(builder: Builder, address: Value, index: Value) -> Value:
        return builder.bitcast(element_pointer(builder, I16, address, index), I32.as_pointer())

    def halves_of(builder: Builder, pair: Value) -> tuple[Value, Value]:
        return builder.trunc(pair, I16), builder.trunc(builder.lshr(pair, int32(HALF)), I16)

    @emits(types.int32(types.intp, types.int64))
    def load_pair(builder: Builder, address: Value, index: Value) -> Value:
        pair = builder.load(pointer(builder, address, index), align=HALF // 8)
        mark_noalias(builder.module, pair, slot, slots)
        return pair

    @emits(number(types.int32))
    def lower_of(builder: Builder, pair: Value) -> Value:
        return decode(builder, stored, halves_of(builder, pair)[0], stored_type(compute))

    @emits(number(types.int32))
    def upper_of(builder: Builder, pair: Value) -> Value:
        return decode(builder, stored, halves_of(builder, pair)[1], stored_type(compute))

    @emits(types.void(types.intp, types.int64, *(number,) * 3, types.int64, types.int32))
    def store_pair(builder: Builder, address: Value, index: Value, *words: Value) -> None:
        *numbers, minus_zero, position, random = words
        noise: tuple[Value | None, Value | None] = None, None
        if dithered:
            noise = _noise_of(builder, position, random, slot, slots, FORMATS[stored].cut)
        bits = []
        for value, random_bits in zip(numbers, noise, strict=True):
            quiet = builder.fadd(value, minus_zero)
            bits.append(builder.zext(encode(builder, stored, quiet, random_bits, True), I32))
        pair = builder.or_(bits[0], builder.shl(bits[1], int32(HALF)))
        written = builder.store(pair, pointer(builder, address, index), align=HALF // 8)
        mark_noalias(builder.module, written, slot, slots)

    return {
        "load_pair": load_pair,
        "lower_of": lower_of,
        "upper_of": upper_of,
        "store_pair": store_pair,
    }


def _noise_of(
    builder: Builder, position: Value, random: Value, slot: int, slots: int, width: int
) -> tuple[Value, Value]:
    """As `element_access.noise_of`, for an element at an even position and the next: up to 16 bits."""
    lower, upper = np.split(rounding.table().reshape(-1, 2) >> np.uint32(32 - width), 2, axis=1)
    pairs = [int32(int(pair)) for pair in (lower | (upper << np.uint32(HALF))).ravel()]
    table = cgutils.global_constant(
        builder, "fastopt.noise.pairs", ir.Constant(ir.ArrayType(I32, len(pairs)), pairs)
    )
    table.align = LINE
    index = builder.lshr(position, ir.Constant(I64, 1))
    pair = builder.load(element_pointer(builder, I32, builder.ptrtoint(table, I64), index), align=4)
    mark_noalias(builder.module, pair, slots - 1, slots)
    common = builder.add(random, int32(slot * rounding.PER_SLOT % 2**32))
    common = builder.lshr(common, int32(32 - width))
    pair = builder.xor(pair, builder.or_(common, builder.shl(common, int32(HALF))))
    return builder.and_(pair, int32(2**HALF - 1)), builder.lshr(pair, int32(HALF))
