"""Sums in machine code, in the order of `executors.norm`: a block as a binary tree, neighbours first.

Functions that take a `builder` emit LLVM instructions.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastopt.executors.cpu.element_access import prefer_512_bits
from fastopt.executors.cpu.pointers import LINE, element_pointer, mark_noalias
from fastopt.executors.norm import LANES, SUM_BLOCK
from fastopt.kernels.compiler import helper
from fastopt.kernels.llvm_operations import DOUBLE, I64

ROWS = 8  # are added before a result is stored: the latency of an addition is hidden
GROUP = ROWS * LANES
VECTOR = ir.VectorType(DOUBLE, LANES)
LEVELS = (SUM_BLOCK // GROUP).bit_length()


def at(builder: Any, pointer: Any, *index: Any) -> Any:
    return builder.gep(pointer, [ir.Constant(I64, i) if isinstance(i, int) else i for i in index])


def row(builder: Any, pointer: Any, kind: Any, k: int, itemsize: int) -> Any:
    """Load the k-th row of numbers as a vector."""
    vector = builder.bitcast(at(builder, pointer, k * LANES), ir.VectorType(kind, LANES).as_pointer())
    return builder.load(vector, align=itemsize)


def tree(builder: Any, items: list[Any]) -> Any:
    """The sum of a power of two of values, neighbours first."""
    while len(items) > 1:
        items = [builder.fadd(*items[i : i + 2]) for i in range(0, len(items), 2)]
    return items[0]


def allocate_waiting(builder: Any) -> Any:
    """Memory for sums of 1, 2, 4, ... groups that wait for their neighbours.

    They are few, so that they stay in the first cache beside the numbers. With a sum for each group
    2e7 float32 took 1.4 times as long.
    """
    return cgutils.alloca_once(builder, VECTOR, LEVELS)


def add_group(builder: Any, waiting: Any, rows: list[Any], number: Any) -> None:
    """Add the sums that have waited for the group of this number and for those that it completes."""
    sum_ = cgutils.alloca_once(builder, VECTOR)
    builder.store(tree(builder, rows), sum_)
    levels = _trailing_zeros(builder, builder.add(number, ir.Constant(I64, 1)))
    with cgutils.for_range(builder, levels) as loop:
        _add_waiting(builder, waiting, sum_, loop.index)
    builder.store(builder.load(sum_), at(builder, waiting, levels))


def total(builder: Any, waiting: Any, groups: Any) -> Any:
    """The sum of that many groups: what still waits is one sum for each bit of their number."""
    lowest = _trailing_zeros(builder, groups)
    sum_ = cgutils.alloca_once(builder, VECTOR)
    builder.store(builder.load(at(builder, waiting, lowest)), sum_)
    one = ir.Constant(I64, 1)
    following = builder.add(lowest, one)
    with cgutils.for_range_slice(builder, following, ir.Constant(I64, LEVELS), one) as (level, _):
        waits = builder.trunc(builder.lshr(groups, level), ir.IntType(1))
        with builder.if_then(waits):
            _add_waiting(builder, waiting, sum_, level)
    lanes = builder.load(sum_)
    numbers = [builder.extract_element(lanes, ir.Constant(ir.IntType(32), k)) for k in range(LANES)]
    return tree(builder, numbers)


def _add_waiting(builder: Any, waiting: Any, sum_: Any, level: Any) -> None:
    added = builder.fadd(builder.load(at(builder, waiting, level)), builder.load(sum_))
    builder.store(added, sum_)


def _trailing_zeros(builder: Any, number: Any) -> Any:
    return builder.cttz(number, ir.Constant(ir.IntType(1), 1))


@intrinsic
def waiting_sums(typing_context: Any) -> Any:
    """The address of memory for the sums of a block, on the kernel's stack."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ptrtoint(allocate_waiting(builder), I64)

    return types.intp(), emit


@intrinsic
def group_terms(typing_context: Any) -> Any:
    """The address of memory for the terms of a group, on the kernel's stack."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        prefer_512_bits(builder)
        room = cgutils.alloca_once(builder, DOUBLE, size=GROUP)
        room.align = LINE
        return builder.ptrtoint(room, I64)

    return types.intp(), emit


@intrinsic
def clear_terms(typing_context: Any, terms: Any) -> Any:
    """Set the terms of a group to zero."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], DOUBLE.as_pointer())
        cgutils.memset(builder, pointer, ir.Constant(I64, GROUP * 8), 0)
        return context.get_dummy_value()

    return types.void(types.intp), emit


@intrinsic
def add_terms(typing_context: Any, waiting: Any, terms: Any, number: Any) -> Any:
    """``add_terms(waiting, terms, number)``: add the terms of the group of this number."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        waiting, terms, number = args
        first = builder.inttoptr(terms, DOUBLE.as_pointer())
        rows = [row(builder, first, DOUBLE, k, 8) for k in range(ROWS)]
        add_group(builder, builder.inttoptr(waiting, VECTOR.as_pointer()), rows, number)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.int64), emit


@intrinsic
def store_total(typing_context: Any, waiting: Any, groups: Any, address: Any, index: Any) -> Any:
    """``store_total(waiting, groups, address, index)``: store the sum of a block."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        waiting, groups, address, index = args
        sum_ = total(builder, builder.inttoptr(waiting, VECTOR.as_pointer()), groups)
        builder.store(sum_, element_pointer(builder, DOUBLE, address, index))
        return context.get_dummy_value()

    return types.void(types.intp, types.int64, types.intp, types.int64), emit


def term_storer(slot: int, slots: int) -> Any:
    """``store(terms, position, value)``, for the memory that is one of `slots` arrays of a kernel."""

    @intrinsic
    def store(typing_context: Any, terms: Any, position: Any, value: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = element_pointer(builder, DOUBLE, args[0], args[1])
            mark_noalias(builder.module, builder.store(args[2], pointer), slot, slots)
            return context.get_dummy_value()

        return types.void(types.intp, types.int64, types.float64), emit

    return store


@helper
def add_up(sums, first, count):
    """The sum of `count` numbers from the first on, neighbours first, in the place of the first."""
    while count > 1:
        half = count // 2
        for i in range(half):
            sums[first + i] = sums[first + 2 * i] + sums[first + 2 * i + 1]
        # Without a neighbour if `count` is odd; else nobody reads it.
        sums[first + half] = sums[first + count - 1]
        count -= half
