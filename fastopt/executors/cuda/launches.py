"""Kernel launches that are prepared once: a step writes the arguments that changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from fastopt.arrays.checks import Array, address
from fastopt.executors.cuda import device
from fastopt.executors.cuda.programs import Program
from fastopt.executors.launching import UNDER_WAY

NOT_PREPARED = (
    "a step can be captured only with gradients for the arrays of the step before: take one step with "
    "gradients for the same arrays, then capture the next"
)

NOT_CAPTURABLE = (
    "a step can be captured in a graph only with capturable=True: without it each replay would have "
    "the hyperparameters of the capture, and count no step"
)

LaunchRow: TypeAlias = tuple[int, int, int, int]
WordRow: TypeAlias = tuple[int, int, int]


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

    @property
    def is_of_graphs(self) -> bool:
        """Whether a graph reads the copy, or an earlier one."""
        return self._is_kept or len(self._memory) > 1

    def renew(self) -> None:
        """Allocate new device memory if the current copy belongs to a graph."""
        if self._is_kept:
            self._memory.append(device.allocate((max(self.words.size, 1),), np.dtype(np.int64)))
            self._is_kept = False
            self.change(self.words.size)

    @property
    def address(self) -> int:
        return int(self._memory[-1].address)

    def ring(self) -> list[tuple[int, int]]:
        """The addresses and events of all pinned buffers, for compiled code."""
        while len(self._buffers) < UNDER_WAY:
            self._buffers.append(device.Pinned(self.words.size))
        return [(address(buffer.array), buffer.event()) for buffer in self._buffers]

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


class LaunchHyper:
    """The hyperparameters of a launch: kernel arguments, or in device memory.

    In memory they can change for a graph that captured the launch.
    """

    def __init__(self, host: Array, capturable: bool) -> None:
        self._host = host
        self._staged = StagedTable(-(-host.nbytes // 8)) if capturable else None
        self._sent = b""

    def arguments(self, indices: Sequence[int]) -> tuple[Array | None, Sequence[int]]:
        """The buffer and the indices of hyperparameters that are kernel arguments."""
        return (self._host, indices) if self._staged is None else (None, ())

    @property
    def are_in_rows(self) -> bool:
        """Whether each of several arrays has its own, whose address is in its row of the table."""
        return False

    def address(self, rows: Sequence[int] = ()) -> list[int]:
        """The argument with their address in device memory, if they are there.

        `rows` are the arrays of the launch.
        """
        return [] if self._staged is None else [self._staged.address]

    def addresses(self, rows: Sequence[int]) -> Array:
        """For each array, what its row has: an address, or nothing."""
        return np.zeros((len(rows), 0), np.int64)

    def send(self, stream: int) -> None:
        """Copy the current hyperparameters to the device, if they are in device memory."""
        if self._staged is not None and self._sent != self._host.tobytes():
            self._staged.words.view(np.uint8)[: self._host.nbytes] = self._host.view(np.uint8)
            self._staged.change(self._staged.words.size)
            self._staged.send(stream)  # always to the same address, which a captured graph reads
            self._sent = self._host.tobytes()
