"""New arrays that begin at a cache line."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from fastopt.arrays.object_layout import data_address
from fastopt.codecs.base import Array, DType

ALIGNMENT = 64  # a cache line, and the widest vector


def aligned(allocate: Callable[[int, type], Array], shape: tuple[int, ...], dtype: DType) -> Array:
    """A new aligned array in memory from `allocate(size, dtype)`."""
    size = math.prod(shape) * dtype.itemsize
    raw: Array = allocate(size + ALIGNMENT, np.uint8)
    skip = -data_address(raw) % ALIGNMENT
    return raw[skip : skip + size].view(dtype).reshape(shape)


def zeros(shape: tuple[int, ...], dtype: DType) -> Array:
    """Zeros whose pages are mapped by first touch: near the core whose kernel writes them first."""
    return aligned(np.zeros, shape, dtype)
