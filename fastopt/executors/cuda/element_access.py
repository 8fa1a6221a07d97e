"""Loads and stores of kernels, by address: one element, or as many as fill 16 bytes.

Indexing an array stays a 4-byte access on a device, however it is written. These helpers load and
store a vector, so that a thread moves four float32 by one instruction; it takes 2.4 times fewer
instructions for an element, and the address must be a multiple of the vector's size. How a number
is stored is what `executors.cpu.element_access` says for the CPU too.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from fastopt.codecs import rounding
from fastopt.codecs.base import BLOCK
from fastopt.codecs.floats import floats
from fastopt.codecs.formats import FORMATS
from fastopt.codecs.half_precision import nearest_bfloat16
from fastopt.executors.cuda import device
from fastopt.kernels.conversions import decode, encode, hashed, stored_type
from fastopt.kernels.llvm_operations import I8, I16, I32, I64, int32

WIDEST = 16  # bytes of an access in the dtype of the arithmetic
BFLOAT16_SINCE = 8, 0  # the compute capability that converts to bfloat16 by one instruction
GLOBAL = 1  # the address space, which saves instructions for generic addresses


def width_of(dtype: str) -> int:
    """How many elements a thread loads at once."""
    return WIDEST // FORMATS[dtype].itemsize


def _moved(stored: str) -> Any:
    """What is loaded and stored: bits where an element has 16 or fewer.

    The load of four such elements would be split as a vector, so it is one number; their store stays
    one.
    """
    itemsize = FORMATS[stored].itemsize
    return ir.IntType(8 * itemsize) if itemsize <= 2 else stored_type(stored)


def pointer_to(
    builder: ir.IRBuilder, element: ir.Type, address: ir.Value, index: ir.Value, width: int = 1
) -> ir.Value:
    """A pointer to the element at an index, or to `width` of them."""
    first = builder.inttoptr(address, ir.PointerType(element, GLOBAL))
    pointer = builder.gep(first, [index], inbounds=True)
    if width == 1:
        return pointer
    narrow = element in (I8, I16)
    whole = ir.IntType(element.width * width) if narrow else ir.VectorType(element, width)
    return builder.bitcast(pointer, ir.PointerType(whole, GLOBAL))


def lane_of(builder: ir.IRBuilder, whole: ir.Value, element: ir.Type, lane: int) -> ir.Value:
    """One of several elements that were loaded together."""
    if isinstance(whole.type, ir.VectorType):
        return builder.extract_element(whole, I32(lane))
    return builder.trunc(builder.lshr(whole, ir.Constant(whole.type, element.width * lane)), element)


@cache
def loader(dtype: str, stored: str, width: int = 1) -> Any:
    """``load(address, index)``: a number in `dtype` from an array that holds `stored`, or a tuple."""
    if device.SIMULATED:
        return _simulated_loader(dtype, stored, width)
    number, element = getattr(types, dtype), _moved(stored)
    result = number if width == 1 else types.UniTuple(number, width)

    @device.intrinsic  # type: ignore[untyped-decorator]
    def load(typing_context: Any, address: Any, index: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            pointer = pointer_to(builder, element, args[0], args[1], width)
            align = width * FORMATS[stored].itemsize
            if stored == "float16" and width == 4:
                each = _float16(builder, pointer, align)
            else:
                loaded = builder.load(pointer, align=align)
                if width == 1:
                    return _decode(builder, stored, loaded, dtype)
                each = [lane_of(builder, loaded, element, lane) for lane in range(width)]
            numbers = [_decode(builder, stored, one, dtype) for one in each]
            return context.make_tuple(builder, result, numbers)

        return result(types.int64, types.int64), emit

    return load


def _float16(builder: ir.IRBuilder, pointer: ir.Value, align: int) -> list[ir.Value]:
    """Load four float16 as two words, whose upper halves are then taken without shifting them."""
    pointer = builder.bitcast(pointer, ir.PointerType(ir.VectorType(I32, 2), GLOBAL))
    words = builder.load(pointer, align=align)
    pairs = [halves_of(builder, builder.extract_element(words, I32(k))) for k in range(2)]
    return [half for pair in pairs for half in pair]


def halves_of(builder: ir.IRBuilder, word: ir.Value) -> list[ir.Value]:
    """The lower and the upper half of a word."""
    kind = ir.FunctionType(ir.LiteralStructType((I16, I16)), [I32])
    pair = builder.asm(kind, "mov.b32 {$0, $1}, $2;", "=h,=h,r", [word], False)
    return [builder.extract_value(pair, k) for k in range(2)]


@cache
def storer(dtype: str, stored: str, width: int = 1, *, converts_bfloat16: bool = False) -> Any:
    """``store(address, index, value)``, with a tuple of values if several are stored at once.

    `converts_bfloat16` says whether the device has an instruction for that, see `BFLOAT16_SINCE`.
    """
    if device.SIMULATED:
        simulated = _simulated_storer(stored, width, None)
        return lambda address, index, value: simulated(address, index, value, 0, 0, 0.0)
    number, element = getattr(types, dtype), _moved(stored)
    value_type = number if width == 1 else types.UniTuple(number, width)

    @device.intrinsic  # type: ignore[untyped-decorator]
    def store(typing_context: Any, address: Any, index: Any, value: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            converts = converts_bfloat16 and FORMATS[stored].nearest is nearest_bfloat16
            rounded = _bfloat16 if converts else partial(_encode, stored=stored)
            _emit_store(builder, element, stored, args, width, rounded)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, value_type), emit

    return store


@cache
def dithering_storer(dtype: str, stored: str, width: int, slot: int) -> Any:
    """``store(address, index, value, first, table, phase)``, with stochastic rounding.

    `first` is the number of the array's first element among all, `table` the address of
    `rounding_table` and `phase` that of the step, as the buffer of hyperparameters has it.
    """
    if device.SIMULATED:
        return _simulated_storer(stored, width, slot)
    number, element = getattr(types, dtype), _moved(stored)
    value_type = number if width == 1 else types.UniTuple(number, width)

    @device.intrinsic  # type: ignore[untyped-decorator]
    def store(
        typing_context: Any,
        address: Any,
        index: Any,
        value: Any,
        first: Any,
        table: Any,
        phase: Any,
    ) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            noise = iter(noise_of(builder, args[1], args[3:], slot, width, FORMATS[stored].cut))

            def rounded(builder: ir.IRBuilder, number: ir.Value) -> ir.Value:
                return _encode(builder, number, next(noise), stored=stored)

            _emit_store(builder, element, stored, args, width, rounded)
            return context.get_dummy_value()

        words = types.int64, types.int64, value_type, types.int64, types.int64, number
        return types.void(*words), emit

    return store


def noise_of(
    builder: ir.IRBuilder, index: ir.Value, how: Any, slot: int, width: int, count: int
) -> list[ir.Value]:
    """So many random bits for each of `width` elements; `how` is `first`, `table` and `phase`."""
    # A group never reaches into another block: both are powers of two.
    position = builder.and_(index, ir.Constant(I64, BLOCK - 1))
    block = builder.add(how[0], builder.sub(index, position))
    common = noise_of_block(builder, block, how[2], slot, count)
    return noise_at(builder, common, how[1], position, width, count)


def noise_of_block(
    builder: ir.IRBuilder, block: ir.Value, phase: ir.Value, slot: int, count: int
) -> ir.Value:
    """The part of `count` random bits that a block has in common, by the index of its first element."""
    step = builder.shl(builder.fptoui(phase, I32), int32(32 - rounding.PHASE_BITS))
    common = builder.add(hashed(builder, block), step)
    common = builder.add(common, int32(slot * rounding.PER_SLOT % 2**32))
    return builder.lshr(common, int32(32 - count))


def noise_at(
    builder: ir.IRBuilder, common: ir.Value, table: ir.Value, position: ir.Value, width: int, count: int
) -> list[ir.Value]:
    """The random bits of elements from a position in a block on, by `noise_of_block`."""
    row = builder.add(position, ir.Constant(I64, count * BLOCK))
    bits = builder.load(pointer_to(builder, I32, table, row, width), align=4 * width)
    each = [bits] if width == 1 else [builder.extract_element(bits, I32(k)) for k in range(width)]
    return [builder.xor(common, of_lane) for of_lane in each]


@cache
def rounding_table(ordinal: int) -> Any:
    """The upper bits of `codecs.rounding.table` in the memory of the current device.

    It has a row for each number of bits from 0 to 31, which saves shifting those of each element.
    """
    bits = rounding.table().astype(np.uint64)
    rows = np.stack([bits >> np.uint64(32 - count) for count in range(32)]).astype(np.uint32)
    table = rows.reshape(-1).view(np.int64)
    target = device.allocate(table.shape, table.dtype)
    device.to_device(target.address, table)
    return target


def _decode(builder: ir.IRBuilder, stored: str, raw: ir.Value, dtype: str) -> ir.Value:
    return decode(builder, stored, builder.bitcast(raw, stored_type(stored)), stored_type(dtype))


def _encode(
    builder: ir.IRBuilder, number: ir.Value, noise: ir.Value | None = None, *, stored: str
) -> ir.Value:
    return builder.bitcast(encode(builder, stored, number, noise), _moved(stored))


def _bfloat16(builder: ir.IRBuilder, number: ir.Value) -> ir.Value:
    """The bits of the nearest bfloat16; ptxas makes one instruction of two conversions."""
    kind = ir.FunctionType(I16, [number.type])
    return builder.asm(kind, "cvt.rn.bf16.f32 $0, $1;", "=h,f", [number], False)


def _emit_store(
    builder: ir.IRBuilder,
    element: ir.Type,
    stored: str,
    args: Any,
    width: int,
    rounded: Callable[[Any, Any], Any],
) -> None:
    pointer = pointer_to(builder, element, args[0], args[1], width)
    if width == 1:
        whole = rounded(builder, args[2])
    else:
        whole = ir.Constant(ir.VectorType(element, width), ir.Undefined)
        for lane in range(width):
            number = builder.extract_value(args[2], lane)
            whole = builder.insert_element(whole, rounded(builder, number), I32(lane))
        pointer = builder.bitcast(pointer, ir.PointerType(whole.type, GLOBAL))
    builder.store(whole, pointer, align=width * FORMATS[stored].itemsize)


@cache
def word_loader() -> Any:
    """``load(address, index)`` of a 64-bit integer."""
    if device.SIMULATED:
        return lambda address, index: ctypes.c_int64.from_address(address + 8 * index).value

    @device.intrinsic  # type: ignore[untyped-decorator]
    def load(typing_context: Any, address: Any, index: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            return builder.load(pointer_to(builder, I64, args[0], args[1]), align=8)

        return types.int64(types.int64, types.int64), emit

    return load


@cache
def word_storer() -> Any:
    """``store(address, index, value)`` of a 64-bit integer."""
    if device.SIMULATED:

        def simulated(address: int, index: int, value: int) -> None:
            ctypes.c_int64.from_address(address + 8 * index).value = value

        return simulated

    @device.intrinsic  # type: ignore[untyped-decorator]
    def store(typing_context: Any, address: Any, index: Any, value: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            builder.store(args[2], pointer_to(builder, I64, args[0], args[1]), align=8)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, types.int64), emit

    return store


def memory_at(dtype: np.dtype[Any], address: int, index: int, width: int) -> Any:
    """A NumPy array over the memory at an address, on Numba's simulator."""
    size = dtype.itemsize
    assert (address + index * size) % (width * size) == 0, "a misaligned access is a fault on a device"
    raw: Any = (ctypes.c_char * (width * size)).from_address(address + index * size)
    return np.frombuffer(raw, dtype)


def _simulated_loader(dtype: str, stored: str, width: int) -> Any:
    codec = floats(stored)

    def load(address: int, index: int) -> Any:
        elements = memory_at(codec.dtype, address, index, width)
        decoded = codec.decode(elements, np.dtype(dtype))
        return decoded[0] if width == 1 else tuple(decoded)

    return load


def _simulated_storer(stored: str, width: int, slot: int | None) -> Any:
    codec = floats(stored)

    def store(address: int, index: int, value: Any, first: int, table: int, phase: Any) -> None:
        noise = None
        if slot is not None:
            noise = rounding.noise(first, index + width, phase, slot)[index:]
        numbers = np.array([value] if width == 1 else value)
        memory_at(codec.dtype, address, index, width)[:] = codec.encode(numbers, noise)

    return store
