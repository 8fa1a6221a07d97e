"""Eight bits an element: codes in blocks of 256, with a scale each.

Both formats are floating-point numbers of one byte, relative to a scale for each block, so that
decoding is exact. The lowest bits of a scale say which codes its block has.

**Plain blocks** are those whose numbers are all finite. Their codes take few instructions.

`UNSIGNED` is for accumulators that are never negative, such as averages of squares: three bits of
mantissa over 32 powers of two, down from the largest number of the block. A code is the upper bits of a
float32 less those of the smallest number, which is the scale. Whatever is below, zero too, has the code
of the smallest. So nothing above zero falls to zero, where a step would be divided by its root, and
zeros need no instructions. A block of zeros is exact: its scale is zero.

`SIGNED` is for momentum: a sign, and sizes ``F(c) - F(0)`` where ``F`` has three bits of mantissa over
16 powers of two, and ``F(0)`` is the scale. So the spacing is relative far from zero and even near it,
and zero is a code.

**Other blocks** have codes for infinity and NaN, or were written before there were marks. Without a
sign these have zero, three bits of mantissa over 28 powers of two, and two bits over seven more. They
are read as they are, and a step writes them anew.

Times in the caches of one core of an EPYC, as multiples of those now: with the former codes for all
blocks RMSProp in float16 took 1.28, Adam in float32 1.16. A range of 36 powers of two, of which 12 have
two bits of mantissa, takes 1.16 and 1.12.

Decoded numbers are encoded to the same codes again. Nearest rounding is off by 1/16 at most.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np

from fastopt.codecs.base import BLOCK, Array, Codec, DType, flat
from fastopt.codecs.operations import NUMPY, SIGN_BIT, SIZE_BITS, Operations, Value, quiet

ITEM = np.dtype([("scale", np.float32), ("codes", np.uint8, BLOCK)])
CODES_AT = ITEM.fields["codes"][1] if ITEM.fields else 0  # bytes into an item

# In the bits of a float32:
STEP = 20  # adding one here is one code further, an eighth of a power of two
EXPONENT = 23
MANTISSA = (1 << EXPONENT) - 1
INFINITE_BITS = 0x7F800000
NAN_BITS = 0x7FC00000

NORMAL_BITS = 1 << EXPONENT  # of the smallest number above the subnormal ones, which are slow
TWO_BITS = 0x40000000

PLAIN = 1  # a mark, the lowest bits of a scale
MARKS = 3

# UNSIGNED: LEAST is the code of the scale, which is the smallest number of the block. OTHER marks
# blocks with codes for infinity and NaN above those of numbers.
LEAST, LARGEST, INFINITE, NAN = -128, 125, 126, 127
OTHER = 3
MOST_BITS = INFINITE_BITS - (1 << STEP)  # of the largest number, 1.875 * 2**127

# UNSIGNED before there were marks: 0 is zero, then come finite numbers, infinity and NaN. Codes up to
# COARSE are two steps apart. The one below OLD_INFINITE stands for 1.875 times the scale.
OLD_INFINITE = 254
COARSE = 32
TO_BASE = (OLD_INFINITE + COARSE - 8) << STEP

# SIGNED: the lower seven bits are the size, up to LARGEST_SIZE. The scale is F(0), and LARGEST_SIZE
# stands for 1.75 * 2**15 - 1 of it. Blocks that are not plain have infinity too, and minus zero is NaN.
# A scale is a power of two, DOWN below that of the largest number, or of the next one if the largest
# code does not reach so far, which a sum with UP finds.
LARGEST_SIZE, INFINITE_SIZE, MINUS = 126, 127, 0x80
UP, DOWN = (1 << (STEP + 1)) + 255, 15
LEAST_SCALE_BITS = (127 - 110) << EXPONENT  # 2**-110: no code stands for a subnormal number


class Blocks(Codec):
    """Codes with a scale for each block.

    The formulas are written over `codecs.operations`, for arrays and for compiled code alike. What is
    added before a code is cut off, `dither`, has `STEP` lower bits of noise, or a half. A block's scale
    is given as its bits, with the mark.
    """

    has_sign: bool
    plain_most: int  # bits of the largest number that a plain block can have

    @abstractmethod
    def plain_number(self, o: Operations, code: Value, scale: Value) -> Value:
        """The number of a code in a plain block."""

    @abstractmethod
    def other_number(self, o: Operations, code: Value, scale: Value) -> Value:
        """The number of a code in another block."""

    def number(self, o: Operations, code: Value, scale: Value) -> Value:
        """The number of a code in any block."""
        plain, other = (f(o, code, scale) for f in (self.plain_number, self.other_number))
        return o.where(is_plain(scale), plain, other)

    @abstractmethod
    def offsets(self, scale: Value) -> tuple[Value, Value]:
        """Two constants of a block: `offset`, and the part of `dither` above its lower bits."""

    @abstractmethod
    def plain_code(self, o: Operations, number: Value, offset: Value, dither: Value) -> Value:
        """The code of a number of a plain block, as a byte with a sign."""

    @abstractmethod
    def other_code(self, o: Operations, number: Value, offset: Value, dither: Value) -> Value:
        """The code of any number, in another block."""

    def size_bits(self, o: Operations, bits: Value) -> Value:
        """Integers that compare as magnitudes do; without a sign, negative numbers come first."""
        return bits & SIZE_BITS if self.has_sign else bits

    @abstractmethod
    def scale_bits(self, o: Operations, largest: Value, plain: Value) -> Value:
        """The bits of a block's scale, from those of its largest finite number."""

    @quiet
    def decode(self, stored: Array, compute: DType) -> Array:
        items = flat(stored)
        scale = np.ascontiguousarray(items["scale"]).view(np.int32)[:, None]
        numbers: Array = self.number(NUMPY, np.ascontiguousarray(items["codes"]), scale)
        return numbers.reshape(-1).astype(compute)

    @quiet
    def encode(self, numbers: Array, noise: Array | None) -> Array:
        missing = -numbers.size % BLOCK
        padded = np.append(numbers.astype(np.float32), np.zeros(missing, np.float32)).reshape(-1, BLOCK)
        bits = None
        if noise is not None:
            bits = np.append(noise, np.zeros(missing, np.uint32)).reshape(-1, BLOCK)
        sizes = self.size_bits(NUMPY, padded.view(np.int32))
        # An infinity or NaN affects its own element only, not the scale.
        largest = larger_finite(NUMPY, np.int32(0), sizes).max(axis=1, initial=0)
        plain = (sizes.view(np.uint32) <= self.plain_most).all(axis=1)
        scale = self.scale_bits(NUMPY, largest, plain)
        result = np.zeros(len(padded), ITEM)
        result["scale"] = scale.view(np.float32)
        result["codes"] = self.codes(padded, scale[:, None], bits)
        return result

    @quiet
    def codes(self, numbers: Array, scale: Array, noise: Array | None) -> Array:
        """The codes of an array, given the bits of scales and 32 random bits for each number."""
        lower: Any = np.int32(1 << (STEP - 1))
        if noise is not None:
            lower = (noise >> np.uint32(32 - STEP)).astype(np.int32)
        offset, constant = self.offsets(scale)
        arguments = NUMPY, numbers, offset, constant | lower
        codes = self.plain_code(*arguments), self.other_code(*arguments)
        words = NUMPY.where(is_plain(scale), *codes)
        chosen: Array = (words & 0xFF).astype(np.uint8)
        return chosen


