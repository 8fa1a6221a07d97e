"""Eight bits an element: codes in blocks of 256, with a scale each.

Both formats are floating-point numbers of one byte, relative to a power of two for each block, so that
decoding is exact.

`UNSIGNED` is for accumulators that are never negative, such as averages of squares. It has three bits
of mantissa over 28 powers of two below the largest of the block, and two bits over seven more:
gradients that differ by 10**5 in one block keep accumulators of their own (squares differ by 10**10),
and what is above zero never falls to zero. Above 3.3e38 it becomes infinite. Decoded numbers are
encoded to themselves again.
Rounding to nearest is off by 1/16 at most (1/8 far down).

`SIGNED` is for momentum: a sign, and sizes ``F(c) - F(0)`` where ``F`` has three bits of mantissa over
16 powers of two. So the spacing is relative far from zero and even near it, and zero is a code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fastopt.codecs.base import BLOCK, Array, Codec
from fastopt.codecs.operations import NUMPY, SIGN_BIT, SIZE_BITS, Operations, Value, quiet

ITEM = np.dtype([("scale", np.float32), ("codes", np.uint8, BLOCK)])
CODES_AT = ITEM.fields["codes"][1] if ITEM.fields else 0  # bytes into an item

# In the bits of a float32:
STEP = 20  # adding one here is one code further, an eighth of a power of two
EXPONENT = 23
MANTISSA = (1 << EXPONENT) - 1
INFINITE_BITS = 0x7F800000
NAN_BITS = 0x7FC00000

# UNSIGNED: 0 is zero, then come finite numbers up to LARGEST, infinity and NaN. Codes up to COARSE are
# two steps apart. LARGEST stands for 1.875 times the scale.
LARGEST, INFINITE, NAN = 253, 254, 255
COARSE = 32
TO_BASE = (LARGEST + COARSE - 7) << STEP

# SIGNED: the lower seven bits are the size, up to LARGEST_SIZE, then infinity. The scale is F(0), and
# LARGEST_SIZE stands for 1.75 * 2**15 - 1 of it. Minus zero stands for NaN.
LARGEST_SIZE, INFINITE_SIZE, MINUS = 126, 127, 0x80


@dataclass(frozen=True)
class Scaling:
    """From the bits of the largest number of a block to those of its scale, a power of two.

    Parameters
    ----------
    up : int
        Added to the bits before the mantissa is cut off: numbers that the largest code does not reach
        at one power of two get the next one.
    down : int
        Powers of two from there to the scale.
    least : float
        The smallest scale: no code may stand for a subnormal number.
    """

    up: int
    down: int
    least: float

    @property
    def most(self) -> int:
        """Larger numbers than this all have the last power of two that float32 has."""
        return INFINITE_BITS - 1 - self.up

    @property
    def least_bits(self) -> int:
        return int(np.float32(self.least).view(np.int32))


class Blocks(Codec):
    """Codes with a scale for each block.

    The formulas are written over `codecs.operations`, for arrays and for compiled code alike. What is
    added before a code is cut off, `dither`, has noise or a half in its lower bits.

    `finite_number` and `finite_code` are for what nearly all blocks hold: finite numbers, which without
    a sign are not negative, and of which `Scaling` finds none too large. `number` and `code` are for
    the others, and need about twice as many instructions.
    """

    scaling: Scaling
    has_sign: bool
    dither: int  # what is added before codes are cut off has so many bits

    def is_special(self, o: Operations, code: Value) -> Value:
        """Whether a code is of an infinity or NaN."""
        raise NotImplementedError

    def finite_number(self, o: Operations, code: Value, scale: Value) -> Value:
        """The number, given the bits of its block's scale."""
        raise NotImplementedError

    def number(self, o: Operations, code: Value, scale: Value) -> Value:
        """The number, be it infinite or NaN."""
        raise NotImplementedError

    def offsets(self, o: Operations, scale: Value) -> tuple[Value, Value]:
        """Two numbers of a block: `offset`, and what is in `dither` besides its lower bits."""
        raise NotImplementedError

    def finite_code(self, o: Operations, number: Value, offset: Value, dither: Value) -> Value:
        """The code."""
        raise NotImplementedError

    def code(self, o: Operations, number: Value, offset: Value, dither: Value) -> Value:
        """The code of any number."""
        raise NotImplementedError

    def size_bits(self, o: Operations, bits: Value) -> Value:
        """Bits that compare like sizes; without a sign, negative numbers are below all others."""
        return bits & SIZE_BITS if self.has_sign else bits

    def scale_bits(self, o: Operations, largest: Value) -> Value:
        """The bits of a block's scale, from those of its largest finite number."""
        to = self.scaling
        power = (o.minimum(largest, to.most) + to.up) & ~MANTISSA
        return o.maximum(power - (to.down << EXPONENT), to.least_bits)

    @quiet
    def decode(self, stored: Array, compute: np.dtype[Any]) -> Array:
        items = stored.reshape(-1)
        scale = np.ascontiguousarray(items["scale"]).view(np.int32)[:, None]
        numbers: Array = self.number(NUMPY, np.ascontiguousarray(items["codes"]), scale)
        return numbers.reshape(-1).astype(compute)

    @quiet
    def encode(self, numbers: Array, noise: Array | None) -> Array:
        missing = -numbers.size % BLOCK
        flat = np.append(numbers.astype(np.float32), np.zeros(missing, np.float32)).reshape(-1, BLOCK)
        bits = None
        if noise is not None:
            bits = np.append(noise, np.zeros(missing, np.uint32)).reshape(-1, BLOCK)
        sizes = self.size_bits(NUMPY, flat.view(np.int32))
        # What is not finite concerns its own element only.
        finite = larger_finite(NUMPY, np.int32(0), sizes)
        scale = self.scale_bits(NUMPY, finite.max(axis=1, initial=0))
        result = np.zeros(len(flat), ITEM)
        result["scale"] = scale.view(np.float32)
        result["codes"] = self.codes(flat, scale[:, None], bits)
        return result

    @quiet
    def codes(self, numbers: Array, scale: Array, noise: Array | None) -> Array:
        """The codes of an array, given the bits of scales and 32 random bits for each number."""
        if noise is None:
            lower = np.full(numbers.shape, 1 << (self.dither - 1), np.int32)
        else:
            lower = (noise >> np.uint32(32 - self.dither)).astype(np.int32)
        offset, constant = self.offsets(NUMPY, scale)
        found: Array = self.code(NUMPY, numbers, offset, constant | lower)
        return found


