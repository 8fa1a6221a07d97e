"""Sums in machine code, in the order of `executors.norm`: a block as a binary tree, neighbours first.

Functions that take a `builder` emit LLVM instructions.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils

from fastopt.codecs.base import BLOCK
from fastopt.executors.cpu.element_access import prefer_512_bits
from fastopt.executors.cpu.pointers import LINE, element_pointer, mark_noalias
from fastopt.executors.norm import LANES, SUM_BLOCK
from fastopt.kernels.compiler import helper
from fastopt.kernels.intrinsics import Builder, Intrinsic, Value, emits
from fastopt.kernels.llvm_operations import DOUBLE, I64

ROWS = 8  # are added before a result is stored: the latency of an addition is hidden
GROUP = ROWS * LANES
VECTOR = ir.VectorType(DOUBLE, LANES)
LEVELS = (SUM_BLOCK // GROUP).bit_length()
GROUPS, BLOCKS = BLOCK // GROUP, SUM_BLOCK // BLOCK


def at(builder: Builder, pointer: Value, *index: int | Value) -> Value:
    return builder.gep(pointer, [ir.Constant(I64, i) if isinstance(i, int) else i for i in index])


def tree(builder: Builder, items: list[Value]) -> Value:
    """The sum of a power of two of values, neighbours first."""
    while len(items) > 1:
        items = [builder.fadd(*items[i : i + 2]) for i in range(0, len(items), 2)]
    return items[0]


def allocate_waiting(builder: Builder) -> Value:
    """Memory for sums of 1, 2, 4, ... groups that wait for their neighbours.

    They are few, so that they stay in the first cache beside the numbers. With a sum for each group
    2e7 float32 took 1.4 times as long.
    """
    return cgutils.alloca_once(builder, VECTOR, LEVELS)


def _add_completed(builder: Builder, waiting: Value, sum_: Value, number: Value, level: int) -> None:
    """Add the sums that have waited for that of this number at a level, and let the result wait."""
    count = _trailing_zeros(builder, builder.add(number, ir.Constant(I64, 1)))
    waiting = at(builder, waiting, level)
    with cgutils.for_range(builder, count) as loop:
        _add_waiting(builder, waiting, sum_, loop.index)
    builder.store(builder.load(sum_), at(builder, waiting, count))


def total(builder: Builder, waiting: Value, groups: Value) -> Value:
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
    return _lanes(builder, builder.load(sum_))


def _lanes(builder: Builder, vector: Value) -> Value:
    """The sum of the lanes of a vector."""
    numbers = [builder.extract_element(vector, ir.Constant(ir.IntType(32), k)) for k in range(LANES)]
    return tree(builder, numbers)


def _add_waiting(builder: Builder, waiting: Value, sum_: Value, level: Value) -> None:
    added = builder.fadd(builder.load(at(builder, waiting, level)), builder.load(sum_))
    builder.store(added, sum_)


def _trailing_zeros(builder: Builder, number: Value) -> Value:
    return builder.cttz(number, ir.Constant(ir.IntType(1), 1))


def _allocate(count: int) -> Intrinsic:
    """The address of memory for so many sums, on the kernel's stack."""

    @emits(types.intp())
    def allocate(builder: Builder) -> Value:
        return builder.ptrtoint(cgutils.alloca_once(builder, VECTOR, count), I64)

    return allocate


def _pointer(builder: Builder, address: Value) -> Value:
    return builder.inttoptr(address, VECTOR.as_pointer())


waiting_sums = _allocate(LEVELS)


@emits(types.intp())
def group_terms(builder: Builder) -> Value:
    """The address of memory for the terms of a group, on the kernel's stack."""
    prefer_512_bits(builder)
    room = cgutils.alloca_once(builder, DOUBLE, size=GROUP)
    room.align = LINE
    return builder.ptrtoint(room, I64)


@emits(types.void(types.intp))
def clear_terms(builder: Builder, terms: Value) -> None:
    """Set the terms of a group to zero."""
    pointer = builder.inttoptr(terms, DOUBLE.as_pointer())
    cgutils.memset(builder, pointer, ir.Constant(I64, GROUP * 8), 0)


def _rows_of(builder: Builder, terms: Value) -> list[Value]:
    """The terms of a group as vectors."""
    first = _pointer(builder, terms)
    return [builder.load(at(builder, first, k), align=8) for k in range(ROWS)]