def is_plain(scale: Value) -> Value:
    """Whether a scale, given by its bits, is that of a plain block."""
    return (scale & MARKS) == PLAIN


def is_not_finite(o: Operations, size: Value) -> Value:
    """Whether the bits of a magnitude, or of a number with a sign, are those of an infinity or NaN."""
    return size >= INFINITE_BITS


def larger_finite(o: Operations, largest: Value, size: Value) -> Value:
    """The larger magnitude, as bits; one that is not finite counts as zero."""
    return o.maximum(largest, o.where(is_not_finite(o, size), 0, size))


class _Unsigned(Blocks):
    has_sign = False
    plain_most = MOST_BITS

    def plain_number(self, o: Operations, code: Value, scale: Value) -> Value:
        return o.as_float((o.widen_signed(code) << STEP) + (scale - (LEAST << STEP) - PLAIN))

    def other_number(self, o: Operations, code: Value, scale: Value) -> Value:
        wide = o.widen_signed(code)
        bits = (wide << STEP) + (scale - (LEAST << STEP) - OTHER)
        bits = o.where(wide >= INFINITE, _special(wide - INFINITE), bits)
        return o.as_float(o.where((scale & MARKS) == OTHER, bits, self._old_bits(o, code, scale)))

    def _old_bits(self, o: Operations, code: Value, scale: Value) -> Value:
        wide = o.widen(code)
        base = o.where(code == 0, 0, scale - TO_BASE)
        bits = ((wide + o.minimum(wide, COARSE)) << STEP) + base
        return o.where(wide >= OLD_INFINITE, _special(wide - OLD_INFINITE), bits)

    def offsets(self, scale: Value) -> tuple[Value, Value]:
        return scale, (LEAST << STEP) - (scale & ~MARKS)

    def plain_code(self, o: Operations, number: Value, offset: Value, dither: Value) -> Value:
        return o.signed_byte(o.as_bits(number) + dither, STEP)

    def other_code(self, o: Operations, number: Value, offset: Value, dither: Value) -> Value:
        bits = o.as_bits(number)
        code = o.minimum(o.signed_byte(o.maximum(bits, 0) + dither, STEP), LARGEST)
        return o.where(o.is_nan(number), NAN, o.where(is_not_finite(o, bits), INFINITE, code))

    def scale_bits(self, o: Operations, largest: Value, plain: Value) -> Value:
        up = o.minimum((largest + ((1 << STEP) - 1)) & ~((1 << STEP) - 1), MOST_BITS)
        codes, mark = o.where(plain, NAN - LEAST, LARGEST - LEAST), o.where(plain, PLAIN, OTHER)
        return o.where(largest == 0, 0, o.maximum(up - (codes << STEP), NORMAL_BITS)) | mark


