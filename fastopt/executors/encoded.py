"""Numbers of every format in machine code: how a kernel loads and stores one element.

The specification is `fastopt.codecs.floats`. Functions that take a `builder` emit LLVM instructions.
"""

from __future__ import annotations

import math
import platform
from functools import cache
from typing import Any

from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastopt.codecs import rounding
from fastopt.executors.memory import I64, LINE, place_of, tell_apart

I16, I32 = ir.IntType(16), ir.IntType(32)
HALF, SINGLE, DOUBLE = ir.HalfType(), ir.FloatType(), ir.DoubleType()

# By name: Numba has neither float16 nor bfloat16 on the CPU. LLVM's bfloat is not llvmlite's: bits.
STORED = {"float16": HALF, "bfloat16": I16, "float32": SINGLE, "float64": DOUBLE}
CUT = {"float16": 13, "bfloat16": 16}  # bits of a float32 that are not kept
ITEMSIZE = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
WIDTHS = [HALF, SINGLE, DOUBLE]


def require_conversion(stored: str) -> None:
    """See that the processor converts a format, which LLVM would end the process for.

    Raises
    ------
    RuntimeError
        It does not.
    """
    if stored == "float16" and platform.machine() in X86 and not get_host_cpu_features().get("f16c"):
        raise RuntimeError(
            "float16 needs a processor with the instructions F16C, which this one lacks: use bfloat16"
        )


X86 = "x86_64", "AMD64"


def int32(number: int) -> Any:
    """A constant of 32 bits, signed or not."""
    return ir.Constant(I32, number - (1 << 32) if number >= 1 << 31 else number)


def like(value: Any, constant: Any) -> Any:
    """A constant for each lane, where `value` is a vector."""
    if isinstance(value.type, ir.VectorType):
        return ir.Constant(value.type, [constant] * value.type.count)
    return constant


def resize(builder: Any, number: Any, target: Any) -> Any:
    """Another floating-point type, rounded to nearest, ties to even."""
    if number.type == target:
        return number
    narrower = WIDTHS.index(target) < WIDTHS.index(number.type)
    return builder.fptrunc(number, target) if narrower else builder.fpext(number, target)


def widen_bfloat16(builder: Any, bits: Any) -> Any:
    """The float32 that these 16 bits are the upper half of: a number or a vector."""
    lanes = bits.type.count if isinstance(bits.type, ir.VectorType) else 0
    wide, single = (ir.VectorType(kind, lanes) if lanes else kind for kind in (I32, SINGLE))
    wider = builder.zext(bits, wide)
    return builder.bitcast(builder.shl(wider, like(wider, int32(16))), single)


def decode(builder: Any, stored: str, raw: Any, target: Any) -> Any:
    """The number that was loaded, in the type `target`."""
    return resize(builder, widen_bfloat16(builder, raw) if stored == "bfloat16" else raw, target)


def encode(builder: Any, stored: str, number: Any, noise: Any) -> Any:
    """What to store for a number; `noise` is None or as many random bits as are cut off: `CUT`."""
    if noise is not None and stored == "float16":
        number = _towards_float16(builder, number, noise)
    if stored != "bfloat16":
        return resize(builder, number, STORED[stored])
    bits = builder.bitcast(number, I32)
    if noise is None:
        # Ties go to even: an odd number above a half is more than a half.
        odd = builder.and_(builder.lshr(bits, int32(16)), int32(1))
        sum_ = builder.add(builder.or_(bits, odd), int32(0x7FFF))
    else:
        sum_ = builder.add(bits, noise)
    rounded = builder.lshr(sum_, int32(16))  # infinity stays: its lower bits are 0
    nan = builder.or_(builder.lshr(bits, int32(16)), int32(0x7FC0))
    is_nan = builder.fcmp_unordered("uno", number, number)
    return builder.trunc(builder.select(is_nan, nan, rounded), I16)


def _towards_float16(builder: Any, number: Any, noise: Any) -> Any:
    bits = builder.bitcast(number, I32)
    sign = builder.and_(bits, int32(0x80000000))
    size = builder.bitcast(builder.and_(bits, int32(0x7FFFFFFF)), SINGLE)
    smallest, zero = (ir.Constant(SINGLE, value) for value in (2.0**-14, 0.0))
    lift = builder.select(builder.fcmp_ordered("<", size, smallest), smallest, zero)
    lifted = builder.bitcast(builder.fadd(size, lift), I32)
    noisy = builder.add(lifted, noise)
    cut = builder.bitcast(builder.and_(noisy, int32(0xFFFFE000)), SINGLE)
    rounded = builder.bitcast(builder.fsub(cut, lift), I32)
    signed = builder.bitcast(builder.or_(rounded, sign), SINGLE)
    finite = builder.fcmp_ordered("<", size, ir.Constant(SINGLE, math.inf))
    return builder.select(finite, signed, number)


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
    tell_apart(builder.module, own, slots - 1, slots)
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


def hashed(builder: Any, number: Any) -> Any:
    """32 bits for a number of 64."""
    bits = builder.trunc(number, I32)
    for shift, factor in zip(rounding.SHIFTS, rounding.FACTORS, strict=True):
        bits = builder.mul(builder.xor(bits, builder.lshr(bits, int32(shift))), int32(factor))
    return bits


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
            raw = builder.load(place_of(builder, kind, *args))
            tell_apart(builder.module, raw, slot, slots)
            return decode(builder, stored, raw, STORED[compute])

        return number(types.intp, types.int64), emit

    @intrinsic  # type: ignore[untyped-decorator]
    def store(
        typing_context: Any, address: Any, index: Any, value: Any, place: Any, random: Any
    ) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = place_of(builder, kind, args[0], args[1])
            noise = None
            if dithered:
                noise = noise_of(builder, args[3], args[4], slot, slots, CUT[stored])
            raw = encode(builder, stored, args[2], noise)
            tell_apart(builder.module, builder.store(raw, pointer), slot, slots)
            return context.get_dummy_value()

        words = types.intp, types.int64, number, types.int64, types.int32
        return types.void(*words), emit

    return load, store
