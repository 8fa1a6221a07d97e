"""Numbers of every format in machine code: how a kernel loads and stores one element.

Functions that take a `builder` emit LLVM instructions.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastopt.codecs import rounding
from fastopt.codecs.formats import FORMATS
from fastopt.executors.cpu.pointers import LINE, element_pointer, mark_noalias
from fastopt.kernels.conversions import STORED, decode, encode, hashed
from fastopt.kernels.llvm_operations import I32, I64, int32


def noise_of(
    builder: Any, place: Any, random: Any, slot: int, slots: int, width: int, plus: Any = None
) -> Any:
    """Random bits for the element at a place in its block; `random` is what `random_of` gives.

    They are the `width` upper ones of 32, and added to `plus`, whose lower bits are zero. Both are done
    to the table and to what a block has in common, so that an element takes one instruction.
    """
    bits = [int32(int(number) >> (32 - width)) for number in rounding.table()]
    kind = ir.ArrayType(I32, len(bits))
    table = cgutils.global_constant(builder, "fastopt.noise", ir.Constant(kind, bits))
    table.align = LINE
    own = builder.load(builder.gep(table, [ir.Constant(I64, 0), place], inbounds=True))
    mark_noalias(builder.module, own, slots - 1, slots)
    common = builder.add(random, int32(slot * rounding.PER_SLOT % 2**32))
    common = builder.lshr(common, int32(32 - width))
    return builder.xor(own, common if plus is None else builder.or_(common, plus))


def prefer_512_bits(builder: Any) -> None:
    """Let a kernel use the widest vectors, which pay where numbers are encoded by many instructions.

    LLVM prefers 256 bits. In the cache of one core RMSProp took, in ns an element, 0.73 with them and
    0.53 with 512 where the state has 8 bits, and 0.61 and 0.57 for bfloat16 rounded at random; without
    a difference for the other formats.
    """
    # llvmlite's attributes are a set that only takes names that it knows.
    set.add(builder.function.attributes, '"prefer-vector-width"="512"')


@intrinsic  # type: ignore[untyped-decorator]
def random_of(typing_context: Any, element: Any, phase: Any) -> Any:
    """The random bits that all elements of a block have in common, from the number of the first one."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.add(hashed(builder, args[0]), args[1])

    return types.int32(types.int64, types.int32), emit


@intrinsic  # type: ignore[untyped-decorator]
def phase_bits(typing_context: Any, phase: Any) -> Any:
    """From the float in the buffer of hyperparameters to the upper bits of an integer."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        prefer_512_bits(builder)
        whole = builder.fptoui(args[0], I32)
        return builder.shl(whole, int32(32 - rounding.PHASE_BITS))

    return types.int32(phase), emit


@cache
def element_access(compute: str, stored: str, dithered: bool, slot: int, slots: int) -> tuple[Any, Any]:
    """``load(address, index)`` and ``store(address, index, value, place, random)`` for one of `slots`.

    The loop computes in the dtype `compute`, the array holds `stored`. `place`, where in its block the
    element is, and `random`, the bits of the block, only matter where rounding is `dithered`. The last
    of the slots is the table of random bits.
    """
    number = getattr(types, compute)
    kind = STORED[stored]

    @intrinsic  # type: ignore[untyped-decorator]
    def load(typing_context: Any, address: Any, index: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            raw = builder.load(element_pointer(builder, kind, *args))
            mark_noalias(builder.module, raw, slot, slots)
            return decode(builder, stored, raw, STORED[compute])

        return number(types.intp, types.int64), emit

    @intrinsic  # type: ignore[untyped-decorator]
    def store(
        typing_context: Any, address: Any, index: Any, value: Any, place: Any, random: Any
    ) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = element_pointer(builder, kind, args[0], args[1])
            noise = None
            if dithered:
                noise = noise_of(builder, args[3], args[4], slot, slots, FORMATS[stored].cut)
            raw = encode(builder, stored, args[2], noise)
            mark_noalias(builder.module, builder.store(raw, pointer), slot, slots)
            return context.get_dummy_value()

        words = types.intp, types.int64, number, types.int64, types.int32
        return types.void(*words), emit

    return load, store
