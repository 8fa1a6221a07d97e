"""Loads and stores by address, for kernels.

Indexing an array costs a test for negative indices and makes LLVM check at run time whether arrays
overlap; it gives up on vector code when there are more than four or five of them. These helpers take
an address and an index, and tell LLVM that two slots of a kernel never overlap, which the wrapper
has checked. A chain of any length so compiles to one vector loop without checks.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.core import cgutils

from fastopt.codecs.base import Array
from fastopt.kernels.compiler import helper
from fastopt.kernels.conversions import WIDTHS
from fastopt.kernels.intrinsics import Builder, Intrinsic, Value, emits
from fastopt.kernels.llvm_operations import I32, I64

LINE = 64  # bytes in a cache line


def element_pointer(
    builder: Builder, kind: ir.Type, address: Value, index: Value, lanes: int = 1
) -> Value:
    """A pointer to an element of an array of an LLVM type, by address and index; or to several."""
    pointer = builder.gep(builder.inttoptr(address, kind.as_pointer()), [index], inbounds=True)
    return pointer if lanes == 1 else builder.bitcast(pointer, ir.VectorType(kind, lanes).as_pointer())


def in_lanes(builder: Builder, value: Value, lanes: int) -> Value:
    """A vector with a value in every lane; with one lane the value."""
    if lanes == 1:
        return value
    undefined = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(I32, 0))
    zeros = ir.Constant(ir.VectorType(I32, lanes), [0] * lanes)
    return builder.shuffle_vector(first, undefined, zeros)


def mark_noalias(module: ir.Module, instruction: Value, slot: int, slots: int) -> None:
    """Tell LLVM that a load or store of one of `slots` arrays never touches the others."""
    domain = module.add_metadata([ir.MetaDataString(module, "fastopt")])
    scopes = [
        module.add_metadata([ir.MetaDataString(module, f"slot {i}"), domain]) for i in range(slots)
    ]
    others = [scope for i, scope in enumerate(scopes) if i != slot]
    instruction.set_metadata("alias.scope", module.add_metadata([scopes[slot]]))
    instruction.set_metadata("noalias", module.add_metadata(others))


@emits(types.int64(types.int64, types.int64))
def smaller(builder: Builder, one: Value, other: Value) -> Value:
    """The smaller of two indices: `min`, which takes Numba 25 ms to compile."""
    return builder.select(builder.icmp_signed("<", one, other), one, other)


def prefetch_line(builder: Builder, location: Value, written: bool, nearness: int = 3) -> None:
    """Emit the instruction that fetches a cache line ahead of its use.

    Into all caches with a `nearness` of 3, into all but the first with 2.
    """
    pointer, i32 = ir.IntType(8).as_pointer(), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [pointer, i32, i32, i32])
    hint = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    # To write or to read, to be kept in which caches, data rather than code.
    how = [ir.Constant(i32, number) for number in (int(written), nearness, 1)]
    builder.call(hint, [builder.bitcast(location, pointer), *how])


@cache
def prefetch(block_bytes: int, block: int, count: int, written: bool) -> Intrinsic:
    """``fetch(address, index)``: prefetch `count` elements from `index` on, in blocks of `block_bytes`.

    It is only a hint: an address after the end of the array does no harm.
    """

    @emits(types.void(types.intp, types.int64))
    def fetch(builder: Builder, address: Value, index: Value) -> None:
        scaled = builder.mul(index, ir.Constant(I64, block_bytes))
        # No index is negative, and a block has a power of two elements.
        shift = ir.Constant(I64, block.bit_length() - 1)
        first = builder.add(address, builder.lshr(scaled, shift))
        # A line that is only partly covered is fetched with the elements that begin in it.
        for line in range(0, count * block_bytes // block // LINE * LINE, LINE):
            line_at = builder.add(first, ir.Constant(I64, line))
            prefetch_line(builder, builder.inttoptr(line_at, ir.IntType(8).as_pointer()), written)

    return fetch


def _stored_as(dtype: types.Number) -> ir.Type:
    return I64 if isinstance(dtype, types.Integer) else WIDTHS[dtype.bitwidth // 8]


def word_reader(dtype: types.Number) -> Intrinsic:
    """``read(address)``: load a number of this type."""

    @emits(dtype(types.intp))
    def read(builder: Builder, address: Value) -> Value:
        return builder.load(builder.inttoptr(address, _stored_as(dtype).as_pointer()))

    return read


read_word = word_reader(types.intp)


def number_writer(dtype: types.Number) -> Intrinsic:
    """``write(address, value)``: store a number of this type."""

    @emits(types.void(types.intp, dtype))
    def write(builder: Builder, address: Value, value: Value) -> None:
        builder.store(value, builder.inttoptr(address, value.type.as_pointer()))

    return write


write_word = number_writer(types.int64)


@emits(types.voidptr(types.int64))
def _as_pointer(builder: Builder, address: Value) -> Value:
    return builder.inttoptr(address, cgutils.voidptr_t)


@helper
def words_at(address: int, rows: int, columns: int) -> Array:
    """A table of integers of 64 bits at an address."""
    table: Array = carray(_as_pointer(address), (rows, columns), np.int64)
    return table


@helper
def borrowed(table: Array) -> Array:
    """The same integers of 64 bits, whose references are not counted.

    Counting takes 5 ns for every row that is passed on. The caller keeps the table.
    """
    same: Array = carray(_as_pointer(table.ctypes.data), table.shape, np.int64)
    return same


def emit_call(builder: Builder, address: Value, words: Sequence[Value]) -> None:
    """Emit a call of machine code at an address with these words."""
    function_type = ir.FunctionType(ir.VoidType(), [I64] * len(words))
    builder.call(builder.inttoptr(address, function_type.as_pointer()), words)


@emits(types.void(*(types.intp,) * 3, *(types.int64,) * 2))
def call_kernel(builder: Builder, kernel: Value, *words: Value) -> None:
    """``call_kernel(kernel, addresses, hyper, start, stop)``: call the kernel at an address.

    It steps the elements from `start` up to `stop`.
    """
    emit_call(builder, kernel, words)


@emits(types.void(*(types.intp,) * 3, *(types.int64,) * 4))
def call_sum_kernel(builder: Builder, kernel: Value, *words: Value) -> None:
    """``call_sum_kernel(kernel, addresses, hyper, start, stop, sums, stride)``: the same for sums.

    The kernel writes those of each block.
    """
    emit_call(builder, kernel, words)
