"""A format for arrays that the package does not have, complete: what CONTRIBUTING asks of one.

float8_e5m2 is the upper half of a float16: a sign, five bits of exponent and two of mantissa.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fastopt.codecs import formats
from fastopt.codecs.operations import SIGN_BIT, SIZE_BITS, Operations, Value

CUT = 21  # bits of a float32's mantissa that are not kept
SMALLEST = 2.0**-14  # of full precision
FIXED, FIXED_BITS = 2.0**7, (127 + 7) << 23  # a float32 from here on has the spacing of smaller ones
EXPONENT = (127 - 15) << 2  # what a float32's exponent is larger by, in units of a code
INFINITE, NAN, SIZE = 0x7C, 0x7E, 0x7F
INFINITE_BITS = 0x7F800000


def number(o: Operations, code: Value) -> Value:
    """The float32 of a code."""
    wide = o.widen(code)
    size = wide & SIZE
    # Subnormal codes count up from zero as the first ones of full precision do from `SMALLEST`.
    is_small = size < 4
    bits = (size + o.where(is_small, EXPONENT + 4, EXPONENT)) << CUT
    finite = o.as_bits(o.as_float(bits) - o.where(is_small, SMALLEST, 0.0))
    special = ((size - INFINITE) << CUT) | INFINITE_BITS
    return o.as_float(o.where(size < INFINITE, finite, special) | ((wide & 0x80) << 24))


def nearest(o: Operations, number: Value) -> Value:
    """The nearest code, ties to even."""
    size = _size(o, number)
    bits = o.as_bits(size)
    odd = (bits >> CUT) & 1  # an odd code above a half is more than a half
    code = ((bits + (odd + ((1 << (CUT - 1)) - 1))) >> CUT) - EXPONENT
    small = o.as_bits(size + FIXED) - FIXED_BITS
    return _code(o, number, o.where(size < SMALLEST, small, code))


def stochastic(o: Operations, number: Value, noise: Value) -> Value:
    """The code of a neighbour, by `CUT` random bits."""
    size = _size(o, number)
    is_small = size < SMALLEST  # then `SMALLEST` added gives the spacing of the codes there
    lifted = o.as_bits(size + o.where(is_small, SMALLEST, 0.0))
    code = ((lifted + noise) >> CUT) - o.where(is_small, EXPONENT + 4, EXPONENT)
    return _code(o, number, code)


def _size(o: Operations, number: Value) -> Value:
    return o.as_float(o.as_bits(number) & SIZE_BITS)


def _code(o: Operations, number: Value, size: Value) -> Value:
    """The code of a number, whose magnitude has this code if it is finite."""
    size = o.where(o.is_nan(number), NAN, o.minimum(size, INFINITE))
    return size | o.shift_in_zeros(o.as_bits(number) & SIGN_BIT, 24)


FLOAT8 = formats.Format(
    "float8_e5m2", 1, dlpack=12, cut=CUT, number=number, nearest=nearest, stochastic=stochastic
)


@contextmanager
def registered() -> Iterator[None]:
    """Let arrays of the format be used; a program registers it once and for all."""
    formats.register(FLOAT8)
    try:
        yield
    finally:
        del formats.FORMATS[FLOAT8.name]
        formats.name_of.cache_clear()