def _special(number: Value) -> Value:
    """The bits of infinity and of NaN, for 0 and 1."""
    return (number << (EXPONENT - 1)) + INFINITE_BITS


class _Signed(Blocks):
    has_sign = True
    plain_most = INFINITE_BITS - 1 - UP

    def plain_number(self, o: Operations, code: Value, scale: Value) -> Value:
        # As below, but F(0) is 2 until a multiplication, which makes one instruction with the sum.
        bits, factor = self._signed_size(o, code), o.as_float(scale - (PLAIN + (1 << EXPONENT)))
        minus_unit = (bits & SIGN_BIT) ^ ((scale - PLAIN) | SIGN_BIT)
        return o.multiply_add(o.as_float(bits | TWO_BITS), factor, o.as_float(minus_unit))

    def _signed_size(self, o: Operations, code: Value) -> Value:
        return (o.widen_signed(code) << STEP) & (SIGN_BIT | (MINUS - 1) << STEP)

    def other_number(self, o: Operations, code: Value, scale: Value) -> Value:
        signed_size = self._signed_size(o, code)
        number = o.as_float(scale + (signed_size & SIZE_BITS)) - o.as_float(scale)
        sign = signed_size & SIGN_BIT
        bits = o.where((code & (MINUS - 1)) == INFINITE_SIZE, INFINITE_BITS, o.as_bits(number))
        return o.as_float(o.where(code == MINUS, NAN_BITS, bits | sign))

    def offsets(self, scale: Value) -> tuple[Value, Value]:
        unmarked = scale & ~MARKS
        return unmarked, 0 - unmarked

    def plain_code(self, o: Operations, number: Value, offset: Value, dither: Value) -> Value:
        # The size of a code has seven bits: above them is room for the sign.
        size = self._size(o, number, offset, dither) << (24 - STEP)
        return o.shift_in_zeros(size | (o.as_bits(number) & SIGN_BIT), 24)

    def _size(self, o: Operations, number: Value, offset: Value, dither: Value) -> Value:
        """The size of a code, above `STEP` lower bits."""
        size = o.as_float(o.as_bits(number) & SIZE_BITS)
        return o.as_bits(size + o.as_float(offset)) + dither

    def _minus(self, o: Operations, number: Value) -> Value:
        return (o.as_bits(number) >> 24) & -MINUS

    def other_code(self, o: Operations, number: Value, offset: Value, dither: Value) -> Value:
        bits = self.size_bits(o, o.as_bits(number))
        minus = self._minus(o, number)
        size = o.minimum(self._size(o, number, offset, dither) >> STEP, LARGEST_SIZE)
        code = o.where(size == 0, 0, size | minus)
        code = o.where(is_not_finite(o, bits), minus | INFINITE_SIZE, code)
        return o.where(bits > INFINITE_BITS, -MINUS, code)

    def scale_bits(self, o: Operations, largest: Value, plain: Value) -> Value:
        power = (o.minimum(largest, self.plain_most) + UP) & ~MANTISSA
        return o.maximum(power - (DOWN << EXPONENT), LEAST_SCALE_BITS) | o.where(plain, PLAIN, 0)


UNSIGNED = _Unsigned("unsigned8", ITEM, BLOCK)
SIGNED = _Signed("signed8", ITEM, BLOCK)
BLOCKS: dict[str, Blocks] = {codec.name: codec for codec in (UNSIGNED, SIGNED)}
