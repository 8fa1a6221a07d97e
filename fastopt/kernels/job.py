"""Jobs, what kernels are compiled for, and the layout of a buffer of hyperparameters."""

from __future__ import annotations

from typing import NamedTuple

from fastopt.codecs.base import BLOCK, DType
from fastopt.codecs.blocks import BLOCKS, ITEM
from fastopt.codecs.corrections import CORRECTIONS, Correction
from fastopt.codecs.formats import FORMATS, compute_dtype
from fastopt.kernels.terms import Term, terms_of
from fastopt.transforms.base import Part

# Indices into a buffer of hyperparameters.
(
    GRAD_FACTOR,  # what gradients are multiplied by
    PHASE,  # of the random bits of this step
    NUMBERS,  # the first hyperparameter of the transforms, which follow each other
) = range(3)


SLOTS = 2  # the position of the array behind parameter and gradient
CORRECTION = "correction"  # the kind and name of one that holds a part of the parameter


class ArrayFormat(NamedTuple):
    """The storage format of one array of a kernel."""

    codec: str
    dithered: bool = False  # with stochastic rounding

    @property
    def in_blocks(self) -> bool:
        """Whether it is encoded a block at a time."""
        return self.codec in BLOCKS

    @property
    def itemsize(self) -> int:
        """Bytes an item: an element, or a block of them."""
        if self.in_blocks:
            return ITEM.itemsize
        correction = CORRECTIONS.get(self.codec)
        return correction.dtype.itemsize if correction else FORMATS[self.codec].itemsize

    @property
    def bytes_in_block(self) -> int:
        return self.itemsize if self.in_blocks else BLOCK * self.itemsize


class Job(NamedTuple):
    """The specification of a kernel: chain, formats and options."""

    parts: tuple[Part, ...]
    storage: tuple[ArrayFormat, ...]  # of parameter, gradient, perhaps correction, the chain's slots
    zero_grad: bool  # clear the gradient in the same pass
    scales: bool  # multiply the gradient by a factor first
    fast: bool = False  # with approximate roots and quotients
    stats: tuple[Term, ...] = ()  # what is added up to be reported

    @property
    def terms(self) -> list[Term]:
        """What is added up while the step is taken."""
        return terms_of(self.parts, self.stats)

    @property
    def compute(self) -> DType:
        """The dtype of the arithmetic."""
        return compute_dtype(self.storage[0].codec)

    @property
    def correction(self) -> Correction | None:
        """The codec of the parameter's second array, if it has one."""
        return CORRECTIONS.get(self.storage[SLOTS].codec) if len(self.storage) > SLOTS else None

    @property
    def arrays(self) -> list[KernelArray]:
        """The arrays in the order of their addresses, with their names in the source."""
        slots = [slot.kind for part in self.parts for slot in part.slots]
        correction = [CORRECTION] if self.correction else []
        kinds = ["state", "state" if self.zero_grad else "input", *correction, *slots]
        names = ["param", "update", *correction, *(f"{kind}{i}" for i, kind in enumerate(slots))]
        # Random bits depend on the numbers: those of states are the same without a correction.
        first = SLOTS + len(slots)
        numbers = [0, 1, *([first] if correction else []), *range(SLOTS, first)]
        each = zip(names, kinds, self.storage, numbers, strict=True)
        return [KernelArray(*array, with_correction=bool(correction)) for array in each]

    @property
    def slots(self) -> list[KernelArray]:
        """The arrays of the chain's slots."""
        return [array for array in self.arrays[SLOTS:] if array.kind != CORRECTION]


class KernelArray(NamedTuple):
    """An array of a kernel; the parameter may be one `with_correction`."""

    name: str
    kind: str
    storage: ArrayFormat
    number: int
    with_correction: bool = False

    @property
    def addresses(self) -> str:
        """The source of the addresses that its elements are loaded from."""
        is_split = self.with_correction and self.name == "param"
        return f"{self.name}_at, {CORRECTION}_at" if is_split else f"{self.name}_at"
