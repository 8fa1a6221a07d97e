"""The random bits of stochastic rounding: from seed, step and element, so that nothing is stored.

A number between two that can be stored goes to the upper one with a probability equal to how far up
it is. The probability is compared with 32 bits: a hash of the element's number, plus a phase that moves
on by the golden ratio from step to step. Over the elements they are random; over the steps of one
element they are spread as evenly as can be, so that small updates add up with less noise than
independent bits would leave.
"""

from __future__ import annotations

import numpy as np

from fastopt.codecs.base import Array

GOLDEN = 0x9E3779B9  # 2**32 divided by the golden ratio
PER_SLOT = 0xD1B54A33  # between the arrays of one element
FACTORS = 0x85EBCA6B, 0xC2B2AE35  # of the hash: those of MurmurHash3's last step
SHIFTS = 16, 13, 16

PHASE_BITS = 24  # what a float32 holds exactly


def phase(seed: int, step: int) -> float:
    """What steps contribute to the bits: the upper bits of a 32-bit number, as a whole float."""
    return float(((seed * FACTORS[0] + step * GOLDEN) % 2**32) >> (32 - PHASE_BITS))


def noise(first: int, count: int, phase: float, slot: int) -> Array:
    """32 random bits for each of the elements from number `first` on, in one slot of a kernel."""
    with np.errstate(over="ignore"):
        bits = (np.arange(count, dtype=np.uint64) + np.uint64(first)).astype(np.uint32)
        for shift, factor in zip(SHIFTS, (*FACTORS, 1), strict=True):
            bits = (bits ^ (bits >> np.uint32(shift))) * np.uint32(factor)
        offset = ((int(phase) << (32 - PHASE_BITS)) + slot * PER_SLOT) % 2**32
        return bits + np.uint32(offset)
