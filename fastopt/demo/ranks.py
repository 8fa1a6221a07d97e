"""The digits once more, learnt by all ranks of an MPI job together: each has a part of every batch."""

from __future__ import annotations

import numpy as np
from mpi4py import MPI

from fastopt.demo import digits
from fastopt.demo.output import progress, table
from fastopt.interop.mpi import ShardedOptimizer, shard_slice

RULE = digits.RULES[-1]


def train(
    comm: MPI.Intracomm, data: digits.Digits, hidden: int, epochs: int, seed: int
) -> digits.History:
    """Train with RMSProp, in the same batches on any number of ranks."""
    network = digits.Network(data.train.shape[1], hidden, 10, seed)
    optimizer = ShardedOptimizer(
        comm, network.params, lambda shard: RULE.optimizer(shard, RULE.lr), reduction="sum"
    )
    shuffle = np.random.default_rng(seed)  # the same on all ranks
    history = digits.History([], [])

    def record() -> None:
        history.losses.append(network.loss(data.train, data.train_labels))
        history.accuracies.append(network.accuracy(data.test, data.test_labels))

    record()
    for _ in progress(range(epochs), RULE.name) if comm.rank == 0 else range(epochs):
        order = shuffle.permutation(len(data.train))
        for start in range(0, len(order), digits.BATCH):
            batch = order[start : start + digits.BATCH]
            indices = batch[comm.rank :: comm.size]
            network.grads.fill(0)
            if len(indices):
                network.differentiate(data.train[indices], data.train_labels[indices])
                # So that the sum over all ranks is the batch's mean.
                network.grads *= np.float32(len(indices) / len(batch))
            optimizer.step(network.grads)
        record()
    return history


def show(hidden: int, epochs: int, seed: int) -> None:
    """Train on all ranks, and print how it went beside one rank alone."""
    comm = MPI.COMM_WORLD
    data = digits.load(seed)
    together = train(comm, data, hidden, epochs, seed)
    if comm.rank != 0:
        return
    alone = digits.train(RULE, data, hidden, epochs, seed) if comm.size > 1 else together
    size = digits.Network(data.train.shape[1], hidden, 10, seed).params.size
    ranks = f"{comm.size} ranks" if comm.size > 1 else "1 rank"
    print(f"{ranks} learn {len(data.train)} handwritten digits with a network of {size:,} parameters")
    rows = [_row(ranks, together)]
    if comm.size > 1:
        rows.append(_row("1 rank alone", alone))
    print(table(["", "training loss", "test accuracy"], rows))
    print(f"{RULE.name}, learning rate {RULE.lr:g}, {epochs} epochs in batches of {digits.BATCH}")
    part = shard_slice(size, 0, comm.size)
    print(f"rank 0 owns {part.stop - part.start:,} parameters and their states")
    if comm.size == 1:
        print("for more ranks: mpiexec -n 2 fastopt demo --mpi")


def _row(name: str, history: digits.History) -> list[str]:
    return [name, f"{history.losses[-1]:.5f}", f"{history.accuracies[-1]:.1%}"]
