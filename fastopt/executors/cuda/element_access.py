"""Loads and stores of kernels, by address: one element, or as many as fill 16 bytes.

Indexing an array stays a 4-byte access on a device, however it is written. These helpers load and
store a vector, so that a thread moves four float32 by one instruction; it takes 2.4 times fewer
instructions for an element, and the address must be a multiple of the vector's size. How a number
is stored is what `executors.cpu.element_access` says for the CPU too.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import TypeAlias

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from fastopt.arrays.device_array import DeviceArray
from fastopt.codecs import rounding
from fastopt.codecs.base import BLOCK, Array, DType
from fastopt.codecs.floats import floats
from fastopt.codecs.formats import FORMATS
from fastopt.codecs.half_precision import nearest_bfloat16
from fastopt.executors.cuda import device
from fastopt.kernels.conversions import decode, encode, hashed, stored_type
from fastopt.kernels.intrinsics import Builder, Intrinsic, Value, emits
from fastopt.kernels.llvm_operations import I8, I16, I32, I64, int32

WIDEST = 16  # bytes of an access in the dtype of the arithmetic
Numbers: TypeAlias = float | tuple[float, ...]  # one, or as many as are moved at once
BFLOAT16_SINCE = 8, 0  # the compute capability that converts to bfloat16 by one instruction
GLOBAL = 1  # the address space, which saves instructions for generic addresses


def width_of(dtype: str) -> int:
    """How many elements a thread loads at once."""
    return WIDEST // FORMATS[dtype].itemsize


def _moved(stored: str) -> ir.Type:
    """What is loaded and stored: bits where an element has 16 or fewer.

    The load of four such elements would be split as a vector, so it is one number; their store stays
    one.
    """
    itemsize = FORMATS[stored].itemsize
    return ir.IntType(8 * itemsize) if itemsize <= 2 else stored_type(stored)


def pointer_to(
    builder: Builder, element: ir.Type, address: Value, index: Value, width: int = 1
) -> Value:
    """A pointer to the element at an index, or to `width` of them."""
    first = builder.inttoptr(address, ir.PointerType(element, GLOBAL))
    pointer = builder.gep(first, [index], inbounds=True)
    if width == 1:
        return pointer
    narrow = element in (I8, I16)
    whole = ir.IntType(element.width * width) if narrow else ir.VectorType(element, width)
    return builder.bitcast(pointer, ir.PointerType(whole, GLOBAL))


def lane_of(builder: Builder, whole: Value, element: ir.Type, lane: int) -> Value:
    """One of several elements that were loaded together."""
    if isinstance(whole.type, ir.VectorType):
        return builder.extract_element(whole, I32(lane))
    return builder.trunc(builder.lshr(whole, ir.Constant(whole.type, element.width * lane)), element)


@cache
def loader(dtype: str, stored: str, width: int = 1) -> Intrinsic:
    """``load(address, index)``: a number in `dtype` from an array that holds `stored`, or a tuple."""
    if device.SIMULATED:
        return _simulated_loader(dtype, stored, width)
    number, element = getattr(types, dtype), _moved(stored)
    result = number if width == 1 else types.UniTuple(number, width)

    @emits(result(types.int64, types.int64), device.intrinsic)
    def load(builder: Builder, address: Value, index: Value) -> Value:
        pointer = pointer_to(builder, element, address, index, width)
        align = width * FORMATS[stored].itemsize
        if stored == "float16" and width == 4:
            each = _float16(builder, pointer, align)
        else:
            loaded = builder.load(pointer, align=align)
            if width == 1:
                return _decode(builder, stored, loaded, dtype)
            each = [lane_of(builder, loaded, element, lane) for lane in range(width)]
        return cgutils.pack_array(builder, [_decode(builder, stored, one, dtype) for one in each])

    return load


def _float16(builder: Builder, pointer: Value, align: int) -> list[Value]:
    """Load four float16 as two words, whose upper halves are then taken without shifting them."""
    pointer = builder.bitcast(pointer, ir.PointerType(ir.VectorType(I32, 2), GLOBAL))
    words = builder.load(pointer, align=align)
    pairs = [halves_of(builder, builder.extract_element(words, I32(k))) for k in range(2)]
    return [half for pair in pairs for half in pair]


def halves_of(builder: Builder, word: Value) -> list[Value]:
    """The lower and the upper half of a word."""
    kind = ir.FunctionType(ir.LiteralStructType((I16, I16)), [I32])
    pair = builder.asm(kind, "mov.b32 {$0, $1}, $2;", "=h,=h,r", [word], False)
    return [builder.extract_value(pair, k) for k in range(2)]


@cache
def storer(dtype: str, stored: str, width: int = 1, *, converts_bfloat16: bool = False) -> Intrinsic:
    """``store(address, index, value)``, with a tuple of values if several are stored at once.

    `converts_bfloat16` says whether the device has an instruction for that, see `BFLOAT16_SINCE`.
    """
    if device.SIMULATED:
        simulated = _simulated_storer(stored, width, None)
        return lambda address, index, value: simulated(address, index, value, 0, 0, 0.0)
    number = getattr(types, dtype)
    value_type = number if width == 1 else types.UniTuple(number, width)

    @emits(types.void(types.int64, types.int64, value_type), device.intrinsic)
    def store(builder: Builder, address: Value, index: Value, value: Value) -> None:
        converts = converts_bfloat16 and FORMATS[stored].nearest is nearest_bfloat16
        rounded = _bfloat16 if converts else partial(_encode, stored=stored)
        _emit_store(builder, (address, index, value), stored, width, rounded)

    return store


@cache
def dithering_storer(dtype: str, stored: str, width: int, slot: int) -> Intrinsic:
    """``store(address, index, value, first, table, phase)``, with stochastic rounding.

    `first` is the number of the array's first element among all, `table` the address of
    `rounding_table` and `phase` that of the step, as the buffer of hyperparameters has it.
    """
    if device.SIMULATED:
        return _simulated_storer(stored, width, slot)
    number = getattr(types, dtype)
    value_type = number if width == 1 else types.UniTuple(number, width)

    words = types.int64, types.int64, value_type, types.int64, types.int64, number

    @emits(types.void(*words), device.intrinsic)
    def store(builder: Builder, address: Value, index: Value, value: Value, *how: Value) -> None:
        noise = iter(noise_of(builder, index, how, slot, width, FORMATS[stored].cut))

        def rounded(builder: Builder, number: Value) -> Value:
            return _encode(builder, number, next(noise), stored=stored)

        _emit_store(builder, (address, index, value), stored, width, rounded)

    return store


def noise_of(
    builder: Builder, index: Value, how: Sequence[Value], slot: int, width: int, count: int
) -> list[Value]:
    """So many random bits for each of `width` elements; `how` is `first`, `table` and `phase`."""
    # A group never reaches into another block: both are powers of two.
    position = builder.and_(index, ir.Constant(I64, BLOCK - 1))
    block = builder.add(how[0], builder.sub(index, position))
    common = noise_of_block(builder, block, how[2], slot, count)
    return noise_at(builder, common, how[1], position, width, count)


def noise_of_block(builder: Builder, block: Value, phase: Value, slot: int, count: int) -> Value:
    """The part of `count` random bits that a block has in common, by the index of its first element."""
    step = builder.shl(builder.fptoui(phase, I32), int32(32 - rounding.PHASE_BITS))
    common = builder.add(hashed(builder, block), step)
    common = builder.add(common, int32(slot * rounding.PER_SLOT % 2**32))
    return builder.lshr(common, int32(32 - count))


def noise_at(
    builder: Builder, common: Value, table: Value, position: Value, width: int, count: int
) -> list[Value]:
    """The random bits of elements from a position in a block on, by `noise_of_block`."""
    row = builder.add(position, ir.Constant(I64, count * BLOCK))
    bits = builder.load(pointer_to(builder, I32, table, row, width), align=4 * width)
    each = [bits] if width == 1 else [builder.extract_element(bits, I32(k)) for k in range(width)]
    return [builder.xor(common, of_lane) for of_lane in each]


@cache
def rounding_table(ordinal: int) -> DeviceArray:
    """The upper bits of `codecs.rounding.table` in the memory of the current device.

    It has a row for each number of bits from 0 to 31, which saves shifting those of each element.
    """
    bits = rounding.table().astype(np.uint64)
    rows = np.stack([bits >> np.uint64(32 - count) for count in range(32)]).astype(np.uint32)
    table = rows.reshape(-1).view(np.int64)
    target = device.allocate(table.shape, table.dtype)
    device.to_device(target.address, table)
    return target


def _decode(builder: Builder, stored: str, raw: Value, dtype: str) -> Value:
    return decode(builder, stored, builder.bitcast(raw, stored_type(stored)), stored_type(dtype))


def _encode(builder: Builder, number: Value, noise: Value | None = None, *, stored: str) -> Value:
    return builder.bitcast(encode(builder, stored, number, noise), _moved(stored))


def _bfloat16(builder: Builder, number: Value) -> Value:
    """The bits of the nearest bfloat16; ptxas makes one instruction of two conversions."""
    kind = ir.FunctionType(I16, [number.type])
    return builder.asm(kind, "cvt.rn.bf16.f32 $0, $1;", "=h,f", [number], False)


def _emit_store(
    builder: Builder,
    args: tuple[Value, Value, Value],
    stored: str,
    width: int,
    rounded: Callable[[Builder, Value], Value],
) -> None:
    (address, index, value), element = args, _moved(stored)
    pointer = pointer_to(builder, element, address, index, width)
    if width == 1:
        whole = rounded(builder, value)
    else:
        whole = ir.Constant(ir.VectorType(element, width), ir.Undefined)
        for lane in range(width):
            number = builder.extract_value(value, lane)
            whole = builder.insert_element(whole, rounded(builder, number), I32(lane))
        pointer = builder.bitcast(pointer, ir.PointerType(whole.type, GLOBAL))
    builder.store(whole, pointer, align=width * FORMATS[stored].itemsize)


@cache
def word_loader() -> Intrinsic:
    """``load(address, index)`` of a 64-bit integer."""
    if device.SIMULATED:
        return lambda address, index: ctypes.c_int64.from_address(address + 8 * index).value

    @emits(types.int64(types.int64, types.int64), device.intrinsic)
    def load(builder: Builder, address: Value, index: Value) -> Value:
        return builder.load(pointer_to(builder, I64, address, index), align=8)

    return load


@cache
def word_storer() -> Intrinsic:
    """``store(address, index, value)`` of a 64-bit integer."""
    if device.SIMULATED:

        def simulated(address: int, index: int, value: int) -> None:
            ctypes.c_int64.from_address(address + 8 * index).value = value

        return simulated

    @emits(types.void(types.int64, types.int64, types.int64), device.intrinsic)
    def store(builder: Builder, address: Value, index: Value, value: Value) -> None:
        builder.store(value, pointer_to(builder, I64, address, index), align=8)

    return store


def memory_at(dtype: DType, address: int, index: int, width: int) -> Array:
    """A NumPy array over the memory at an address, on Numba's simulator."""
    size = dtype.itemsize
    assert (address + index * size) % (width * size) == 0, "a misaligned access is a fault on a device"
    raw = (ctypes.c_char * (width * size)).from_address(address + index * size)
    memory: Array = np.ctypeslib.as_array(raw).view(dtype)
    return memory


def _simulated_loader(dtype: str, stored: str, width: int) -> Intrinsic:
    codec = floats(stored)

    def load(address: int, index: int) -> Numbers:
        elements = memory_at(codec.dtype, address, index, width)
        decoded = codec.decode(elements, np.dtype(dtype))
        return decoded[0] if width == 1 else tuple(decoded)

    return load


def _simulated_storer(stored: str, width: int, slot: int | None) -> Intrinsic:
    codec = floats(stored)

    def store(address: int, index: int, value: Numbers, first: int, table: int, phase: float) -> None:
        noise = None
        if slot is not None:
            noise = rounding.noise(first, index + width, phase, slot)[index:]
        numbers = np.array([value] if width == 1 else value)
        memory_at(codec.dtype, address, index, width)[:] = codec.encode(numbers, noise)

    return store