def is_not_finite(o: Operations, size: Value) -> Value:
    """Whether the bits of a size, or of a number with a sign, are of an infinity or NaN."""
    return size >= INFINITE_BITS


def larger_finite(o: Operations, largest: Value, size: Value) -> Value:
    """The bits of the larger size, where what is not finite counts as zero."""
    return o.maximum(largest, o.where(is_not_finite(o, size), 0, size))


class _Unsigned(Blocks):
    scaling = Scaling(up=(1 << STEP) - 1, down=0, least=2.0**-90)
    has_sign = False
    dither = STEP + 1

    def is_special(self, o: Operations, code: Value) -> Value:
        return code >= INFINITE

    def finite_number(self, o: Operations, code: Value, scale: Value) -> Value:
        wide = o.widen(code)
        base = o.where(code == 0, 0, scale - TO_BASE)
        return o.as_float(((wide + o.minimum(wide, COARSE)) << STEP) + base)

    def number(self, o: Operations, code: Value, scale: Value) -> Value:
        special = ((o.widen(code) - INFINITE) << (EXPONENT - 1)) + INFINITE_BITS
        number = self.finite_number(o, code, scale)
        return o.where(self.is_special(o, code), o.as_float(special), number)

    def offsets(self, o: Operations, scale: Value) -> tuple[Value, Value]:
        base = scale - TO_BASE
        knot = base + (COARSE << self.dither)
        return knot, 0 - (base + knot)

    def finite_code(self, o: Operations, number: Value, offset: Value, dither: Value) -> Value:
        bits = o.as_bits(number)
        # From the knot on both parts of the sum grow, so that codes are one step apart and not two.
        code = (bits + o.maximum(bits, offset) + dither) >> self.dither
        return o.where(bits == 0, 0, o.maximum(code, 1))

    def code(self, o: Operations, number: Value, offset: Value, dither: Value) -> Value:
        bits = o.as_bits(number)
        code = self.finite_code(o, number, offset, dither)  # up to that of infinity
        positive = o.where(is_not_finite(o, bits), INFINITE, o.where(bits > 0, code, 0))
        return o.where(o.is_nan(number), NAN, positive)


class _Signed(Blocks):
    scaling = Scaling(up=(1 << (STEP + 1)) + 255, down=15, least=2.0**-110)
    has_sign = True
    dither = STEP

    def is_special(self, o: Operations, code: Value) -> Value:
        return self._is_infinite(code) | (code == MINUS)

    def _is_infinite(self, code: Value) -> Value:
        return (code & (MINUS - 1)) == INFINITE_SIZE

    def finite_number(self, o: Operations, code: Value, scale: Value) -> Value:
        wide = o.widen_signed(code)
        size = (wide << STEP) & ((MINUS - 1) << STEP)
        number = o.as_float(scale + size) - o.as_float(scale)
        return o.as_float(o.as_bits(number) | (wide & SIGN_BIT))

    def number(self, o: Operations, code: Value, scale: Value) -> Value:
        bits = o.as_bits(self.finite_number(o, code, scale))
        infinity = (bits & SIGN_BIT) | INFINITE_BITS
        bits = o.where(self._is_infinite(code), infinity, bits)
        return o.as_float(o.where(code == MINUS, NAN_BITS, bits))

    def offsets(self, o: Operations, scale: Value) -> tuple[Value, Value]:
        return scale, 0 - scale

    def finite_code(self, o: Operations, number: Value, offset: Value, dither: Value) -> Value:
        return self._signed(o, self._size(o, number, offset, dither), number)

    def _size(self, o: Operations, number: Value, offset: Value, dither: Value) -> Value:
        size = o.as_float(o.as_bits(number) & SIZE_BITS)
        return (o.as_bits(size + o.as_float(offset)) + dither) >> self.dither

    def _signed(self, o: Operations, size: Value, number: Value) -> Value:
        return o.where(size == 0, 0, size | self._minus(o, number))

    def _minus(self, o: Operations, number: Value) -> Value:
        return o.shift_in_zeros(o.as_bits(number), 24) & MINUS

    def code(self, o: Operations, number: Value, offset: Value, dither: Value) -> Value:
        size = self.size_bits(o, o.as_bits(number))
        infinity = self._minus(o, number) | INFINITE_SIZE
        code = o.minimum(self._size(o, number, offset, dither), LARGEST_SIZE)
        code = o.where(is_not_finite(o, size), infinity, self._signed(o, code, number))
        return o.where(size > INFINITE_BITS, MINUS, code)


UNSIGNED = _Unsigned("unsigned8", ITEM, BLOCK)
SIGNED = _Signed("signed8", ITEM, BLOCK)
BLOCKS: dict[str, Blocks] = {codec.name: codec for codec in (UNSIGNED, SIGNED)}
