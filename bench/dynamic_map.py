"""Two other ways to keep a number in 8 bits, to compare accuracy with.

`dynamic` is the map of 8-bit optimizers as published (Dettmers, Lewis, Shleifer, Zettlemoyer: "8-bit
Optimizers via Block-wise Quantization", 2022, sections 1.3 and 2.2), which bitsandbytes uses: in blocks
of 256, divided by the largest absolute value, each number becomes the nearest of 256 values. Behind the
sign, leading zeros of the code count powers of ten; then comes a one, and the bits that are left divide
the range from a tenth of that power to the power itself evenly. Without a sign there is a bit more to
divide with. Zero and one are values too. `linear` divides the whole range evenly.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastopt.codecs.base import BLOCK

Array = np.ndarray[Any, Any]

POWERS = 7  # of ten


def dynamic(signed: bool) -> Array:
    """The values, in order."""
    sizes = []
    for zeros in range(POWERS):
        parts = 2 ** (POWERS - 1 - zeros + (not signed))
        bounds = np.linspace(0.1, 1.0, parts + 1)
        sizes.append((bounds[1:] + bounds[:-1]) / 2 * 10.0**-zeros)
    positive = np.concatenate(sizes)
    negative = -positive[: signed * positive.size]
    return np.sort(np.concatenate([negative, [0.0], positive, [1.0]])).astype(np.float32)


def linear(signed: bool) -> Array:
    """The values, in order."""
    return np.linspace(-1.0 if signed else 0.0, 1.0, 255 if signed else 256).astype(np.float32)


def stored(numbers: Array, values: Array) -> Array:
    """What is left of these numbers after they were stored with a map."""
    missing = -numbers.size % BLOCK
    blocks = np.append(numbers, np.zeros(missing, np.float32)).reshape(-1, BLOCK)
    scale = abs(blocks).max(axis=1, keepdims=True)
    relative = blocks / np.where(scale == 0, np.float32(1), scale)
    codes = np.searchsorted((values[1:] + values[:-1]) / 2, relative)
    result: Array = (values[codes] * scale).reshape(-1)[: numbers.size]
    return result
