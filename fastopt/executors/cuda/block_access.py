"""Loads and stores of 8-bit codes on a device. The formulas are those of `fastopt.codecs.blocks`.

A warp has a block: each of its threads eight elements, whose new numbers stay in registers until the
largest of all 256 is known, which the threads find among themselves.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from fastopt.codecs import rounding
from fastopt.codecs.base import BLOCK
from fastopt.codecs.blocks import BLOCKS, CODES_AT, ITEM, STEP, is_plain, larger_finite
from fastopt.codecs.operations import NUMPY
from fastopt.executors.cuda import device
from fastopt.executors.cuda.element_access import noise_in_block, pointer_to
from fastopt.kernels.llvm_operations import (
    I8,
    I32,
    I64,
    LLVMOperations,
    emitted,
    int32,
    larger_word,
)

ALIGNED = 4  # bytes: of a block's scale, and of four codes that move together

ALL_THREADS, BUTTERFLY, LAST_LANE = 0xFFFFFFFF, 3, device.WARP - 1


class BlockAccess(NamedTuple):
    """The functions of a kernel for a state in blocks, whose addresses are multiples of `ALIGNED`.

    Numbers are tuples where `width` elements are loaded or stored at once.
    """

    scale: Any  # (address, index): the bits of the scale of the block with this element
    load: Any  # (address, index, scale)
    load_wide: Any
    larger: Any  # (largest, value): the larger of two numbers, as bits
    larger_finite: Any  # the same, where only finite numbers count
    is_plain: Any  # (largest): whether the block is plain whose largest number this is
    new_scale: Any  # (largest, plain): of the block
    store_scale: Any  # (address, index, scale)
    # (address, index, value, scale), and with stochastic rounding the index of the block's first
    # element among those of all arrays, table and phase.
    store: Any
    store_wide: Any


def _in_block(builder: Any, address: Any, index: Any, offset: Any) -> Any:
    """The address `offset` bytes into the block that has an element."""
    item = builder.lshr(index, ir.Constant(I64, BLOCK.bit_length() - 1))
    begin = builder.mul(item, ir.Constant(I64, ITEM.itemsize))
    return builder.add(address, builder.add(begin, offset))


def _code_address(builder: Any, address: Any, index: Any) -> Any:
    within = builder.and_(index, ir.Constant(I64, BLOCK - 1))
    return _in_block(builder, address, index, builder.add(within, ir.Constant(I64, CODES_AT)))


def _at(builder: Any, kind: Any, address: Any) -> Any:
    return pointer_to(builder, kind, address, ir.Constant(I64, 0))


@cache
def block_access(stored: str, dithered: bool, slot: int, width: int) -> BlockAccess:
    """The functions for one slot; numbers are float32."""
    if device.SIMULATED:
        return _simulated(stored, slot if dithered else None, width)
    scales = _scales(stored)
    load, load_wide = (_loader(stored, count) for count in (1, width))
    store, store_wide = (_storer(stored, dithered, slot, count) for count in (1, width))
    return BlockAccess(**scales, load=load, load_wide=load_wide, store=store, store_wide=store_wide)


def _scales(stored: str) -> dict[str, Any]:
    """The functions that have to do with scales, by name."""
    codec = BLOCKS[stored]

    def gatherer(gather: Any) -> Any:
        @device.intrinsic  # type: ignore[untyped-decorator]
        def gather_number(typing_context: Any, found: Any, value: Any) -> Any:
            def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
                size = emitted(
                    builder, lambda o, number: codec.size_bits(o, o.as_bits(number)), args[1]
                )
                return gather(builder, args[0], size)

            return types.int32(types.int32, types.float32), emit

        return gather_number

    @device.intrinsic  # type: ignore[untyped-decorator]
    def within(typing_context: Any, largest: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.icmp_unsigned("<=", args[0], int32(codec.plain_most))

        return types.boolean(types.int32), emit

    @device.intrinsic  # type: ignore[untyped-decorator]
    def scale(typing_context: Any, address: Any, index: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            scale_at = _in_block(builder, args[0], args[1], ir.Constant(I64, 0))
            return builder.load(_at(builder, I32, scale_at), align=ALIGNED)

        return types.int32(types.int64, types.int64), emit

    @device.intrinsic  # type: ignore[untyped-decorator]
    def new_scale(typing_context: Any, largest: Any, plain: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return emitted(builder, codec.scale_bits, *args)

        return types.int32(types.int32, types.boolean), emit

    @device.intrinsic  # type: ignore[untyped-decorator]
    def store_scale(typing_context: Any, address: Any, index: Any, scale: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            scale_at = _in_block(builder, args[0], args[1], ir.Constant(I64, 0))
            builder.store(args[2], _at(builder, I32, scale_at), align=ALIGNED)
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


def _either(builder: Any, scale: Any, emit: Any) -> list[Any]:
    """What `emit(plain)` gives, for the block's kind: a branch that all threads of a warp take."""
    marked = emitted(builder, lambda o, scale: is_plain(scale), scale)
    found = []
    with builder.if_else(marked) as branches:
        for branch, plain in zip(branches, (True, False), strict=True):
            with branch:
                found.append((emit(plain), builder.block))
    joined = []
    for values in zip(*(values for values, _ in found), strict=True):
        joined.append(builder.phi(values[0].type))
        for value, (_, block) in zip(values, found, strict=True):
            joined[-1].add_incoming(value, block)
    return joined


