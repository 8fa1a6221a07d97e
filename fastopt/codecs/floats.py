"""Codecs of the floating-point formats: float16, bfloat16, float32 and float64."""

from __future__ import annotations

import math
from functools import cache, lru_cache
from typing import Any

import numpy as np

from fastopt.codecs.base import Array, Codec
from fastopt.codecs.formats import FORMATS
from fastopt.codecs.operations import NUMPY, SIGN_BIT, SIZE_BITS, Operations, Value, quiet

SMALLEST_FLOAT16 = 2.0**-14  # of full precision


class Float(Codec):
    """A codec whose elements are numbers of a NumPy dtype."""

    @quiet
    def decode(self, stored: Array, compute: np.dtype[Any]) -> Array:
        return stored.reshape(-1).astype(compute)

    @quiet
    def encode(self, numbers: Array, noise: Array | None) -> Array:
        if noise is not None and self.name == "float16":
            numbers = float16_neighbour(NUMPY, numbers, _cut(noise, self.name))
        return numbers.astype(self.dtype)

    @quiet
    def fill(self, stored: Array, number: float) -> None:
        stored[...] = number


class _BFloat16(Float):
    """The codec of bfloat16, the upper half of a float32."""

    @quiet
    def decode(self, stored: Array, compute: np.dtype[Any]) -> Array:
        numbers: Array = from_bfloat16(NUMPY, stored.reshape(-1).view(np.uint16))
        return numbers.astype(compute)

    @quiet
    def encode(self, numbers: Array, noise: Array | None) -> Array:
        single = numbers.astype(np.float32, copy=False)
        if noise is None:
            bits: Array = nearest_bfloat16(NUMPY, single)
        else:
            bits = random_bfloat16(NUMPY, single, _cut(noise, self.name))
        return bits.astype(np.uint16).view(self.dtype)


def _cut(noise: Array, name: str) -> Array:
    """The random bits for a format: as many as it cuts off of a float32."""
    return (noise >> np.uint32(32 - FORMATS[name].cut)).astype(np.int32)


# The formulas, over `codecs.operations`. `noise` has as many random bits as are cut off: the result is
# one of the two neighbours of a number in the format.


def float16_neighbour(o: Operations, number: Value, noise: Value) -> Value:
    """Round a float32 stochastically to a neighbour that float16 can represent."""
    # Under 2**-14 float16 has a fixed spacing, 2**-24: that of bit 13 of a float32 with 2**-14 added.
    bits = o.as_bits(number)
    size = o.as_float(bits & SIZE_BITS)
    lift = o.where(size < SMALLEST_FLOAT16, SMALLEST_FLOAT16, 0.0)
    noisy = o.as_bits(size + lift) + noise
    rounded = o.as_bits(o.as_float(noisy & -(1 << FORMATS["float16"].cut)) - lift)
    return o.where(size < math.inf, o.as_float(rounded | (bits & SIGN_BIT)), number)


def from_bfloat16(o: Operations, half: Value) -> Value:
    """Convert the bits of a bfloat16 to float32."""
    return o.as_float(o.widen(half) << 16)


def nearest_bfloat16(o: Operations, number: Value) -> Value:
    """The bits of the nearest bfloat16, ties to even."""
    bits = o.as_bits(number)
    odd = o.shift_in_zeros(bits, 16) & 1  # an odd number above a half is more than a half
    return _upper_half(o, number, (bits | odd) + 0x7FFF)


def random_bfloat16(o: Operations, number: Value, noise: Value) -> Value:
    """The bits of a neighbouring bfloat16, by stochastic rounding."""
    return _upper_half(o, number, o.as_bits(number) + noise)


def _upper_half(o: Operations, number: Value, rounded: Value) -> Value:
    nan = o.shift_in_zeros(o.as_bits(number), 16) | 0x7FC0
    # Infinity stays what it is: its lower bits are 0.
    return o.where(o.is_nan(number), nan, o.shift_in_zeros(rounded, 16))


@cache
def floats(name: str) -> Float:
    """The codec of a floating-point format.

    Raises
    ------
    ImportError
        bfloat16 needs ml_dtypes, which is not installed.
    """
    if name == "bfloat16":
        try:
            import ml_dtypes
        except ImportError as error:
            message = "bfloat16 needs ml_dtypes: pip install ml_dtypes"
            raise ImportError(message) from error
        return _BFloat16(name, np.dtype(ml_dtypes.bfloat16))
    return Float(name, np.dtype(name))


def rounded_towards(numbers: Any, dtype: np.dtype[Any], direction: float) -> Any:
    """Round limits to another dtype: up if `direction` is infinity, down if it is minus infinity.

    So rounding lets nothing pass that the limit excludes.
    """
    with np.errstate(all="ignore"):
        near = np.asarray(numbers).astype(dtype)
        wide = near.astype(np.float64)
        beyond = wide < numbers if direction > 0 else wide > numbers
        return np.where(beyond, np.nextafter(near, dtype.type(direction)), near)


@lru_cache(maxsize=1024)
def limit_in(name: str, number: float, direction: float) -> float:
    """A limit in a format, rounded inwards."""
    return float(rounded_towards(number, floats(name).dtype, direction))
