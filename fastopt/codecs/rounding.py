"""The random bits of stochastic rounding, computed from seed, step and element.

A number between two that can be stored goes to the upper one with a probability equal to how far up it
is. The probability is compared with 32 bits. Those of a block of 256 and a step are a hash of the block
plus a part that advances by the golden ratio with each step. Those of an element are these, with bits
flipped by its position in the block: from a table with every 256th of the range once, in random order.
So the bits are spread evenly over the elements of a block and over the steps of an element, and updates
that are too small to be stored add up with less noise than independent bits would leave.

A hash for every element took 0.68 ns (float32 parameters, 8-bit state, in the cache of one core), which
is more than the step itself; the table takes one instruction for a vector. Exclusive or needs no
masking where a codec takes fewer than 32 bits, as a sum would.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from fastopt.codecs.base import BLOCK, Array
from fastopt.codecs.operations import NUMPY, Operations, Value, signed

GOLDEN = 0x9E3779B9  # 2**32 divided by the golden ratio
PER_SLOT = 0xD1B54A33  # between the arrays of one element
PHASE_BITS = 24  # what a float32 holds exactly

FACTORS = 0x85EBCA6B, 0xC2B2AE35


def mixed(o: Operations, bits: Value) -> Value:
    """Mix 32 bits so that each depends on all of them: the last step of MurmurHash3."""
    bits = (bits ^ o.shift_in_zeros(bits, 16)) * signed(FACTORS[0])
    bits = (bits ^ o.shift_in_zeros(bits, 13)) * signed(FACTORS[1])
    return bits ^ o.shift_in_zeros(bits, 16)


def hashed(numbers: Array) -> Array:
    """A hash of 32 bits for each number."""
    hashes: Array = mixed(NUMPY, numbers.astype(np.uint32).view(np.int32))
    return hashes.view(np.uint32)


@cache
def table() -> Array:
    """The bits to flip at each position in a block."""
    bits = hashed(np.arange(1, BLOCK + 1))
    order = np.argsort(bits).astype(np.uint32)
    return (order << np.uint32(24)) | (bits >> np.uint32(8))


def phase(seed: int, step: int) -> float:
    """The part of the random bits that depends on the step, as an integer in a float."""
    return float(whole_phase(seed, step))


def whole_phase(seed: int, step: Any) -> Any:
    """As `phase`, as an integer; for a step or an int64 array of steps."""
    of_seed = seed * FACTORS[0] % 2**32  # the sum fits int64, or wraps at a multiple of that
    return ((of_seed + step * GOLDEN) % 2**32) >> (32 - PHASE_BITS)


def noise(first: int, count: int, phase: float, slot: int) -> Array:
    """32 random bits for each element of an array, in one slot of a kernel.

    `first` is the index of its first element among those of all arrays.
    """
    blocks = np.arange(0, count, BLOCK, dtype=np.uint64) + np.uint64(first)
    offset = ((int(phase) << (32 - PHASE_BITS)) + slot * PER_SLOT) % 2**32
    with np.errstate(over="ignore"):
        bits: Array = (hashed(blocks) + np.uint32(offset))[:, None] ^ table()
    return bits.reshape(-1)[:count]
