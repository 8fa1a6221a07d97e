"""Where codes and scales are in memory on a device, and branches by the kind of a block."""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir
from numba import types

from fastopt.codecs.base import BLOCK
from fastopt.codecs.blocks import CODES_AT, ITEM, is_plain
from fastopt.executors.cuda.element_access import pointer_to
from fastopt.kernels.intrinsics import Value
from fastopt.kernels.llvm_operations import I32, I64, emitted

ALIGNED = 4  # bytes: of a block's scale, and of four codes that move together
WORD = 4  # codes of a word
HALF_BLOCK = BLOCK // 2
EIGHT_CODES, EIGHT_NUMBERS = types.UniTuple(types.int32, 2), types.UniTuple(types.float32, 2 * WORD)


def in_block(builder: ir.IRBuilder, address: ir.Value, index: ir.Value, offset: ir.Value) -> ir.Value:
    """The address `offset` bytes into the block that has an element."""
    item = builder.lshr(index, ir.Constant(I64, BLOCK.bit_length() - 1))
    # No device has memory for 2**32 blocks.
    distance = wide_product(builder, builder.trunc(item, I32), ITEM.itemsize)
    return builder.add(builder.add(address, distance), offset)


def wide_product(builder: ir.IRBuilder, number: ir.Value, factor: int) -> ir.Value:
    """The product of 64 bits of an integer without a sign, by the one instruction that it is."""
    kind = ir.FunctionType(I64, [I32])
    return builder.asm(kind, f"mul.wide.u32 $0, $1, {factor};", "=l,r", [number], False)


def code_address(
    builder: ir.IRBuilder, address: ir.Value, index: ir.Value, position: ir.Value | None = None
) -> ir.Value:
    if position is None:
        position = builder.and_(index, ir.Constant(I64, BLOCK - 1))
    return builder.add(in_block(builder, address, index, position), ir.Constant(I64, CODES_AT))


def pointer_at(builder: ir.IRBuilder, kind: ir.Type, address: ir.Value) -> ir.Value:
    return pointer_to(builder, kind, address, ir.Constant(I64, 0))


def either(builder: ir.IRBuilder, plain: Value, emit: Callable[[bool], list[Value]]) -> list[Value]:
    """What `emit(plain)` gives, for the block's kind: a branch that all threads of a warp take."""
    ends = []
    with builder.if_else(plain, likely=True) as branches:
        for branch, is_plain in zip(branches, (True, False), strict=True):
            with branch:
                ends.append((emit(is_plain), builder.block))
    joined = []
    for values in zip(*(values for values, _ in ends), strict=True):
        joined.append(builder.phi(values[0].type))
        for value, (_, block) in zip(values, ends, strict=True):
            joined[-1].add_incoming(value, block)
    return joined


def marked_plain(builder: ir.IRBuilder, scale: ir.Value) -> ir.Value:
    """Whether a scale has the mark of plain blocks."""
    return emitted(builder, lambda o, scale: is_plain(scale), scale)
