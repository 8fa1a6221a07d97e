"""The formulas of the 16-bit formats, over `codecs.operations`.

`noise` has as many random bits as a format cuts off of a float32: the result is one of the two
neighbours of a number in the format.
"""

from __future__ import annotations

import math

from fastopt.codecs.operations import SIGN_BIT, SIZE_BITS, Operations, Value

FLOAT16_CUT, BFLOAT16_CUT = 13, 16  # bits of a float32 that are not kept
SMALLEST_FLOAT16 = 2.0**-14  # of full precision


def float16_neighbour(o: Operations, number: Value, noise: Value) -> Value:
    """Round a float32 stochastically to a neighbour that float16 can represent."""
    # Under 2**-14 float16 has a fixed spacing, 2**-24: that of bit 13 of a float32 with 2**-14 added.
    bits = o.as_bits(number)
    size = o.as_float(bits & SIZE_BITS)
    lift = o.where(size < SMALLEST_FLOAT16, SMALLEST_FLOAT16, 0.0)
    noisy = o.as_bits(size + lift) + noise
    rounded = o.as_bits(o.as_float(noisy & -(1 << FLOAT16_CUT)) - lift)
    return o.where(size < math.inf, o.as_float(rounded | (bits & SIGN_BIT)), number)


def from_bfloat16(o: Operations, half: Value) -> Value:
    """Convert the bits of a bfloat16 to float32."""
    return o.as_float(o.widen(half) << BFLOAT16_CUT)


def nearest_bfloat16(o: Operations, number: Value) -> Value:
    """The bits of the nearest bfloat16, ties to even."""
    return _or_nan(o, number, quiet_nearest_bfloat16(o, number))


def random_bfloat16(o: Operations, number: Value, noise: Value) -> Value:
    """The bits of a neighbouring bfloat16, by stochastic rounding."""
    return _or_nan(o, number, quiet_random_bfloat16(o, number, noise))


def _or_nan(o: Operations, number: Value, half: Value) -> Value:
    nan = o.shift_in_zeros(o.as_bits(number), 16) | 0x7FC0
    return o.where(o.is_nan(number), nan, half)


# What follows is right for infinity, whose lower bits are 0, and for NaN if it is quiet and they are 0.


def quiet_nearest_bfloat16(o: Operations, number: Value) -> Value:
    """As `nearest_bfloat16`, where every NaN is quiet and a bfloat16."""
    bits = o.as_bits(number)
    odd = o.shift_in_zeros(bits, 16) & 1  # an odd number above a half is more than a half
    return o.shift_in_zeros((bits | odd) + 0x7FFF, 16)


def quiet_random_bfloat16(o: Operations, number: Value, noise: Value) -> Value:
    """As `random_bfloat16`, where every NaN is quiet and a bfloat16."""
    return o.shift_in_zeros(o.as_bits(number) + noise, 16)
