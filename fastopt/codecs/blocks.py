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

ITEM = np.dtype([("scale", np.float32), ("codes", np.uint8, BLOCK)])
CODES_AT = ITEM.fields["codes"][1] if ITEM.fields else 0  # bytes into an item

# In the bits of a float32:
STEP = 20  # adding one here is one code further, an eighth of a power of two
EXPONENT = 23
MANTISSA = (1 << EXPONENT) - 1
INFINITE_BITS = 0x7F800000
SIZE_BITS = 0x7FFFFFFF
SIGN_BIT = 0x80000000

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
    """Codes with a scale for each block."""

    scaling: Scaling
    has_sign: bool
    dither: int  # what is added before codes are cut off has so many bits

    def decode(self, stored: Array, compute: np.dtype[Any]) -> Array:
        items = stored.reshape(-1)
        scale = items["scale"].view(np.int32).astype(np.int64)[:, None]
        with np.errstate(all="ignore"):
            numbers: Array = self.numbers_of(items["codes"].astype(np.int64), scale)
            return numbers.reshape(-1).astype(compute)

    def encode(self, numbers: Array, noise: Array | None) -> Array:
        missing = -numbers.size % BLOCK
        with np.errstate(all="ignore"):
            filled = np.append(numbers.astype(np.float32), np.zeros(missing, np.float32))
        flat = filled.reshape(-1, BLOCK)
        if noise is None:
            part = np.full(flat.shape, 1 << (self.dither - 1), np.int64)
        else:
            padded = np.append(noise, np.zeros(missing, np.uint32)).reshape(-1, BLOCK)
            part = (padded >> np.uint32(32 - self.dither)).astype(np.int64)
        sizes = flat.view(np.int32).astype(np.int64)
        if self.has_sign:
            sizes &= SIZE_BITS
        # What is not finite concerns its own element only.
        largest = np.where(sizes < INFINITE_BITS, sizes, 0).max(axis=1, initial=0)
        scale = self.scale_of(largest)
        result = np.zeros(len(flat), ITEM)
        result["scale"] = scale.astype(np.int32).view(np.float32)
        with np.errstate(all="ignore"):  # signalling NaN
            result["codes"] = self.codes_of(flat, scale[:, None], part)
        return result

    def scale_of(self, largest: Array) -> Array:
        """The bits of scales, from those of the largest finite number of each block."""
        to = self.scaling
        power = (np.minimum(largest, to.most) + to.up) & ~MANTISSA
        result: Array = np.maximum(power - (to.down << EXPONENT), to.least_bits)
        return result

    def numbers_of(self, codes: Array, scale: Array) -> Array:
        """What codes stand for, given the bits of the blocks' scales."""
        raise NotImplementedError

    def codes_of(self, numbers: Array, scale: Array, part: Array) -> Array:
        """Codes, given the bits of scales; `part` is what is added before the rest is cut off."""
        raise NotImplementedError


class _Unsigned(Blocks):
    scaling = Scaling(up=(1 << STEP) - 1, down=0, least=2.0**-90)
    has_sign = False
    dither = STEP + 1

    def numbers_of(self, codes: Array, scale: Array) -> Array:
        bits = scale - TO_BASE + ((codes + np.minimum(codes, COARSE)) << STEP)
        bits = np.where(codes == 0, 0, bits)
        special = INFINITE_BITS + ((codes - INFINITE) << (EXPONENT - 1))
        return np.where(codes >= INFINITE, special, bits).astype(np.int32).view(np.float32)

    def codes_of(self, numbers: Array, scale: Array, part: Array) -> Array:
        bits = numbers.view(np.int32).astype(np.int64)
        above = bits - (scale - TO_BASE)
        coarse, finer = above, 2 * above - (COARSE << self.dither)
        codes = (np.maximum(coarse, finer) + part) >> self.dither
        codes = np.clip(codes, 1, INFINITE)  # infinity is above all scales
        codes = np.where(bits > 0, codes, 0)
        return np.where(np.isnan(numbers), NAN, codes)


class _Signed(Blocks):
    scaling = Scaling(up=(1 << (STEP + 1)) + 255, down=15, least=2.0**-110)
    has_sign = True
    dither = STEP

    def numbers_of(self, codes: Array, scale: Array) -> Array:
        size = codes & ~MINUS
        at_zero = scale.astype(np.int32).view(np.float32)
        numbers = (scale + (size << STEP)).astype(np.int32).view(np.float32) - at_zero
        numbers = np.where(size == INFINITE_SIZE, np.float32(np.inf), numbers)
        numbers = np.where(codes >= MINUS, -numbers, numbers)
        return np.where(codes == MINUS, np.float32(np.nan), numbers)

    def codes_of(self, numbers: Array, scale: Array, part: Array) -> Array:
        shifted = np.abs(numbers) + scale.astype(np.int32).view(np.float32)
        above = shifted.view(np.int32).astype(np.int64) - scale
        size = np.minimum((above + part) >> STEP, LARGEST_SIZE)
        size = np.where(np.isinf(numbers), INFINITE_SIZE, size)
        codes = np.where((numbers < 0) & (size > 0), size | MINUS, size)
        return np.where(np.isnan(numbers), MINUS, codes)


UNSIGNED = _Unsigned("unsigned8", ITEM, BLOCK)
SIGNED = _Signed("signed8", ITEM, BLOCK)
