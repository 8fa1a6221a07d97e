"""Saving and loading together: every rank its own shard, and all of them or none."""

from __future__ import annotations

import uuid
from contextlib import suppress

import numpy as np

from fastopt.arrays import placement
from fastopt.arrays.checks import Array
from fastopt.arrays.device_array import DeviceArray
from fastopt.interop.mpi import shard_files
from fastopt.interop.mpi.partition import Partition
from fastopt.interop.mpi.ranks import Ranks
from fastopt.optimizers.checkpoint import description, finish_loading
from fastopt.optimizers.optimizer import Optimizer
from fastopt.validation import PathLike, as_path


def save(ranks: Ranks, path: PathLike, optimizer: Optimizer, flat: Array, partition: Partition) -> None:
    """Write the shard of each rank, then the index that makes them the checkpoint."""
    name = ranks.comm.bcast(uuid.uuid4().hex[:12], root=0)
    with ranks.together("save"):
        folder = as_path("path", path)
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"path must be a folder, but {folder} is a file")
        if ranks.rank == 0:
            folder.mkdir(parents=True, exist_ok=True)
    saved = [
        shard_files.Saved(shard_files.file_name(name, rank, ranks.size), shard.start, shard.stop)
        for rank, shard in enumerate(partition.shards)
    ]
    try:
        with ranks.together("save"):
            optimizer.catch_up()
            shard_files.write_shard(
                folder, name, saved[ranks.rank], shard_files.arrays_of(optimizer, flat)
            )
        with ranks.together("save"):
            if ranks.rank == 0:
                shard_files.write_index(folder, name, flat.dtype, saved, description(optimizer))
    except Exception:
        with suppress(FileNotFoundError):
            (folder / saved[ranks.rank].file).unlink()
        raise
    with ranks.together("save"):
        if ranks.rank == 0:
            shard_files.remove_others(folder, name)


def load(ranks: Ranks, path: PathLike, optimizer: Optimizer, flat: Array, partition: Partition) -> None:
    """Read the shard of each rank, after checking all files.

    The optimizer refuses to step until `finish_loading`.
    """
    with ranks.together("load"):
        shard = partition.shards[ranks.rank]
        shards = shard_files.Shards(as_path("path", path), optimizer, flat, shard, partition.length)
    with ranks.together("load"):
        shards.place()


def load_checkpoint(path: PathLike, optimizer: Optimizer) -> None:
    """Continue from a sharded checkpoint in one process, without MPI.

    Parameters
    ----------
    path : str or path
        The folder that `ShardedOptimizer.save` wrote, on whatever number of ranks.
    optimizer : Optimizer
        Made as the local ones were, over a single array with all parameters: it is filled too.

    Raises
    ------
    FileNotFoundError
        There is no checkpoint, or a part of it is missing.
    TypeError, ValueError
        It is damaged, or belongs to another optimizer. Nothing was changed.

    Examples
    --------
    >>> import tempfile, numpy as np, fastopt
    >>> from mpi4py import MPI
    >>> from fastopt.interop.mpi import ShardedOptimizer, load_checkpoint
    >>> folder, w = tempfile.mkdtemp(), np.array([5.0])
    >>> sharded = ShardedOptimizer(MPI.COMM_WORLD, w, lambda shard: fastopt.RMSProp(shard, lr=0.1))
    >>> sharded.step(2 * w)
    >>> sharded.save(folder)
    >>> plain = fastopt.RMSProp(np.empty(1), lr=0.1)
    >>> load_checkpoint(folder, plain)
    >>> plain.step_count, plain.params
    (1, array([4.68377223]))
    """
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer must be one of fastopt's, not {type(optimizer).__name__}")
    params = placement.enter("params", optimizer.params)
    if not isinstance(params, (np.ndarray, DeviceArray)):
        raise TypeError("optimizer must be over a single array, not over several")
    flat = placement.part(params, slice(0, params.size))
    shards = shard_files.Shards(as_path("path", path), optimizer, flat, slice(0, flat.size), flat.size)
    shards.place()
    finish_loading(optimizer)
