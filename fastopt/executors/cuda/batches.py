"""Batches of arrays that step in one launch, with the same chain, dtype and hyperparameters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from fastopt.arrays.checks import Array
from fastopt.arrays.device_array import DeviceArray
from fastopt.codecs.base import BLOCK
from fastopt.codecs.blocks import ITEM
from fastopt.codecs.floats import floats
from fastopt.executors.cuda import device, element_access
from fastopt.executors.cuda.kernel_source import KEPT
from fastopt.executors.cuda.kernels import JobKernels
from fastopt.executors.cuda.launches import (
    Launch,
    LaunchHyper,
    LaunchRow,
    WordRow,
)


class Batch(ABC):
    """The base of launches over one array and over many.

    Parameters
    ----------
    rows : sequence of int
        The indices of these arrays among all of the optimizer.
    arrays : sequence of sequence of DeviceArray
        For each, the parameter and the arrays of the chain's slots.
    firsts : sequence of int
        The index of the first element of each among those of all arrays.
    gradient : str
        The format of the gradients, by name.
    kernels : JobKernels
    hyper : LaunchHyper
    control : int
        The address of the clip decision, 0 if there is none.
    decided : sequence of int, optional
        For each, the address of the hyperparameters that were decided from sums, if there are some.
    sums : sequence of int, optional
        For each, the address of what its step adds up, if it does.
    kept : DeviceArray, optional
        Hyperparameters of earlier steps in device memory, if launches share them.
    """

    def __init__(
        self,
        rows: Sequence[int],
        arrays: Sequence[Sequence[DeviceArray]],
        firsts: Sequence[int],
        gradient: str,
        kernels: JobKernels,
        hyper: LaunchHyper,
        control: int,
        decided: Sequence[int] = (),
        sums: Sequence[int] = (),
        kept: DeviceArray | None = None,
    ) -> None:
        self.rows, self.kernels, self.hyper = list(rows), kernels, hyper
        self.gradient_format = gradient
        self._sizes = np.array([slots[0].size for slots in arrays], np.int64)
        # The column after the parameter is for the gradient.
        self._addresses = np.array(
            [[param.address, 0, *(slot.address for slot in slots)] for param, *slots in arrays],
            np.int64,
        )
        # For random bits: the index of an array's first element, and the address of the table.
        self._dithers = bool(kernels.names.first)
        columns: list[int | Sequence[int]] = [firsts] * self._dithers
        if self._dithers:
            columns.append(element_access.rounding_table(device.current()).address)
        columns += [decided] * len(kernels.names.decided_at) + [sums] * len(kernels.names.sums_at)
        self._others = np.zeros((len(arrays), len(columns)), np.int64)
        for index, column in enumerate(columns):
            self._others[:, index] = column
        self._alignments = np.array(kernels.alignments(), np.int64)
        sizes = [array.itemsize for array in arrays[0]]
        self._itemsizes = np.array([sizes[0], floats(gradient).dtype.itemsize, *sizes[1:]], np.int64)
        blocks = [BLOCK if array.dtype == ITEM else 1 for array in arrays[0]]
        self._per_item = np.array([1, 1, *blocks[1:]], np.int64)
        self._control = [control] if kernels.names.control else []
        self._decides, self._adds = bool(kernels.names.decided_at), bool(kernels.names.sums_at)
        self._kept, self._expected = kept, (0, 0)
        if kernels.names.recall and kept is None:
            size = max(KEPT * len(kernels.names.indices), 1)
            self._kept = device.allocate((size,), kernels.dtype)
        self._launches: dict[tuple[str, bool], Launch] = {}

    def _launch(self, name: str, words: int, part: bool = False) -> Launch:
        """A prepared launch of a kernel; `words` of its arguments come before these of every kernel."""
        if (name, part) not in self._launches:
            names = self.kernels.names
            kept = [] if self._kept is None else [self._kept.address, *self._expected]
            tail = [*self._control, *kept, *self.hyper.address(self.rows)]
            hyper = self.hyper.arguments(list(names.indices.values()))
            launch = Launch(self.kernels.program(name), words + len(tail), *hyper)
            launch.words[words:] = tail
            self._launches[name, part] = launch
        return self._launches[name, part]

    @abstractmethod
    def bind(self, addresses: Array, capturing: bool = False) -> bool:
        """Take the addresses of the gradients; 0 leaves an array out. Whether `launch` is another.

        Raises
        ------
        RuntimeError
            While a graph is captured, and memory must be allocated.
        """

    @abstractmethod
    def start(self, stream: int) -> None:
        """Step these arrays."""

    @abstractmethod
    def launch(self) -> LaunchRow:
        """What `start` launches, for compiled code."""

    @abstractmethod
    def gradient_words(self) -> list[WordRow]:
        """For each row: where compiled code writes the address of its gradient, see `launching`."""

    @abstractmethod
    def forget(self) -> None:
        """Forget the gradients that are bound: compiled code has written others."""

    @property
    def decided_column(self) -> int:
        """The index, among the words of an array, of the address of what was decided from sums."""
        return int(self._addresses.shape[1] + 2 * self._dithers)

    @property
    def source(self) -> str:
        """The Python source of the kernels in use."""
        names = dict.fromkeys(name for name, _ in self._launches)
        return "\n\n".join(self.kernels.source(name) for name in ("element", *names))

    def expect(self, step: int, skipped: int) -> None:
        """Set the step count that launches assume, and the number of skipped steps that it is for."""
        self._expected = step % KEPT, skipped
        if self._kept is not None:
            for launch in self._launches.values():
                launch.words[-2:] = self._expected

    def _aligned(self) -> Array:
        """For each array, whether its addresses allow wide accesses."""
        aligned: Array = (self._addresses % self._alignments == 0).all(axis=1)
        return aligned

    def prepare(self, stream: int) -> None:
        """Copy changed tables and hyperparameters to the device."""
        self.hyper.send(stream)

    @abstractmethod
    def record(self, stream: int) -> None:
        """Let the graph that is captured on a stream copy what its launch reads."""

    def is_ready(self) -> bool:
        """Whether a launch needs no copy to the device, or one that a graph can record."""
        return True
