"""The base class of codecs, which decode stored elements to numbers and encode them again.

The codecs are the specification, in NumPy; compiled code uses the same formulas
(`codecs.operations`).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, Any]  # of a dtype and shape that are checked when it comes
DType: TypeAlias = np.dtype[np.generic]
FloatDType: TypeAlias = np.dtype[np.float32] | np.dtype[np.float64]
Shape: TypeAlias = tuple[int, ...]

BLOCK = 256  # elements that share a scale, and a step of stochastic rounding's table
ENCODE_CHUNK = 256 * BLOCK  # elements that are encoded at a time


def flat(array: Array) -> Array:
    """A flat view of a contiguous array: `reshape` of a subclass, as of matrices, may keep its axes."""
    return np.asarray(array).reshape(-1)


@dataclass(frozen=True)
class Codec(ABC):
    """The storage format of one array.

    Parameters
    ----------
    name : str
        Its name in generated code.
    dtype : numpy.dtype
        Of the array.
    block : int
        The number of elements in an item of the array.
    """

    name: str
    dtype: DType
    block: int = 1

    def shape(self, shape: Shape) -> Shape:
        """The shape of the array that holds elements of this shape."""
        return shape if self.block == 1 else (-(-math.prod(shape) // self.block),)

    @abstractmethod
    def decode(self, stored: Array, compute: DType) -> Array:
        """Decode to a flat array; after the end of a partial last block its content is arbitrary."""

    @abstractmethod
    def encode(self, numbers: Array, noise: Array | None) -> Array:
        """Encode a flat array of numbers to items.

        `noise` has 32 random bits for each number, for stochastic rounding, which is unbiased; with
        None it is nearest rounding.
        """

    def fill(self, stored: Array, number: float) -> None:
        """Fill an array with one number."""
        with np.errstate(all="ignore"):
            numbers = np.full(self.block, number, np.float32)
        stored[...] = self.encode(numbers, None)[0]

    def store(self, stored: Array, numbers: Array) -> None:
        """Encode numbers into an array, a chunk at a time."""
        numbers, items = flat(numbers), flat(stored)
        for start in range(0, numbers.size, ENCODE_CHUNK):
            first, last = start // self.block, -(-min(start + ENCODE_CHUNK, numbers.size) // self.block)
            items[first:last] = self.encode(numbers[start : start + ENCODE_CHUNK], None)
