"""Elements that are floating-point numbers by themselves."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any

import numpy as np

from fastopt.codecs.base import Array, Codec

NAMES = ("float16", "bfloat16", "float32", "float64")


class Float(Codec):
    """One number an element."""

    def decode(self, stored: Array, compute: np.dtype[Any]) -> Array:
        with np.errstate(all="ignore"):  # signalling NaN
            return stored.reshape(-1).astype(compute)

    def encode(self, numbers: Array, noise: Array | None) -> Array:
        with np.errstate(all="ignore"):
            if noise is not None and self.name in _UNBIASED:
                numbers = _UNBIASED[self.name](numbers, noise)
            return numbers.astype(self.dtype)

    def fill(self, stored: Array, number: float) -> None:
        with np.errstate(all="ignore"):
            stored[...] = number


def _towards_float16(numbers: Array, noise: Array) -> Array:
    """Numbers that float16 can represent: one of the two neighbours."""
    # Under 2**-14 float16 has a fixed spacing, 2**-24: that of bit 13 of a float32 with 2**-14 added.
    sizes, smallest = np.abs(numbers), np.float32(2.0**-14)
    lift = np.where(sizes < smallest, smallest, np.float32(0.0))
    bits = (sizes + lift).view(np.uint32) + (noise >> np.uint32(19))
    rounded = (bits & np.uint32(0xFFFFE000)).view(np.float32) - lift
    return np.where(np.isfinite(numbers), np.copysign(rounded, numbers), numbers)


def _towards_bfloat16(numbers: Array, noise: Array) -> Array:
    """Numbers that bfloat16 can represent: one of the two neighbours."""
    bits = numbers.view(np.uint32) + (noise >> np.uint32(16))
    rounded = (bits & np.uint32(0xFFFF0000)).view(np.float32)
    return np.where(np.isfinite(numbers), rounded, numbers)


_UNBIASED = {"float16": _towards_float16, "bfloat16": _towards_bfloat16}


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
        return Float(name, np.dtype(ml_dtypes.bfloat16))
    return Float(name, np.dtype(name))


def rounded_towards(numbers: Any, dtype: np.dtype[Any], direction: float) -> Any:
    """Limits in another dtype: up with the `direction` infinity, down with minus infinity.

    So they let nothing through that they exclude.

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


@lru_cache
def name_of(dtype: np.dtype[Any]) -> str | None:
    """The name of a floating-point format that can be computed with, in whatever byte order."""
    name = dtype.newbyteorder("=").name
    return name if name in NAMES else None


def compute_dtype(name: str) -> np.dtype[Any]:
    """What parameters of a format are computed in: 16 bits are too few for arithmetic."""
    return np.dtype(np.float64 if name == "float64" else np.float32)
