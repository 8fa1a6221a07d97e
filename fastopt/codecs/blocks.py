"""Eight bits an element: codes in blocks of 256, with a scale each.

Both formats are floating-point numbers of one byte, relative to a power of two for each block, so that
decoding is exact. The lowest bit of a scale says which codes its block has.

**Plain blocks**, marked by that bit, are most: their codes are the upper bits of a float32, so that
they take few instructions. In the caches of one core of an EPYC, RMSProp in float16 takes 0.86 of the
time that it took with full blocks only, Adam in float32 0.90; where every block is full it takes 1.22.

`UNSIGNED` is for accumulators that are never negative, such as averages of squares. A plain block has
three bits of mantissa over 31 powers of two, and zero: numbers are moved to the smallest exponents that
float32 has, where the bits of zero are 0 and nothing needs to be subtracted. Codes that would stand for
subnormal numbers, which processors are slow with, are not used.

`SIGNED` is for momentum: a sign, and sizes ``F(c) - F(0)`` where ``F`` has three bits of mantissa over
16 powers of two. So the spacing is relative far from zero and even near it, and zero is a code.

**Full blocks** have what others lack: codes for infinity and NaN, and without a sign a longer range,
three bits of mantissa over 28 powers of two and two bits over seven more. So gradients that differ by
10**5 in one block keep accumulators of their own (squares differ by 10**10), and what is above zero
never falls to zero. Above 3.3e38 it becomes infinite. States from before there were marks have full
blocks only, and load unchanged.

Decoded numbers are encoded to the same codes again. Nearest rounding is off by 1/16 at most (1/8 far
down in a full block without a sign).
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

PLAIN = 1  # the lowest bit of a scale

# UNSIGNED, full: 0 is zero, then come finite numbers up to LARGEST, infinity and NaN. Codes up to
# COARSE are two steps apart. LARGEST stands for 1.875 times the scale.
LARGEST, INFINITE, NAN = 253, 254, 255
COARSE = 32
TO_BASE = (LARGEST + COARSE - 7) << STEP

# UNSIGNED, plain: the same above the scale, where 255 is the largest code and 8 that of the smallest
# normal number. The bits of the factors to codes and back are those of the scale, and sums with it.
MOST_SCALE = 2.0**30  # the largest whose factor is no subnormal number
RANGE = 30 << EXPONENT  # from the scale down to code 8
TO_NUMBERS = 96 << EXPONENT
TO_CODES = 158 << EXPONENT

# SIGNED: the lower seven bits are the size, up to LARGEST_SIZE. The scale is F(0), and LARGEST_SIZE
# stands for 1.75 * 2**15 - 1 of it. A full block has infinity too, and minus zero stands for NaN.
LARGEST_SIZE, INFINITE_SIZE, MINUS = 126, 127, 0x80


@dataclass(frozen=True)
class Scaling:
    """How the scale of a block, a power of two, follows from its largest number, both as bits.

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
        """The largest bits to which `up` can be added; larger numbers share the last power of two."""
        return INFINITE_BITS - 1 - self.up

    @property
    def least_bits(self) -> int:
        return int(np.float32(self.least).view(np.int32))


