"""Jobs, what kernels are compiled for, and the layout of a buffer of hyperparameters."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastopt.codecs.base import BLOCK
from fastopt.codecs.blocks import ITEM
from fastopt.codecs.formats import FORMATS, compute_dtype
from fastopt.transforms.base import Part

# Indices into a buffer of hyperparameters.
(
    GRAD_FACTOR,  # what gradients are multiplied by
    PHASE,  # of the random bits of this step
    NUMBERS,  # the first hyperparameter of the transforms, which follow each other
) = range(3)


class ArrayFormat(NamedTuple):
    """The storage format of one array of a kernel."""

    codec: str
    dithered: bool = False  # with stochastic rounding

    @property
    def in_blocks(self) -> bool:
        """Whether it is encoded a block at a time."""
        return self.codec not in FORMATS

    @property
    def bytes_in_block(self) -> int:
        return ITEM.itemsize if self.in_blocks else BLOCK * FORMATS[self.codec].itemsize


class Job(NamedTuple):
    """The specification of a kernel: chain, formats and options."""

    parts: tuple[Part, ...]
    storage: tuple[ArrayFormat, ...]  # of parameter, gradient and the chain's slots
    zero_grad: bool  # clear the gradient in the same pass
    scales: bool  # multiply the gradient by a factor first
    fast: bool = False  # with approximate roots and quotients

    @property
    def compute(self) -> np.dtype[Any]:
        """The dtype of the arithmetic."""
        return compute_dtype(self.storage[0].codec)

    @property
    def arrays(self) -> list[KernelArray]:
        """The arrays, with their names in the source."""
        slots = [slot.kind for part in self.parts for slot in part.slots]
        kinds = ["state", "state" if self.zero_grad else "input", *slots]
        names = ["param", "update", *(f"{kind}{i}" for i, kind in enumerate(slots))]
        return [KernelArray(*each) for each in zip(names, kinds, self.storage, strict=True)]


class KernelArray(NamedTuple):
    name: str
    kind: str
    storage: ArrayFormat
