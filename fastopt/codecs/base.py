"""A codec: how elements become numbers to compute with, and are stored again.

What is here and beside is the specification, in NumPy; the formulas of its parts serve
compiled code too (`codecs.operations`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, Any]
Shape: TypeAlias = tuple[int, ...]

BLOCK = 256  # elements that are encoded together, where a codec needs that
PIECE = 256 * BLOCK  # elements that are encoded at a time


@dataclass(frozen=True)
class Codec:
    """How one array is stored.

    Parameters
    ----------
    name : str
        What generated code calls it.
    dtype : numpy.dtype
        Of the array.
    block : int
        How many elements an item of the array holds.
    """

    name: str
    dtype: np.dtype[Any]
    block: int = 1

    def shape(self, shape: Shape) -> Shape:
        """The shape of the array that holds elements of this shape."""
        return shape if self.block == 1 else (-(-math.prod(shape) // self.block),)

    def decode(self, stored: Array, compute: np.dtype[Any]) -> Array:
        """The numbers, flat; behind the end of a last block that is not full, whatever is there."""
        raise NotImplementedError

    def encode(self, numbers: Array, noise: Array | None) -> Array:
        """The items that hold these numbers, flat.

        `noise` has 32 random bits for each number, to round it up or down at random, so that it is
        without bias; None rounds to the nearest.
        """
        raise NotImplementedError

    def fill(self, stored: Array, number: float) -> None:
        """Store the same number everywhere."""
        with np.errstate(all="ignore"):
            numbers = np.full(self.block, number, np.float32)
        stored[...] = self.encode(numbers, None)[0]

    def store(self, stored: Array, numbers: Array) -> None:
        """Store these numbers, a piece at a time."""
        flat, items = numbers.reshape(-1), stored.reshape(-1)
        for start in range(0, flat.size, PIECE):
            first, last = start // self.block, -(-min(start + PIECE, flat.size) // self.block)
            items[first:last] = self.encode(flat[start : start + PIECE], None)