def _loader(stored: str, width: int) -> Any:
    codec = BLOCKS[stored]
    result = types.float32 if width == 1 else types.UniTuple(types.float32, width)
    whole = ir.IntType(8 * width)

    @device.intrinsic  # type: ignore[untyped-decorator]
    def load(typing_context: Any, address: Any, index: Any, scale: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = _at(builder, whole, _code_address(builder, args[0], args[1]))
            found = builder.load(pointer, align=width)
            each = [builder.lshr(found, ir.Constant(whole, 8 * lane)) for lane in range(width)]
            codes = [builder.trunc(code, I8) for code in each]

            def decode(plain: bool) -> list[Any]:
                formula = codec.plain_number if plain else codec.other_number
                return [emitted(builder, formula, code, args[2]) for code in codes]

            numbers = _either(builder, args[2], decode)
            return numbers[0] if width == 1 else context.make_tuple(builder, result, numbers)

        return result(types.int64, types.int64, types.int32), emit

    return load


class _Operations(LLVMOperations):
    """The same operations where a device has better instructions for one of them."""

    def signed_byte(self, bits: Any, count: int) -> Any:
        # A sum and its lower bound are one instruction.
        return self.maximum(bits, -128 << count) >> count


def _joined(builder: Any, codes: list[Any]) -> Any:
    """One code as a byte, or four as a word, the first lowest."""
    if len(codes) == 1:
        return builder.trunc(codes[0], I8)
    word = codes[-1]
    for code in codes[-2::-1]:
        word = builder.add(builder.shl(word, int32(8)), code)
    # A code below zero borrowed from the next one, but not one that is 128 larger.
    larger = int32(0x80808080)
    return builder.xor(builder.add(word, larger), larger)


def _storer(stored: str, dithered: bool, slot: int, width: int) -> Any:
    codec = BLOCKS[stored]
    given = types.float32 if width == 1 else types.UniTuple(types.float32, width)
    whole = ir.IntType(8 * width)

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address, index, value, scale, *how = args
        numbers = [value] if width == 1 else cgutils.unpack_tuple(builder, value, width)
        noise = [None] * width
        if dithered:
            position = builder.and_(index, ir.Constant(I64, BLOCK - 1))
            noise = noise_in_block(builder, how[0], position, how[1:], slot, width)

        def encode(plain: bool) -> list[Any]:
            formula = codec.plain_code if plain else codec.other_code
            offset, constant = emitted(builder, lambda o, scale: codec.offsets(scale), scale)
            codes = []
            for number, own in zip(numbers, noise, strict=True):
                half = int32(1 << (STEP - 1))
                part = half if own is None else builder.lshr(own, int32(32 - STEP))
                # Added, and not or-ed as on the CPU: sums of three are one instruction.
                dither = builder.add(constant, part)
                codes.append(emitted(builder, formula, number, offset, dither, operations=_Operations))
            return [_joined(builder, codes)]

        (codes,) = _either(builder, scale, encode)
        pointer = _at(builder, whole, _code_address(builder, address, index))
        builder.store(codes, pointer, align=width)
        return context.get_dummy_value()

    words = types.int64, types.int64, given, types.int32
    if not dithered:

        @device.intrinsic  # type: ignore[untyped-decorator]
        def store(typing_context: Any, address: Any, index: Any, value: Any, scale: Any) -> Any:
            return types.void(*words), emit

        return store

    @device.intrinsic  # type: ignore[untyped-decorator]
    def store_dithered(
        typing_context: Any,
        address: Any,
        index: Any,
        value: Any,
        scale: Any,
        first: Any,
        table: Any,
        phase: Any,
    ) -> Any:
        return types.void(*words, types.int64, types.int64, types.float32), emit

    return store_dithered


@cache
def _largest_of_warp() -> Any:
    """``largest(number)``: the largest that the threads of a warp have; all of them must ask."""

    @device.intrinsic  # type: ignore[untyped-decorator]
    def largest(typing_context: Any, number: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            (largest_so_far,) = args
            result = ir.LiteralStructType((I32, ir.IntType(1)))
            kind = ir.FunctionType(result, [I32] * 5)
            shuffle = cgutils.get_or_insert_function(builder.module, kind, "llvm.nvvm.shfl.sync.i32")
            distance = device.WARP // 2
            while distance:
                numbers = ALL_THREADS, BUTTERFLY, None, distance, LAST_LANE
                operands = [largest_so_far if own is None else int32(own) for own in numbers]
                other = builder.extract_value(builder.call(shuffle, operands), 0)
                largest_so_far = larger_word(builder, largest_so_far, other)
                distance //= 2
            return largest_so_far

        return types.int32(types.int32), emit

    return largest


def define_warp_functions(scope: dict[str, Any]) -> None:
    """Put the functions over a warp into the scope of kernels."""
    if device.SIMULATED:
        scope |= {"uint32": types.uint32, "WARP": device.WARP}
        exec(_SIMULATED_WARP, scope)
    else:
        scope["largest_of_warp"] = _largest_of_warp()


# On Numba's simulator there are no shuffles: threads meet in shared memory. A block there is a warp.
_SIMULATED_WARP = """
def largest_of_warp(number):
    shared = cuda.shared.array(WARP, uint32)
    shared[cuda.threadIdx.x] = number
    cuda.syncthreads()
    largest = max(int(size) for size in shared)
    cuda.syncthreads()
    return largest
"""


def _codes(address: int, index: int, width: int) -> Any:
    """Codes on Numba's simulator, where the memory of the device is the host's."""
    code_at = address + index // BLOCK * ITEM.itemsize + CODES_AT + index % BLOCK
    assert (code_at - address) % width == 0, "a misaligned access is a fault on a device"
    raw: Any = (ctypes.c_uint8 * width).from_address(code_at)
    return np.frombuffer(raw, np.uint8)


def _simulated(stored: str, slot: int | None, width: int) -> BlockAccess:
    codec = BLOCKS[stored]

    def scale_at(address: int, index: int) -> Any:
        return ctypes.c_int32.from_address(address + index // BLOCK * ITEM.itemsize)

    def loader(width: int) -> Any:
        @np.errstate(invalid="ignore")
        def load(address: int, index: int, scale: int) -> Any:
            codes = _codes(address, index, width)
            numbers = codec.number(NUMPY, codes, np.array([scale], np.int32))
            return numbers[0] if width == 1 else tuple(numbers)

        return load

    def storer(width: int) -> Any:
        def store(address: int, index: int, value: Any, scale: int, *how: Any) -> None:
            bits = None
            if slot is not None:
                begin, _, phase = how
                position = index % BLOCK
                bits = rounding.noise(begin, position + width, phase, slot)[position:]
            numbers = np.array([value] if width == 1 else value, np.float32)
            codes = codec.codes(numbers, np.array([scale], np.int32), bits)
            _codes(address, index, width)[:] = codes

        return store

    # Integers without a sign.

    def size_of(value: Any) -> int:
        bits = codec.size_bits(NUMPY, np.array([value], np.float32).view(np.int32))
        return int(bits.view(np.uint32)[0])

    def finite(largest: int, value: Any) -> int:
        return int(larger_finite(NUMPY, *np.array([largest, size_of(value)], np.uint32).view(np.int32)))

    def new_scale(largest: int, plain: bool) -> int:
        return int(codec.scale_bits(NUMPY, np.array([largest], np.int32), plain)[0])

    def store_scale(address: int, index: int, scale: int) -> None:
        scale_at(address, index).value = scale

    return BlockAccess(
        scale=lambda address, index: scale_at(address, index).value,
        load=loader(1),
        load_wide=loader(width),
        larger=lambda largest, value: max(int(largest), size_of(value)),
        larger_finite=finite,
        is_plain=lambda largest: largest <= codec.plain_most,
        new_scale=new_scale,
        store_scale=store_scale,
        store=storer(1),
        store_wide=storer(width),
    )