class Blocks(Codec):
    """Codes with a scale for each block.

    The formulas are written over `codecs.operations`, for arrays and for compiled code alike. What is
    added before a code is cut off, `dither`, has noise or a half in its lower bits. A block's scale is
    given as its bits, with the mark.
    """

    scaling: Scaling
    has_sign: bool
    full_dither: int  # what is added before codes of full blocks are cut off has so many bits

    plain_most: int  # bits of the largest number that a plain block can have

    def dither(self, plain: bool) -> int:
        """The number of bits of noise in a code's dither."""
        return STEP if plain else self.full_dither

    def plain_number(self, o: Operations, code: Value, scale: Value) -> Value:
        """The number of a code in a plain block."""
        raise NotImplementedError

    def full_number(self, o: Operations, code: Value, scale: Value) -> Value:
        """The number of a code in a full block."""
        raise NotImplementedError

    def number(self, o: Operations, code: Value, scale: Value) -> Value:
        """The number of a code in any block."""
        plain, full = (f(o, code, scale) for f in (self.plain_number, self.full_number))
        return o.where(is_plain(scale), plain, full)

    def offsets(self, o: Operations, scale: Value, plain: bool) -> tuple[Value, Value]:
        """Two constants of a block: `offset`, and the part of `dither` above its lower bits."""
        raise NotImplementedError

    def plain_code(self, o: Operations, number: Value, offset: Value, dither: Value) -> Value:
        """The code of a number of a plain block."""
        raise NotImplementedError

    def full_code(self, o: Operations, number: Value, offset: Value, dither: Value) -> Value:
        """The code of any number."""
        raise NotImplementedError

    def size_bits(self, o: Operations, bits: Value) -> Value:
        """Integers that compare as magnitudes do; without a sign, negative numbers come first."""
        return bits & SIZE_BITS if self.has_sign else bits

    def plain_least(self, scale: Value) -> Value:
        """Bits of the smallest number above zero of a plain block, from its scale without mark."""
        raise NotImplementedError

    def unmarked_scale(self, o: Operations, largest: Value) -> Value:
        """The bits of a block's scale, from those of its largest finite number."""
        to = self.scaling
        power = (o.minimum(largest, to.most) + to.up) & ~MANTISSA
        return o.maximum(power - (to.down << EXPONENT), to.least_bits)

    def scale_bits(self, o: Operations, largest: Value, smallest: Value) -> Value:
        """The bits of a block's scale with the mark, from its largest and its smallest nonzero number.

        `smallest` has infinity's bits where it does not matter, and is 0 where a number is above
        `plain_most`, not finite, or negative without a sign: then the block is full.
        """
        scale = self.unmarked_scale(o, largest)
        return scale | o.where(smallest >= self.plain_least(scale), PLAIN, 0)

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
        # An infinity or NaN affects its own element only, not the scale.
        largest = larger_finite(NUMPY, np.int32(0), sizes).max(axis=1, initial=0)
        smallest = np.full(len(flat), INFINITE_BITS, np.int32)
        if not self.has_sign:
            smallest = np.where(sizes == 0, np.int32(INFINITE_BITS), sizes).min(axis=1)
        smallest[(sizes.view(np.uint32) > self.plain_most).any(axis=1)] = 0
        scale = self.scale_bits(NUMPY, largest, smallest)
        result = np.zeros(len(flat), ITEM)
        result["scale"] = scale.view(np.float32)
        result["codes"] = self.codes(flat, scale[:, None], bits)
        return result

    @quiet
    def codes(self, numbers: Array, scale: Array, noise: Array | None) -> Array:
        """The codes of an array, given the bits of scales and 32 random bits for each number."""

        def codes(formula: Any, plain: bool) -> Array:
            bits = self.dither(plain)
            lower: Any = np.int32(1 << (bits - 1))
            if noise is not None:
                lower = (noise >> np.uint32(32 - bits)).astype(np.int32)
            offset, constant = self.offsets(NUMPY, scale, plain)
            words: Array = formula(NUMPY, numbers, offset, constant | lower) & 0xFF
            return words.astype(np.uint8)

        plain, full = codes(self.plain_code, True), codes(self.full_code, False)
        chosen: Array = np.where(is_plain(scale), plain, full)
        return chosen


def is_plain(scale: Value) -> Value:
    """Whether a scale, given by its bits, is that of a plain block."""
    return (scale & PLAIN) == PLAIN


def is_not_finite(o: Operations, size: Value) -> Value:
    """Whether the bits of a magnitude, or of a number with a sign, are those of an infinity or NaN."""
    return size >= INFINITE_BITS


def larger_finite(o: Operations, largest: Value, size: Value) -> Value:
    """The larger magnitude, as bits; one that is not finite counts as zero."""
    return o.maximum(largest, o.where(is_not_finite(o, size), 0, size))