@emits(types.void(types.intp, types.intp, types.int64))
def add_terms(builder: Builder, waiting: Value, terms: Value, number: Value) -> None:
    """``add_terms(waiting, terms, number)``: add the terms of the group of this number.

    The sums that have waited for it, or for what it completes, are added too.
    """
    sum_ = cgutils.alloca_once(builder, VECTOR)
    builder.store(tree(builder, _rows_of(builder, terms)), sum_)
    _add_completed(builder, _pointer(builder, waiting), sum_, number, 0)


# In the pass of a step sums wait in another way: one for each group of a block of elements, and one for
# each block. Adding each group when it is complete takes branches that are predicted badly: with three
# norms RMSProp took 1.09 of the time without, for 6 * 10^7 elements on two cores of a Xeon, and 1.065
# so (1.034 with the longer distance of prefetches).


group_sums, block_sums = _allocate(GROUPS), _allocate(BLOCKS)


def _added(builder: Builder, first: Value, count: int) -> Value:
    """The sum of so many sums in a row."""
    return tree(builder, [builder.load(at(builder, first, k)) for k in range(count)])


@emits(types.void(types.intp, types.intp, types.int64))
def store_group(builder: Builder, groups: Value, terms: Value, number: Value) -> None:
    """``store_group(groups, terms, number)``: store the sum of a group, by its number in the block."""
    sum_ = tree(builder, _rows_of(builder, terms))
    builder.store(sum_, at(builder, _pointer(builder, groups), number))


@emits(types.void(types.intp, types.intp, types.int64))
def store_block(builder: Builder, blocks: Value, groups: Value, number: Value) -> None:
    """``store_block(blocks, groups, number)``: store the sum of the groups of a block."""
    sum_ = _added(builder, _pointer(builder, groups), GROUPS)
    builder.store(sum_, at(builder, _pointer(builder, blocks), number))


@emits(types.void(types.intp, types.intp, types.int64, types.intp, types.int64))
def store_sum(
    builder: Builder, blocks: Value, groups: Value, count: Value, address: Value, index: Value
) -> None:
    """``store_sum(blocks, groups, count, address, index)``: store the sum of `count` groups.

    Those of whole blocks are in `blocks`, up to three more in `groups`.
    """
    blocks, groups = _pointer(builder, blocks), _pointer(builder, groups)
    pointer = element_pointer(builder, DOUBLE, address, index)
    whole = builder.icmp_signed("==", count, ir.Constant(I64, BLOCKS * GROUPS))
    with builder.if_else(whole) as (all_blocks, some_groups):
        with all_blocks:
            builder.store(_lanes(builder, _added(builder, blocks, BLOCKS)), pointer)
        with some_groups:
            waiting = allocate_waiting(builder)
            level = GROUPS.bit_length() - 1
            complete = builder.lshr(count, ir.Constant(I64, level))
            with cgutils.for_range(builder, complete) as loop:
                _add_completed(builder, waiting, at(builder, blocks, loop.index), loop.index, level)
            first = builder.shl(complete, ir.Constant(I64, level))
            with cgutils.for_range(builder, builder.sub(count, first)) as loop:
                number = builder.add(first, loop.index)
                _add_completed(builder, waiting, at(builder, groups, loop.index), number, 0)
            builder.store(total(builder, waiting, count), pointer)


@emits(types.void(types.intp, types.int64, types.intp, types.int64))
def store_total(builder: Builder, waiting: Value, groups: Value, address: Value, index: Value) -> None:
    """``store_total(waiting, groups, address, index)``: store the sum of a block."""
    sum_ = total(builder, _pointer(builder, waiting), groups)
    builder.store(sum_, element_pointer(builder, DOUBLE, address, index))


def term_storer(slot: int, slots: int) -> Intrinsic:
    """``store(terms, position, value)``, for the memory that is one of `slots` arrays of a kernel."""

    @emits(types.void(types.intp, types.int64, types.float64))
    def store(builder: Builder, terms: Value, position: Value, value: Value) -> None:
        pointer = element_pointer(builder, DOUBLE, terms, position)
        mark_noalias(builder.module, builder.store(value, pointer), slot, slots)

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
