"""What the threads of a warp do together, and indices of the blocks that they have."""

from __future__ import annotations

from functools import cache

from llvmlite import ir
from numba import types
from numba.core import cgutils

from fastopt.codecs.base import BLOCK
from fastopt.executors.cuda import device
from fastopt.executors.cuda.block_layout import wide_product
from fastopt.kernels.intrinsics import Builder, Intrinsic, Scope, Value, emits
from fastopt.kernels.llvm_operations import I32, int32, larger_word

ALL_THREADS, BUTTERFLY, LAST_LANE = 0xFFFFFFFF, 3, device.WARP - 1


def shuffle(builder: Builder, word: Value, distance: Value) -> Value:
    """Emit the exchange of 32 bits with the thread of a warp whose index differs in these bits."""
    kind = ir.FunctionType(ir.LiteralStructType((I32, ir.IntType(1))), [I32] * 5)
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.nvvm.shfl.sync.i32")
    operands = int32(ALL_THREADS), int32(BUTTERFLY), word, distance, int32(LAST_LANE)
    return builder.extract_value(builder.call(function, operands), 0)


@cache
def _largest_of_warp() -> Intrinsic:
    """``largest(number)``: the largest that the threads of a warp have; all of them must ask."""

    @emits(types.int32(types.int32), device.intrinsic)
    def largest(builder: Builder, largest_so_far: Value) -> Value:
        distance = device.WARP // 2
        while distance:
            other = shuffle(builder, largest_so_far, int32(distance))
            largest_so_far = larger_word(builder, largest_so_far, other)
            distance //= 2
        return largest_so_far

    return largest


@cache
def _lower_word() -> Intrinsic:
    """``lower_word(number)``: an index of which 32 bits are enough, which saves instructions."""

    @emits(types.uint32(types.int64), device.intrinsic)
    def lower_word(builder: Builder, number: Value) -> Value:
        return builder.trunc(number, I32)

    return lower_word


@cache
def _first_of_block() -> Intrinsic:
    """``first_of_block(block)``: the index of the first element of a block."""

    @emits(types.int64(types.uint32), device.intrinsic)
    def first_of_block(builder: Builder, block: Value) -> Value:
        return wide_product(builder, block, BLOCK)

    return first_of_block


def define_warp_functions(scope: Scope) -> None:
    """Put the functions over a warp into the scope of kernels."""
    if device.SIMULATED:
        scope |= {"uint32": types.uint32, "WARP": device.WARP}
        scope |= {"lower_word": int, "first_of_block": lambda block: block * BLOCK}
        exec(_SIMULATED_WARP, scope)
    else:
        scope |= {"largest_of_warp": _largest_of_warp(), "lower_word": _lower_word()}
        scope["first_of_block"] = _first_of_block()


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
