"""A model of a sharded step: bytes over bandwidths, and latencies of messages.

For `n` parameters on `P` ranks, exchanged in `K` chunks, with

- ``V = 4 n (P - 1) / P`` bytes that each rank sends in a reduce-scatter or all-gather of float32,
- ``a`` seconds that a message takes to start, ``P - 1`` of which make one collective (a ring, or
  pairwise exchange),
- ``B`` bytes a second between ranks, and ``M`` that a local step moves (20 bytes an element),

the parts take

    agree   = ceil(log2 P) a
    reduce  = V / B_reduce + K (P - 1) a
    local   = 20 n / (P M)
    gather  = V / B_gather + K (P - 1) a

One after the other they take the sum. If the network works by itself while a chunk is stepped, a step
takes ``max(reduce + gather, local)`` and ``1 / K`` of the smaller of the two.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from fastopt.interop.mpi.partition import small_pieces

STEP_BYTES = 20  # RMSProp in float32: reads parameter, gradient and accumulator, writes two of them
NUMBER = 4  # bytes


class Machine(NamedTuple):
    """What the model knows of ranks and of what joins them."""

    name: str
    latency: float  # seconds a message
    reduce: float  # bytes a second, of each rank in a reduce-scatter
    gather: float  # the same in an all-gather
    memory: float  # bytes a second of a local step


class Parts(NamedTuple):
    """Seconds of each part of a step."""

    agree: float
    reduce: float
    local: float
    gather: float

    @property
    def total(self) -> float:
        """One after the other."""
        return sum(self)


def parts(machine: Machine, size: int, ranks: int, pieces: int) -> Parts:
    """What each part takes."""
    moved = NUMBER * size * (ranks - 1) / ranks
    started = pieces * (ranks - 1) * machine.latency
    return Parts(
        agree=math.ceil(math.log2(ranks)) * machine.latency,
        reduce=moved / machine.reduce + started,
        local=STEP_BYTES * size / ranks / machine.memory,
        gather=moved / machine.gather + started,
    )


def overlapped(machine: Machine, size: int, ranks: int, pieces: int) -> float:
    """A step whose messages are on their way while it computes."""
    seconds = parts(machine, size, ranks, pieces)
    network = seconds.reduce + seconds.gather
    longer, shorter = max(network, seconds.local), min(network, seconds.local)
    return seconds.agree + longer + shorter / pieces


def fitted(name: str, size: int, ranks: int, agree: float, measured: Parts) -> Machine:
    """The machine on which these parts were measured, from one size and the small all-reduce."""
    latency = agree / max(1, math.ceil(math.log2(ranks)))
    moved = NUMBER * size * (ranks - 1) / ranks
    started = small_pieces(size, ranks, NUMBER) * (ranks - 1) * latency
    return Machine(
        name,
        latency,
        moved / (measured.reduce - started),
        moved / (measured.gather - started),
        STEP_BYTES * size / ranks / measured.local,
    )


def networks(memory: float) -> list[Machine]:
    """What is predicted for: `memory` is the speed of a local step on a processor, as measured.

    The networks are taken at their nominal speed in one direction, the processor as adding faster than
    they bring numbers; latencies are usual ones, and so is the speed of a step on a GPU.
    """
    gbit = 1e9 / 8
    return [
        Machine("25 Gbit/s", 10e-6, 25 * gbit, 25 * gbit, memory),
        Machine("100 Gbit/s", 3e-6, 100 * gbit, 100 * gbit, memory),
        Machine("NVLink, 450 GB/s", 3e-6, 450e9, 450e9, 2e12),
    ]
