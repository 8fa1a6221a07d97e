"""Numbers in two arrays: one of 16 bits that the model sees, and a correction beside it.

A correction of 16 bits makes float32 of them (`master_bits=32`), one of 8 bits numbers of 24 bits. The
16-bit number is the wide one rounded to nearest, ties away from zero: with ties to even, 65,537 numbers
of float32 would show as each even bfloat16, one more than 16 bits can tell apart. A correction is the
distance from there in units of the wide number's last place.

The formulas are written over `codecs.operations`. ``join(o, half, rest, width)`` gives the wide number
as float32, and ``divide(o, number, width)`` the bits of both parts, in the lower bits of integers, from
a float32. `width` is that of the correction, 8 or 16. NaN is made canonical, since processors have
different ones.

A zero that was assigned to the 16-bit number stays zero, whatever the correction says: subtracted from
the bits of a zero, it would make them those of a NaN.
"""

from __future__ import annotations

from fastopt.codecs.half_precision import BFLOAT16_CUT, FLOAT16_CUT, SMALLEST_FLOAT16
from fastopt.codecs.operations import SIGN_BIT, SIZE_BITS, Operations, Value

INFINITE, NAN = 0x7F800000, 0x7FC00000  # in float32
HALF_SIZE, HALF_INFINITE, HALF_NAN = 0x7FFF, 0x7C00, 0x7E00  # in float16
BEYOND_FLOAT16 = 65536.0

# What the exponent of a float16 lacks in float32. Below `SMALLEST_FLOAT16` its spacing is fixed: that
# of numbers with `SMALLEST_FLOAT16` added, whose exponent is one higher.
REBIAS, LIFTED = (127 - 15) << 23, (127 - 14) << 23


def join_bfloat16(o: Operations, half: Value, rest: Value, width: int) -> Value:
    """Join a bfloat16 and its correction."""
    upper = o.widen(half) << BFLOAT16_CUT
    bits = upper + (o.widen_signed(rest) << (BFLOAT16_CUT - width))
    return o.as_float(o.where((bits ^ upper) < 0, upper, bits))


def divide_bfloat16(o: Operations, number: Value, width: int) -> tuple[Value, Value]:
    """Divide a float32 into a bfloat16 and its correction."""
    cut = BFLOAT16_CUT - width
    bits = _rounded(o, o.where(o.is_nan(number), NAN, o.as_bits(number)), cut)
    return o.shift_in_zeros(bits + (1 << (BFLOAT16_CUT - 1)), BFLOAT16_CUT), bits >> cut


def join_float16(o: Operations, half: Value, rest: Value, width: int) -> Value:
    """Join a float16 and its correction."""
    wide = o.widen(half)
    half_size = wide & HALF_SIZE
    size = (half_size << FLOAT16_CUT) + (o.widen_signed(rest) << _cut_beside_float16(width))
    size = o.maximum(size, 0)
    small = size < (1 << 23)
    number = o.as_float(size + o.where(small, LIFTED, REBIAS)) - o.where(small, SMALLEST_FLOAT16, 0.0)
    special = o.where(half_size > HALF_INFINITE, NAN, INFINITE)
    bits = o.where(size >= (HALF_INFINITE << FLOAT16_CUT), special, o.as_bits(number))
    return o.as_float(bits | ((wide << 16) & SIGN_BIT))


def divide_float16(o: Operations, number: Value, width: int) -> tuple[Value, Value]:
    """Divide a float32 into a float16 and its correction."""
    bits, cut = o.as_bits(number), _cut_beside_float16(width)
    positive = o.as_float(bits & SIZE_BITS)
    small = positive < SMALLEST_FLOAT16
    lifted = o.as_bits(positive + o.where(small, SMALLEST_FLOAT16, 0.0))
    size = _rounded(o, lifted, cut) - o.where(small, LIFTED, REBIAS)
    size = o.where(positive >= BEYOND_FLOAT16, HALF_INFINITE << FLOAT16_CUT, size)
    half_size = o.shift_in_zeros(size + (1 << (FLOAT16_CUT - 1)), FLOAT16_CUT)
    rest = (size - (half_size << FLOAT16_CUT)) >> cut
    half = half_size | (o.shift_in_zeros(bits, 16) & 0x8000)
    is_nan = o.is_nan(number)
    return o.where(is_nan, HALF_NAN, half), o.where(is_nan, 0, rest)


def _cut_beside_float16(width: int) -> int:
    """The bits of a float32 that are not kept; three of 16 are not needed."""
    return FLOAT16_CUT - min(width, FLOAT16_CUT)


def _rounded(o: Operations, bits: Value, cut: int) -> Value:
    """Round to nearest, ties to even, what is left when the lower bits are cut off."""
    if cut == 0:
        return bits
    odd = o.shift_in_zeros(bits, cut) & 1  # an odd number above a half is more than a half
    return (bits | odd) + ((1 << (cut - 1)) - 1)
