"""What a kernel is compiled for, and what it reads beside its arrays."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastopt.codecs.base import BLOCK
from fastopt.codecs.blocks import ITEM
from fastopt.codecs.formats import FORMATS, compute_dtype
from fastopt.transforms.base import Part

# What stands where in a buffer of hyperparameters.
(
    GRAD_FACTOR,  # what gradients are multiplied by
    PHASE,  # of the random bits of this step
    NUMBERS,  # of the transforms, one after the other
) = range(3)


class ArrayFormat(NamedTuple):
    """How one array of a kernel is stored."""

    codec: str
    dithered: bool = False  # rounded up or down at random

    @property
    def in_blocks(self) -> bool:
        """Whether it is encoded a block at a time."""
        return self.codec not in FORMATS

    @property
    def bytes_in_block(self) -> int:
        return ITEM.itemsize if self.in_blocks else BLOCK * FORMATS[self.codec].itemsize


class Job(NamedTuple):
    """What a kernel is compiled for."""

    parts: tuple[Part, ...]
    storage: tuple[ArrayFormat, ...]  # of parameter, gradient and the chain's slots
    zero_grad: bool  # clear the gradient on the way
    scales: bool  # multiply the gradient by a factor first
    fast: bool = False  # with approximate roots and quotients

    @property
    def compute(self) -> np.dtype[Any]:
        """The dtype of the arithmetic."""
        return compute_dtype(self.storage[0].codec)

    @property
    def arrays(self) -> list[KernelArray]:
        """The arrays by the names that they have in the source."""
        own = [slot.kind for part in self.parts for slot in part.slots]
        kinds = ["state", "state" if self.zero_grad else "input", *own]
        names = ["param", "update", *(f"{kind}{i}" for i, kind in enumerate(own))]
        return [KernelArray(*each) for each in zip(names, kinds, self.storage, strict=True)]


class KernelArray(NamedTuple):
    name: str
    kind: str
    storage: ArrayFormat
