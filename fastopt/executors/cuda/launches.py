"""Kernel launches that are prepared once: a step writes the arguments that changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from fastopt.arrays.checks import Array, address
from fastopt.executors.cuda import device
from fastopt.executors.cuda.programs import Program

# Copies to the device in flight; a host that is further ahead waits for the device.
UNDER_WAY = 16


LaunchRow: TypeAlias = tuple[int, int, int, int]


class Launch:
    """A kernel with its arguments.

    Parameters
    ----------
    program : Program
    words : int
        The number of integer arguments, which come first.
    hyper : array, optional
        The buffer from which the driver reads the other arguments at every launch.
    indices : sequence of int, optional
        Their indices in it.

    Attributes
    ----------
    words : array
        The integer arguments, to be written to.
    """

    def __init__(
        self,
        program: Program,
        words: int,
        hyper: Array | None = None,
        indices: Sequence[int] = (),
    ) -> None:
        program.load()
        self.program = program
        self.words = np.zeros(words, np.int64)
        self._hyper = hyper  # kept alive
        addresses = [address(self.words) + 8 * i for i in range(words)]
        if hyper is not None:
            addresses += [address(hyper) + hyper.itemsize * index for index in indices]
        if len(addresses) != len(program.arguments):
            raise AssertionError("a launch needs an address for every argument")
        self._pointers = np.array(addresses, np.int64)

    def row(self, blocks: int, threads: int) -> LaunchRow:
        """What compiled code needs to launch the kernel on the current device."""
        return self.program.handle(), blocks, threads, address(self._pointers)

    def start(self, blocks: int, threads: int, stream: int) -> None:
        """Launch the kernel on a stream."""
        if blocks:
            self.program.launch(blocks, threads, stream, self._pointers)


class GraphCopies:
    """Pinned memory from which graphs copy words to the device, at each replay.

    It is reserved before a capture, which must not allocate, and kept for the graph.

    Parameters
    ----------
    words : int
        Of one copy.
    """

    def __init__(self, words: int) -> None:
        self._words = words
        self._pinned: list[device.Pinned] = []
        self._free: list[Array] = []

    def reserve(self) -> None:
        """Allocate memory for more graphs, unless there is enough."""
        if len(self._free) < UNDER_WAY // 2:
            self._pinned.append(device.Pinned(self._words * UNDER_WAY))
            self._free += list(self._pinned[-1].array.reshape(UNDER_WAY, self._words))

    @property
    def is_ready(self) -> bool:
        """Whether a copy can be recorded."""
        return bool(self._free)

    def record(self, words: Array, address: int, stream: int) -> None:
        """Let the graph that is captured on a stream copy these words."""
        pinned = self._free.pop()
        pinned[:] = words
        device.send(address, pinned, stream)


class StagedTable:
    """A table of words in host memory with a copy on a device.

    The copy is updated in stream order, from one of several pinned buffers that the device can read
    while the host continues. Memory that a captured graph reads is left unchanged: changes go to new
    memory (`renew`), or to the same if the graph is to see them or copies these words itself.

    Attributes
    ----------
    words : array
        To be written to, followed by `change`.
    outdated : int
        How many words at the start of the copy are not current.
    address : int
        Of the copy.
    """

    def __init__(self, words: int) -> None:
        self.words = np.zeros(words, np.int64)
        self.outdated = 0
        self._buffers: list[device.Pinned] = []
        self._next = 0
        self._memory: list[Any] = []
        self._is_kept = True
        self.renew()

    def change(self, words: int) -> None:
        """Mark so many words at the start of the copy as outdated."""
        self.outdated = max(self.outdated, words)

    @property
    def is_current(self) -> bool:
        """Whether the copy on the device is up to date."""
        return self.outdated == 0

    def keep(self) -> None:
        """Leave the memory of the current copy to a graph."""
        self._is_kept = True

    def renew(self) -> None:
        """Allocate new device memory if the current copy belongs to a graph."""
        if self._is_kept:
            self._memory.append(device.allocate((max(self.words.size, 1),), np.dtype(np.int64)))
            self._is_kept = False
            self.change(self.words.size)

    @property
    def address(self) -> int:
        return int(self._memory[-1].address)

    def send(self, stream: int) -> None:
        """Copy the outdated words to the device, in stream order."""
        if len(self._buffers) < UNDER_WAY:
            self._buffers.append(device.Pinned(self.words.size))
            buffer = self._buffers[-1]
        else:
            buffer = self._buffers[self._next % UNDER_WAY]
            buffer.wait()
        self._next += 1
        buffer.array[: self.outdated] = self.words[: self.outdated]
        buffer.send(self.address, self.outdated, stream)
        self.outdated = 0
