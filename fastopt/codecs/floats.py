"""The codec of the floating-point formats."""

from __future__ import annotations

from functools import cache, lru_cache
from importlib import import_module
from typing import Any

import numpy as np

from fastopt.codecs.base import Array, Codec, DType, flat
from fastopt.codecs.formats import FORMATS
from fastopt.codecs.operations import NUMPY, quiet


class Float(Codec):
    """A codec whose elements are numbers of a NumPy dtype."""

    @quiet
    def decode(self, stored: Array, compute: DType) -> Array:
        row, numbers = FORMATS[self.name], flat(stored)
        if row.number:
            numbers = row.number(NUMPY, numbers.view(row.bits))
        return numbers.astype(compute)

    @quiet
    def encode(self, numbers: Array, noise: Array | None) -> Array:
        row, result = FORMATS[self.name], numbers
        if row.nearest:
            result = numbers.astype(np.float32, copy=False)
        if row.stochastic and noise is not None:
            result = row.stochastic(NUMPY, result, (noise >> np.uint32(32 - row.cut)).astype(np.int32))
        elif row.nearest:
            result = row.nearest(NUMPY, result)
        return result.astype(row.bits).view(self.dtype) if row.bits else result.astype(self.dtype)

    @quiet
    def fill(self, stored: Array, number: float) -> None:
        stored[...] = number


@cache
def floats(name: str) -> Float:
    """The codec of a floating-point format.

    Raises
    ------
    ImportError
        Its dtype needs ml_dtypes, which is not installed.
    """
    if FORMATS[name].bits is None:
        return Float(name, np.dtype(name))
    try:
        dtype = getattr(import_module("ml_dtypes"), name)
    except ImportError as error:
        message = f"{name} needs ml_dtypes: pip install ml_dtypes"
        raise ImportError(message) from error
    return Float(name, np.dtype(dtype))


def as_dtype(name_or_dtype: Any) -> DType:
    """A dtype, or that of a format by its name, which NumPy knows only with ml_dtypes loaded.

    Raises
    ------
    TypeError
        It is no dtype.
    """
    is_format = isinstance(name_or_dtype, str) and name_or_dtype in FORMATS
    try:
        return floats(name_or_dtype).dtype if is_format else np.dtype(name_or_dtype)
    except ValueError as error:  # NumPy takes "8-bit" for fields of a structure
        raise TypeError(f"{name_or_dtype!r} is not a dtype") from error


def rounded_towards(numbers: Any, dtype: DType, direction: float) -> Any:
    """Round limits to another dtype: up if `direction` is infinity, down if it is minus infinity.

    So rounding lets nothing pass that the limit excludes.
    """
    with np.errstate(all="ignore"):
        near = np.asarray(numbers).astype(dtype)
        wide = near.astype(np.float64)
        beyond = wide < numbers if direction > 0 else wide > numbers
        return np.where(beyond, np.nextafter(near, dtype.type(direction)), near)


def limit_in(name: str, number: float, direction: float) -> float:
    """A limit in a format, rounded inwards."""
    # Zero is in every format; the cache takes the two zeros for one.
    return _limit_in(name, number, direction) if number else number


@lru_cache(maxsize=1024)
def _limit_in(name: str, number: float, direction: float) -> float:
    return float(rounded_towards(number, floats(name).dtype, direction))
