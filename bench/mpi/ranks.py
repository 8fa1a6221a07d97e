"""``mpiexec -n 2 python -m bench.mpi.ranks SIZE ROUNDS``: a step and its parts, timed in turns.

A turn lasts from one barrier to the next, so its time is that of the slowest rank. Rank 0 prints the
seconds of every round as JSON.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from mpi4py import MPI

import fastopt
from fastopt.interop.mpi import ShardedOptimizer
from fastopt.steps.stepper import stepper_of

LR = 1e-3


def sharded(comm: Any, size: int, pieces: int | None) -> tuple[ShardedOptimizer, Any]:
    """An optimizer over new parameters, and a gradient."""
    params, grad = np.zeros(size, np.float32), np.full(size, 0.5, np.float32)
    make = lambda shard: fastopt.RMSProp(shard, lr=LR, executor="serial")  # noqa: E731
    return ShardedOptimizer(comm, params, make, overlap_chunks=pieces), grad


def jobs(comm: Any, size: int) -> tuple[dict[str, Callable[[], object]], dict[str, Any]]:
    """The step in pieces and at once; its parts in pieces and at once; and one rank alone.

    Beside the actions: the parameters that some of them must change.
    """
    opt, grad = sharded(comm, size, sharded_pieces(size, comm.size))
    at_once, _ = sharded(comm, size, 1)
    actions: dict[str, Callable[[], object]] = {
        "step": lambda: opt.step(grad),
        "step_at_once": lambda: at_once.step(grad),
    }
    shards: dict[str, Any] = {"step": opt.shard, "step_at_once": at_once.shard}
    for name, optimizer in (("", opt), ("_at_once", at_once)):
        exchange, received, flat = optimizer._exchange, optimizer._received, optimizer._all
        stepper = stepper_of(optimizer.optimizer)()
        shards[f"local{name}"] = optimizer.shard
        parts = [exchange.in_shard(k) for k in range(optimizer.overlap_chunks)]

        def reduce(exchange: Any = exchange, received: Any = received) -> None:
            for _ in exchange.reduced(grad, received):
                pass

        def local(stepper: Any = stepper, parts: Any = parts, received: Any = received) -> None:
            stepper.begin(received, 1.0)
            stepper.decide()
            for part in parts:
                stepper.run(part.start, part.stop)
            stepper.end()

        def gather(exchange: Any = exchange, flat: Any = flat) -> None:
            exchange.gather_all(flat)

        actions |= {f"reduce{name}": reduce, f"local{name}": local, f"gather{name}": gather}
    if comm.rank == 0:
        alone = np.zeros(size, np.float32)
        plain = fastopt.RMSProp(alone, lr=LR, executor="serial")
        actions["one_rank"] = lambda: plain.step(grad)
    else:
        actions["one_rank"] = lambda: None  # waits at the barrier, on a core of its own
    small, most = np.zeros(3, np.int64), np.zeros(3, np.int64)
    actions["agree"] = lambda: comm.Allreduce(small, most, MPI.MAX)
    return actions, shards


def main(size: int, rounds: int) -> None:
    """Let every job have its turn, round after round."""
    comm = MPI.COMM_WORLD
    actions, shards = jobs(comm, size)
    names = list(actions)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    shuffle = random.Random(0).shuffle  # the same order on all ranks
    for name, job in actions.items():
        previous = shards[name].copy() if name in shards else None
        job()
        assert previous is None or (shards[name] != previous).all(), f"{name} steps nothing"
    for _ in range(rounds):
        shuffle(names)
        for name in names:
            comm.Barrier()
            start = time.perf_counter()
            actions[name]()
            comm.Barrier()
            seconds[name].append(time.perf_counter() - start)
    if comm.rank == 0:
        pieces = sharded_pieces(size, comm.size)
        print(json.dumps({"size": size, "ranks": comm.size, "pieces": pieces, "seconds": seconds}))


def sharded_pieces(size: int, ranks: int) -> int:
    """How many small pieces there are."""
    from fastopt.interop.mpi.partition import small_pieces

    return small_pieces(size, ranks, 4)


if __name__ == "__main__":
    main(int(float(sys.argv[1])), int(sys.argv[2]))
