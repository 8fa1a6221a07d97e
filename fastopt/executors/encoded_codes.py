"""8-bit codes in machine code, one by one, on the CPU and on a device.

The specification is `fastopt.codecs.blocks`. All methods emit LLVM instructions.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from fastopt.codecs import blocks
from fastopt.codecs.blocks import EXPONENT, STEP
from fastopt.executors.encoded import I32, SINGLE, int32

I8 = ir.IntType(8)
NAN_BITS = 0x7FC00000


def _select(builder: Any, *cases: tuple[Any, Any], otherwise: Any) -> Any:
    """The value of the first case whose condition holds."""
    for condition, value in reversed(cases):
        otherwise = builder.select(condition, value, otherwise)
    return otherwise


def _smaller(builder: Any, one: Any, other: Any) -> Any:
    return builder.select(builder.icmp_signed("<", one, other), one, other)


def larger_of(builder: Any, one: Any, other: Any) -> Any:
    """The larger of two signed numbers."""
    return builder.select(builder.icmp_signed(">", one, other), one, other)


def is_not_finite(builder: Any, size: Any) -> Any:
    """Whether the bits of a size, or of a number with a sign, are of an infinity or NaN."""
    return builder.icmp_signed(">=", size, int32(blocks.INFINITE_BITS))


class EightBits:
    """One format: how its numbers become codes and back.

    What is added before a code is cut off, `dither`, has noise or a half in its lower bits.

    `decode` and `encode` are for what nearly all blocks hold: finite numbers, which without a sign are
    not negative, and of which `Scaling` finds none too large. `decode_any` and `encode_any` are for the
    others, and need about twice as many instructions.
    """

    codec: blocks.Blocks

    def is_special(self, builder: Any, code: Any) -> Any:
        """Whether a code is of an infinity or NaN."""
        raise NotImplementedError

    def decode(self, builder: Any, code: Any, scale: Any) -> Any:
        """The number, given the bits of its block's scale."""
        raise NotImplementedError

    def decode_any(self, builder: Any, code: Any, scale: Any) -> Any:
        """The number, be it infinite or NaN."""
        raise NotImplementedError

    def offsets(self, builder: Any, scale: Any) -> tuple[Any, Any]:
        """Two numbers of a block: `offset`, and what is in `dither` besides its lower bits."""
        raise NotImplementedError

    def encode(self, builder: Any, number: Any, offset: Any, dither: Any) -> Any:
        """The code."""
        raise NotImplementedError

    def encode_any(self, builder: Any, number: Any, offset: Any, dither: Any) -> Any:
        """The code of any number."""
        raise NotImplementedError

    def size_bits(self, builder: Any, bits: Any) -> Any:
        """Bits that compare like sizes; without a sign, negative numbers are below all others."""
        return builder.and_(bits, int32(blocks.SIZE_BITS)) if self.codec.has_sign else bits

    def scale_bits(self, builder: Any, largest: Any) -> Any:
        """The bits of a block's scale, from those of its largest finite number."""
        to = self.codec.scaling
        power = builder.add(_smaller(builder, largest, int32(to.most)), int32(to.up))
        power = builder.and_(power, int32(0xFFFFFFFF ^ blocks.MANTISSA))
        power = builder.sub(power, int32(to.down << EXPONENT))
        return larger_of(builder, power, int32(to.least_bits))


class _Unsigned(EightBits):
    codec = blocks.UNSIGNED

    def is_special(self, builder: Any, code: Any) -> Any:
        return builder.icmp_unsigned(">=", code, I8(blocks.INFINITE))

    def decode(self, builder: Any, code: Any, scale: Any) -> Any:
        wide = builder.zext(code, I32)
        double = builder.add(wide, _smaller(builder, wide, int32(blocks.COARSE)))
        is_zero = builder.icmp_signed("==", code, I8(0))
        base = builder.select(is_zero, int32(0), builder.sub(scale, int32(blocks.TO_BASE)))
        return builder.bitcast(builder.add(builder.shl(double, int32(STEP)), base), SINGLE)

    def decode_any(self, builder: Any, code: Any, scale: Any) -> Any:
        above = builder.sub(builder.zext(code, I32), int32(blocks.INFINITE))
        above = builder.shl(above, int32(EXPONENT - 1))
        special = builder.bitcast(builder.add(above, int32(blocks.INFINITE_BITS)), SINGLE)
        number = self.decode(builder, code, scale)
        return builder.select(self.is_special(builder, code), special, number)

    def offsets(self, builder: Any, scale: Any) -> tuple[Any, Any]:
        base = builder.sub(scale, int32(blocks.TO_BASE))
        knot = builder.add(base, int32(blocks.COARSE << self.codec.dither))
        return knot, builder.sub(int32(0), builder.add(base, knot))

    def encode(self, builder: Any, number: Any, offset: Any, dither: Any) -> Any:
        bits = builder.bitcast(number, I32)
        # From the knot on both parts of the sum grow, so that codes are one step apart and not two.
        bent = builder.add(bits, larger_of(builder, bits, offset))
        code = builder.ashr(builder.add(bent, dither), int32(self.codec.dither))
        is_zero = builder.icmp_signed("==", bits, int32(0))
        return builder.select(is_zero, int32(0), larger_of(builder, code, int32(1)))

    def encode_any(self, builder: Any, number: Any, offset: Any, dither: Any) -> Any:
        bits = builder.bitcast(number, I32)
        is_nan = builder.fcmp_unordered("uno", number, number)
        is_infinite = is_not_finite(builder, bits)
        is_positive = builder.icmp_signed(">", bits, int32(0))
        code = self.encode(builder, number, offset, dither)  # up to that of infinity
        cases = (is_nan, int32(blocks.NAN)), (is_infinite, int32(blocks.INFINITE)), (is_positive, code)
        return _select(builder, *cases, otherwise=int32(0))


