"""Steps that many processes share, over MPI: each owns a part of the parameters and of the states.

Sharding and collectives work on any communicator of mpi4py, which is imported when one is used: reading
a checkpoint with `load_checkpoint` needs no MPI.
"""

from __future__ import annotations

from fastopt.interop.mpi.checkpoint import load_checkpoint
from fastopt.interop.mpi.partition import shard_slice
from fastopt.interop.mpi.ranks import RankError
from fastopt.interop.mpi.sharded import ShardedOptimizer

__all__ = ["RankError", "ShardedOptimizer", "load_checkpoint", "shard_slice"]
