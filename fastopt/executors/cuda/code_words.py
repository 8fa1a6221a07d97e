"""Four 8-bit codes of a plain block at once, as a word: the codes of `codecs.blocks`, for devices.

A code is eight bits in the middle of a sum. Pairs of sums are joined by their upper halves, one
instruction, and two pairs by another, so that four codes take five instructions and not nine. The
formulas are written over `codecs.operations`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from fastopt.codecs.blocks import MINUS, PLAIN, SIGNED, STEP, UNSIGNED
from fastopt.codecs.operations import SIGN_BIT, SIZE_BITS, Operations, Value

LIFT = 24 - STEP  # puts a code into the uppermost byte
BASE_BITS, LEAST_BASE = 0x78000000, 1 << 27  # the bits of an exponent above those of a code
ONE_BITS = 0x3F800000  # of the number 1
EVEN = 0x00FF00FF  # every other byte of a word, from the lowest


class WordOperations(Operations, Protocol):
    """The operations of these formulas."""

    def upper_halves(self, one: Value, other: Value) -> Value:
        """A word of the upper halves of two words, that of the first one below."""

    def mixed_bits(self, mask: int, one: Value, other: Value) -> Value:
        """The bits of `one` where the mask has ones, else those of `other`."""


class WordFormat(NamedTuple):
    """How the words of a codec are computed.

    Attributes
    ----------
    lift : int
        How far sums are shifted to the left, and so what is added, `dithers`.
    word : function
        ``word(o, numbers, offset, dithers)`` of four numbers; `offset` and what `dithers` consist of
        are as in `codecs.blocks.Blocks`.
    number : function
        ``number(o, code, scale)`` of one code, see `codecs.blocks.Blocks.plain_number`.
    """

    lift: int
    word: Callable[..., Value]
    number: Callable[..., Value]


def _unsigned_word(
    o: WordOperations, numbers: Sequence[Value], offset: Value, dithers: Sequence[Value]
) -> Value:
    # A sum and its lower bound are one instruction.
    sums = [
        o.maximum(o.as_bits(number) + dither, -128 << STEP)
        for number, dither in zip(numbers, dithers, strict=True)
    ]
    even, odd = o.upper_halves(sums[0], sums[2]), o.upper_halves(sums[1], sums[3])
    cut = STEP - 16
    return o.mixed_bits(EVEN, o.shift_in_zeros(even, cut), odd << (8 - cut))


def _signed_word(
    o: WordOperations, numbers: Sequence[Value], offset: Value, dithers: Sequence[Value]
) -> Value:
    sums = []
    for number, dither in zip(numbers, dithers, strict=True):
        size = o.as_float(o.as_bits(number) & SIZE_BITS) + o.as_float(offset)
        # The size of a code has seven bits: that of the sign is zero.
        sums.append(((o.as_bits(size) << LIFT) + dither) | (o.as_bits(number) & SIGN_BIT))
    even, odd = o.upper_halves(sums[0], sums[2]), o.upper_halves(sums[1], sums[3])
    return o.mixed_bits(EVEN, o.shift_in_zeros(even, 8), odd)


def _signed_number(o: Operations, code: Value, scale: Value) -> Value:
    # As in `codecs.blocks`, but F(0) has the upper bits of the scale until the multiplication: with a
    # value in place of a constant one instruction masks the code and puts it there.
    bits, unit = o.widen_signed(code) << STEP, scale - PLAIN
    base = o.maximum(unit & BASE_BITS, LEAST_BASE)  # which it is: a mask alone would be seen through
    size = o.as_float((bits & (SIGN_BIT | (MINUS - 1) << STEP)) | base)
    factor = o.as_float(unit - base + ONE_BITS)
    return o.multiply_add(size, factor, o.as_float((bits & SIGN_BIT) ^ (unit | SIGN_BIT)))


WORDS = {
    UNSIGNED.name: WordFormat(0, _unsigned_word, UNSIGNED.plain_number),
    SIGNED.name: WordFormat(LIFT, _signed_word, _signed_number),
}
