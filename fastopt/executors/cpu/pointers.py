"""Loads and stores by address, for kernels.

Indexing an array costs a test for negative indices and makes LLVM check at run time whether arrays
overlap; it gives up on vector code when there are more than four or five of them. These helpers take
an address and an index, and tell LLVM that two slots of a kernel never overlap, which the wrapper
has checked. A chain of any length so compiles to one vector loop without checks.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.core import cgutils
from numba.extending import intrinsic

from fastopt.kernels.compiler import helper
from fastopt.kernels.llvm_operations import I64

LINE = 64  # bytes in a cache line


def element_pointer(builder: Any, kind: Any, address: Any, index: Any) -> Any:
    """A pointer to an element of an array of an LLVM type, by address and index."""
    pointer = builder.inttoptr(address, kind.as_pointer())
    return builder.gep(pointer, [index], inbounds=True)


def mark_noalias(module: Any, instruction: Any, slot: int, slots: int) -> None:
    """Tell LLVM that a load or store of one of `slots` arrays never touches the others."""
    domain = module.add_metadata([ir.MetaDataString(module, "fastopt")])
    scopes = [
        module.add_metadata([ir.MetaDataString(module, f"slot {i}"), domain]) for i in range(slots)
    ]
    others = [scope for i, scope in enumerate(scopes) if i != slot]
    instruction.set_metadata("alias.scope", module.add_metadata([scopes[slot]]))
    instruction.set_metadata("noalias", module.add_metadata(others))


@intrinsic  # type: ignore[untyped-decorator]
def smaller(typing_context: Any, one: Any, other: Any) -> Any:
    """The smaller of two indices: `min`, which takes Numba 25 ms to compile."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(builder.icmp_signed("<", *args), *args)

    return types.int64(types.int64, types.int64), emit


def prefetch_line(builder: Any, location: Any, written: bool, nearness: int = 3) -> None:
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
def prefetch(block_bytes: int, block: int, count: int, written: bool) -> Any:
    """``fetch(address, index)``: prefetch `count` elements from `index` on, in blocks of `block_bytes`.

    It is only a hint: an address after the end of the array does no harm.
    """

    @intrinsic  # type: ignore[untyped-decorator]
    def fetch(typing_context: Any, address: Any, index: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            scaled = builder.mul(args[1], ir.Constant(I64, block_bytes))
            # No index is negative, and a block has a power of two elements.
            shift = ir.Constant(I64, block.bit_length() - 1)
            first = builder.add(args[0], builder.lshr(scaled, shift))
            # A line that is only partly covered is fetched with the elements that begin in it.
            for line in range(0, count * block_bytes // block // LINE * LINE, LINE):
                line_at = builder.add(first, ir.Constant(I64, line))
                prefetch_line(builder, builder.inttoptr(line_at, ir.IntType(8).as_pointer()), written)
            return context.get_dummy_value()

        return types.void(types.intp, types.int64), emit

    return fetch


def word_reader(dtype: Any) -> Any:
    """``read(address)``: load a number of this type."""

    @intrinsic  # type: ignore[untyped-decorator]
    def read(typing_context: Any, address: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            word = context.get_data_type(dtype)
            return builder.load(builder.inttoptr(args[0], word.as_pointer()))

        return dtype(types.intp), emit

    return read


read_word = word_reader(types.intp)


def number_writer(dtype: Any) -> Any:
    """``write(address, value)``: store a number of this type."""

    @intrinsic  # type: ignore[untyped-decorator]
    def write(typing_context: Any, address: Any, value: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = context.get_data_type(dtype).as_pointer()
            builder.store(args[1], builder.inttoptr(args[0], pointer))
            return context.get_dummy_value()

        return types.void(types.intp, dtype), emit

    return write


write_word = number_writer(types.int64)


@intrinsic  # type: ignore[untyped-decorator]
def _as_pointer(typing_context: Any, address: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), emit


@helper
def words_at(address: Any, rows: Any, columns: Any) -> Any:
    """A table of integers of 64 bits at an address."""
    return carray(_as_pointer(address), (rows, columns), np.int64)


def emit_call(builder: Any, address: Any, words: Any) -> None:
    """Emit a call of machine code at an address with these words."""
    function_type = ir.FunctionType(ir.VoidType(), [I64] * len(words))
    builder.call(builder.inttoptr(address, function_type.as_pointer()), words)


def _call(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    emit_call(builder, args[0], args[1:])
    return context.get_dummy_value()


@intrinsic  # type: ignore[untyped-decorator]
def call_kernel(
    typing_context: Any, kernel: Any, addresses: Any, hyper: Any, start: Any, stop: Any
) -> Any:
    """Call the compiled kernel at an address, on the elements from `start` up to `stop`."""
    return types.void(*(types.intp,) * 3, *(types.int64,) * 2), _call


@intrinsic  # type: ignore[untyped-decorator]
def call_sum_kernel(
    typing_context: Any,
    kernel: Any,
    addresses: Any,
    hyper: Any,
    start: Any,
    stop: Any,
    sums: Any,
    stride: Any,
) -> Any:
    """Call the compiled kernel for sums at an address, which writes those of each block."""
    return types.void(*(types.intp,) * 3, *(types.int64,) * 4), _call
