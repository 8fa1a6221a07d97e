"""Launches that are prepared once: a step writes what changed, and starts them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastopt.arrays.checks import Array, address
from fastopt.executors.cuda import device

# Uploads that may be under way at once; a host that is further ahead waits for the device.
UNDER_WAY = 16


class Launch:
    """A kernel with its arguments in place.

    Parameters
    ----------
    program : Program
    words : int
        How many of its arguments are integers, which come first.
    numbers : array, optional
        Where the driver finds the others at every start,
    places : sequence of int, optional
        and at which places in it.

    Attributes
    ----------
    words : array
        The integers, to be written to.
    """

    def __init__(
        self,
        program: device.Program,
        words: int,
        numbers: Array | None = None,
        places: Sequence[int] = (),
    ) -> None:
        program.load()
        self.program = program
        self.words = np.zeros(words, np.int64)
        self._numbers = numbers  # keeps the memory
        addresses = [address(self.words) + 8 * i for i in range(words)]
        if numbers is not None:
            addresses += [address(numbers) + numbers.itemsize * place for place in places]
        if len(addresses) != len(program.arguments):
            raise AssertionError("a launch needs an address for every argument")
        self._pointers = np.array(addresses, np.int64)

    def start(self, blocks: int, threads: int, stream: int) -> None:
        """Put it into a stream."""
        if blocks:
            self.program.launch(blocks, threads, stream, self._pointers)


class StagedTable:
    """Words of the host that a device has a copy of.

    The copy is brought up to date in the order of the stream, from one of several buffers that the
    device can read while the host goes on. What was part of a captured graph stays as it is: changes
    go to new memory (`renew`), or to the same if the graph is to see them.

    Attributes
    ----------
    words : array
        To be written to, followed by `change`.
    address : int
        Of the copy.
    """

    def __init__(self, words: int) -> None:
        self.words = np.zeros(words, np.int64)
        self.is_current = False
        self._buffers: list[device.Pinned] = []
        self._next = 0
        self._memory: list[Any] = []
        self._is_kept = True
        self.renew()

    def change(self) -> None:
        """The words are others than before."""
        self.is_current = False

    def keep(self) -> None:
        """What is on the device now belongs to a graph: leave it alone."""
        self._is_kept = True

    def renew(self) -> None:
        """Have memory that can be written to."""
        if self._is_kept:
            self._memory.append(device.allocate((max(self.words.size, 1),), np.dtype(np.int64)))
            self._is_kept = False

    @property
    def address(self) -> int:
        return int(self._memory[-1].address)

    def send(self, stream: int) -> None:
        """Copy the words."""
        if len(self._buffers) < UNDER_WAY:
            self._buffers.append(device.Pinned(self.words.size))
            buffer = self._buffers[-1]
        else:
            buffer = self._buffers[self._next % UNDER_WAY]
            buffer.wait()
        self._next += 1
        buffer.array[:] = self.words
        buffer.send(self.address, stream)
        self.is_current = True
