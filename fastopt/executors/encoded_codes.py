"""8-bit codes in machine code, one by one, on the CPU and on a device.

The specification is `fastopt.codecs.blocks`. All functions emit LLVM instructions.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from fastopt.codecs import blocks
from fastopt.codecs.blocks import EXPONENT, STEP
from fastopt.executors.encoded import I32, SINGLE, int32


def _select(builder: Any, *cases: tuple[Any, Any], otherwise: Any) -> Any:
    """The value of the first case whose condition holds."""
    for condition, value in reversed(cases):
        otherwise = builder.select(condition, value, otherwise)
    return otherwise


def _as_it_is(builder: Any, number: Any) -> Any:
    """A number that LLVM takes as given: it would do parts of a sum in the loop instead of before."""
    return builder.asm(ir.FunctionType(I32, [I32]), "", "=r,0", [number], False)


def _smaller(builder: Any, one: Any, other: Any) -> Any:
    return builder.select(builder.icmp_signed("<", one, other), one, other)


def larger_of(builder: Any, one: Any, other: Any) -> Any:
    """The larger of two signed numbers."""
    return builder.select(builder.icmp_signed(">", one, other), one, other)


def _decode_unsigned(builder: Any, code: Any, scale: Any) -> Any:
    double = builder.add(code, _smaller(builder, code, int32(blocks.COARSE)))
    base = builder.sub(scale, int32(blocks.TO_BASE))
    bits = builder.add(base, builder.shl(double, int32(STEP)))
    above = builder.shl(builder.sub(code, int32(blocks.INFINITE)), int32(EXPONENT - 1))
    special = builder.add(above, int32(blocks.INFINITE_BITS))
    is_special = builder.icmp_signed(">=", code, int32(blocks.INFINITE))
    is_zero = builder.icmp_signed("==", code, int32(0))
    bits = _select(builder, (is_special, special), (is_zero, int32(0)), otherwise=bits)
    return builder.bitcast(bits, SINGLE)


def _unsigned_offsets(builder: Any, scale: Any) -> list[Any]:
    """What is added to the bits of numbers of a block to get codes one step apart, and two."""
    offsets = blocks.TO_BASE - (blocks.COARSE << STEP), blocks.TO_BASE
    return [_as_it_is(builder, builder.sub(int32(offset), scale)) for offset in offsets]


def _encode_unsigned(builder: Any, number: Any, offsets: Any, part: Any) -> Any:
    to_fine, to_coarse = offsets
    bits = builder.bitcast(number, I32)
    once = builder.add(bits, part)
    fine = builder.ashr(builder.add(once, to_fine), int32(STEP))
    coarse = builder.ashr(builder.add(builder.add(once, part), to_coarse), int32(STEP + 1))
    code = larger_of(builder, larger_of(builder, fine, coarse), int32(1))
    code = _smaller(builder, code, int32(blocks.INFINITE))  # infinity is above all scales
    is_nan = builder.fcmp_unordered("uno", number, number)
    is_positive = builder.icmp_signed(">", bits, int32(0))
    return _select(builder, (is_nan, int32(blocks.NAN)), (is_positive, code), otherwise=int32(0))


def _decode_signed(builder: Any, code: Any, scale: Any) -> Any:
    size = builder.and_(code, int32(blocks.MINUS - 1))
    bits = builder.add(scale, builder.shl(size, int32(STEP)))
    number = builder.fsub(builder.bitcast(bits, SINGLE), builder.bitcast(scale, SINGLE))
    is_infinite = builder.icmp_signed("==", size, int32(blocks.INFINITE_SIZE))
    bits = builder.bitcast(number, I32)
    bits = builder.select(is_infinite, int32(blocks.INFINITE_BITS), bits)
    sign = builder.shl(builder.and_(code, int32(blocks.MINUS)), int32(24))
    is_nan = builder.icmp_signed("==", code, int32(blocks.MINUS))
    bits = builder.select(is_nan, int32(0x7FC00000), builder.or_(bits, sign))
    return builder.bitcast(bits, SINGLE)


def _signed_offsets(builder: Any, scale: Any) -> list[Any]:
    """The bits of the scale, which is added to sizes, and what is then added to their bits."""
    return [scale, builder.sub(int32(0), scale)]


def _encode_signed(builder: Any, number: Any, offsets: Any, part: Any) -> Any:
    scale, to_base = offsets
    bits = builder.bitcast(number, I32)
    size_bits = builder.and_(bits, int32(blocks.SIZE_BITS))
    shifted = builder.fadd(builder.bitcast(size_bits, SINGLE), builder.bitcast(scale, SINGLE))
    above = builder.add(builder.bitcast(shifted, I32), to_base)
    size = builder.ashr(builder.add(above, part), int32(STEP))
    size = _smaller(builder, size, int32(blocks.LARGEST_SIZE))
    is_infinite = builder.icmp_signed("==", size_bits, int32(blocks.INFINITE_BITS))
    size = builder.select(is_infinite, int32(blocks.INFINITE_SIZE), size)
    minus = builder.and_(builder.lshr(bits, int32(24)), int32(blocks.MINUS))
    minus = builder.select(builder.icmp_signed(">", size, int32(0)), minus, int32(0))
    is_nan = builder.icmp_signed(">", size_bits, int32(blocks.INFINITE_BITS))
    return builder.select(is_nan, int32(blocks.MINUS), builder.or_(size, minus))


# The specification, and how to decode a code, to get two numbers from a scale, and to encode with them.
CODECS: dict[str, tuple[blocks.Blocks, Any, Any, Any]] = {
    "unsigned8": (blocks.UNSIGNED, _decode_unsigned, _unsigned_offsets, _encode_unsigned),
    "signed8": (blocks.SIGNED, _decode_signed, _signed_offsets, _encode_signed),
}


def size_bits(builder: Any, codec: blocks.Blocks, bits: Any) -> Any:
    """Bits that compare like sizes; without a sign, negative numbers are below all others."""
    return builder.and_(bits, int32(blocks.SIZE_BITS)) if codec.has_sign else bits


def is_not_finite(builder: Any, size: Any) -> Any:
    """Whether what `size_bits` gave is of an infinity or NaN."""
    return builder.icmp_signed(">=", size, int32(blocks.INFINITE_BITS))


def scale_bits(builder: Any, scaling: blocks.Scaling, largest: Any) -> Any:
    """The bits of a block's scale, from those of its largest finite number."""
    power = builder.add(_smaller(builder, largest, int32(scaling.most)), int32(scaling.up))
    power = builder.and_(power, int32(0xFFFFFFFF ^ blocks.MANTISSA))
    power = builder.sub(power, int32(scaling.down << EXPONENT))
    return larger_of(builder, power, int32(scaling.least_bits))