class _Signed(EightBits):
    codec = blocks.SIGNED

    def is_special(self, builder: Any, code: Any) -> Any:
        is_nan = builder.icmp_unsigned("==", code, I8(blocks.MINUS))
        return builder.or_(self._is_infinite(builder, code), is_nan)

    def _is_infinite(self, builder: Any, code: Any) -> Any:
        size = builder.and_(code, I8(blocks.MINUS - 1))
        return builder.icmp_unsigned("==", size, I8(blocks.INFINITE_SIZE))

    def decode(self, builder: Any, code: Any, scale: Any) -> Any:
        wide = builder.sext(code, I32)
        size = builder.and_(builder.shl(wide, int32(STEP)), int32((blocks.MINUS - 1) << STEP))
        bits = builder.add(scale, size)
        number = builder.fsub(builder.bitcast(bits, SINGLE), builder.bitcast(scale, SINGLE))
        sign = builder.and_(wide, int32(blocks.SIGN_BIT))
        return builder.bitcast(builder.or_(builder.bitcast(number, I32), sign), SINGLE)

    def decode_any(self, builder: Any, code: Any, scale: Any) -> Any:
        bits = builder.bitcast(self.decode(builder, code, scale), I32)
        sign = builder.and_(bits, int32(blocks.SIGN_BIT))
        infinity = builder.or_(sign, int32(blocks.INFINITE_BITS))
        is_nan = builder.icmp_unsigned("==", code, I8(blocks.MINUS))
        cases = (is_nan, int32(NAN_BITS)), (self._is_infinite(builder, code), infinity)
        return builder.bitcast(_select(builder, *cases, otherwise=bits), SINGLE)

    def offsets(self, builder: Any, scale: Any) -> tuple[Any, Any]:
        return scale, builder.sub(int32(0), scale)

    def encode(self, builder: Any, number: Any, offset: Any, dither: Any) -> Any:
        return self._signed(builder, self._size(builder, number, offset, dither), number)

    def _size(self, builder: Any, number: Any, offset: Any, dither: Any) -> Any:
        bits = builder.bitcast(number, I32)
        size = builder.bitcast(builder.and_(bits, int32(blocks.SIZE_BITS)), SINGLE)
        shifted = builder.bitcast(builder.fadd(size, builder.bitcast(offset, SINGLE)), I32)
        return builder.ashr(builder.add(shifted, dither), int32(self.codec.dither))

    def _signed(self, builder: Any, size: Any, number: Any) -> Any:
        signed = builder.or_(size, self._minus(builder, number))
        return builder.select(builder.icmp_signed("==", size, int32(0)), int32(0), signed)

    def _minus(self, builder: Any, number: Any) -> Any:
        bits = builder.bitcast(number, I32)
        return builder.and_(builder.lshr(bits, int32(24)), int32(blocks.MINUS))

    def encode_any(self, builder: Any, number: Any, offset: Any, dither: Any) -> Any:
        sizes = self.size_bits(builder, builder.bitcast(number, I32))
        is_nan = builder.icmp_signed(">", sizes, int32(blocks.INFINITE_BITS))
        is_infinite = is_not_finite(builder, sizes)
        infinity = builder.or_(self._minus(builder, number), int32(blocks.INFINITE_SIZE))
        cases = (is_nan, int32(blocks.MINUS)), (is_infinite, infinity)
        size = self._size(builder, number, offset, dither)
        size = _smaller(builder, size, int32(blocks.LARGEST_SIZE))
        return _select(builder, *cases, otherwise=self._signed(builder, size, number))


CODECS: dict[str, EightBits] = {"unsigned8": _Unsigned(), "signed8": _Signed()}
