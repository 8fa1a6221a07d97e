"""The codec of corrections, which make numbers of 24 or 32 bits of those of 16 (`codecs.split`)."""

from __future__ import annotations

import numpy as np

from fastopt.codecs.base import ENCODE_CHUNK, Array, Codec, DType, flat
from fastopt.codecs.formats import FORMATS, name_of
from fastopt.codecs.operations import NUMPY, quiet


class Correction(Codec):
    """A codec whose elements are corrections: integers, which mean something beside another array."""

    @property
    def width(self) -> int:
        """Bits of a correction."""
        return 8 * self.dtype.itemsize

    def decode(self, stored: Array, compute: DType) -> Array:
        return flat(stored).astype(compute)

    def encode(self, numbers: Array, noise: Array | None) -> Array:
        return numbers.astype(self.dtype)

    def fill(self, stored: Array, number: float) -> None:
        stored[...] = number

    @quiet
    def join(self, halves: Array, rests: Array) -> Array:
        """The wide numbers of two arrays, flat, in float32."""
        join = FORMATS[str(name_of(halves.dtype))].join
        assert join is not None
        bits, rests = flat(halves).view(np.uint16), flat(rests)
        numbers = np.empty(bits.size, np.float32)
        for start in range(0, bits.size, ENCODE_CHUNK):
            span = slice(start, start + ENCODE_CHUNK)
            numbers[span] = join(NUMPY, bits[span], rests[span], self.width)
        return numbers

    @quiet
    def divide(self, numbers: Array, dtype: DType) -> tuple[Array, Array]:
        """Flat arrays of 16-bit numbers and of corrections, from wide numbers."""
        divide = FORMATS[str(name_of(dtype))].divide
        assert divide is not None
        half, rest = divide(NUMPY, flat(numbers).astype(np.float32), self.width)
        return half.astype(np.uint16).view(dtype), rest.astype(self.dtype)

    def store_divided(self, halves: Array, rests: Array, numbers: Array) -> None:
        """Write wide numbers to both arrays, a chunk at a time."""
        numbers, halves, rests = map(flat, (numbers, halves, rests))
        for start in range(0, numbers.size, ENCODE_CHUNK):
            span = slice(start, start + ENCODE_CHUNK)
            halves[span], rests[span] = self.divide(numbers[span], halves.dtype)


CORRECTIONS = {
    codec.name: codec
    for codec in (
        Correction("correction8", np.dtype(np.int8)),
        Correction("correction16", np.dtype(np.int16)),
    )
}


def correction_of_width(bits: int) -> Correction:
    """The codec of corrections of so many bits."""
    return CORRECTIONS[f"correction{bits}"]


BY_MASTER_BITS = {24: CORRECTIONS["correction8"], 32: CORRECTIONS["correction16"]}