class _Unsigned(Blocks):
    scaling = Scaling(up=(1 << STEP) - 1, down=0, least=2.0**-90)
    has_sign = False
    full_dither = STEP + 1
    plain_most = int(np.float32(1.875 * MOST_SCALE).view(np.int32))

    def plain_number(self, o: Operations, code: Value, scale: Value) -> Value:
        return o.as_float(o.widen(code) << STEP) * o.as_float(scale + (TO_NUMBERS - PLAIN))

    def full_number(self, o: Operations, code: Value, scale: Value) -> Value:
        wide = o.widen(code)
        base = o.where(code == 0, 0, scale - TO_BASE)
        bits = ((wide + o.minimum(wide, COARSE)) << STEP) + base
        special = ((wide - INFINITE) << (EXPONENT - 1)) + INFINITE_BITS
        return o.as_float(o.where(code >= INFINITE, special, bits))

    def offsets(self, o: Operations, scale: Value, plain: bool) -> tuple[Value, Value]:
        if plain:
            return TO_CODES + PLAIN - scale, scale & 0
        base = scale - TO_BASE
        knot = base + (COARSE << self.full_dither)
        return knot, 0 - (base + knot)

    def plain_code(self, o: Operations, number: Value, offset: Value, dither: Value) -> Value:
        return (o.as_bits(number * o.as_float(offset)) + dither) >> STEP

    def full_code(self, o: Operations, number: Value, offset: Value, dither: Value) -> Value:
        bits = o.as_bits(number)
        # From the knot on both parts of the sum grow, so that codes are one step apart and not two.
        code = (bits + o.maximum(bits, offset) + dither) >> self.full_dither
        code = o.where(bits > 0, o.maximum(code, 1), 0)  # up to that of infinity
        return o.where(o.is_nan(number), NAN, o.where(is_not_finite(o, bits), INFINITE, code))

    def plain_least(self, scale: Value) -> Value:
        return scale - RANGE


class _Signed(Blocks):
    scaling = Scaling(up=(1 << (STEP + 1)) + 255, down=15, least=2.0**-110)
    has_sign = True
    full_dither = STEP
    plain_most = scaling.most

    def plain_number(self, o: Operations, code: Value, scale: Value) -> Value:
        return self._number(o, code, scale - PLAIN)

    def _number(self, o: Operations, code: Value, scale: Value) -> Value:
        wide = o.widen_signed(code)
        size = (wide << STEP) & ((MINUS - 1) << STEP)
        number = o.as_float(scale + size) - o.as_float(scale)
        return o.as_float(o.as_bits(number) | (wide & SIGN_BIT))

    def full_number(self, o: Operations, code: Value, scale: Value) -> Value:
        bits = o.as_bits(self._number(o, code, scale))
        infinity = (bits & SIGN_BIT) | INFINITE_BITS
        bits = o.where((code & (MINUS - 1)) == INFINITE_SIZE, infinity, bits)
        return o.as_float(o.where(code == MINUS, NAN_BITS, bits))

    def offsets(self, o: Operations, scale: Value, plain: bool) -> tuple[Value, Value]:
        unmarked = scale - PLAIN if plain else scale
        return unmarked, 0 - unmarked

    def plain_code(self, o: Operations, number: Value, offset: Value, dither: Value) -> Value:
        return self._size(o, number, offset, dither) | self._minus(o, number)

    def _size(self, o: Operations, number: Value, offset: Value, dither: Value) -> Value:
        size = o.as_float(o.as_bits(number) & SIZE_BITS)
        return (o.as_bits(size + o.as_float(offset)) + dither) >> STEP

    def _minus(self, o: Operations, number: Value) -> Value:
        return o.shift_in_zeros(o.as_bits(number), 24) & MINUS

    def full_code(self, o: Operations, number: Value, offset: Value, dither: Value) -> Value:
        bits = self.size_bits(o, o.as_bits(number))
        minus = self._minus(o, number)
        size = o.minimum(self._size(o, number, offset, dither), LARGEST_SIZE)
        code = o.where(size == 0, 0, size | minus)
        code = o.where(is_not_finite(o, bits), minus | INFINITE_SIZE, code)
        return o.where(bits > INFINITE_BITS, MINUS, code)

    def plain_least(self, scale: Value) -> Value:
        return 1


UNSIGNED = _Unsigned("unsigned8", ITEM, BLOCK)
SIGNED = _Signed("signed8", ITEM, BLOCK)
BLOCKS: dict[str, Blocks] = {codec.name: codec for codec in (UNSIGNED, SIGNED)}
