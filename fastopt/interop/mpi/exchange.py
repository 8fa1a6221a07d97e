"""The two large collectives, piece by piece: gradients reduce-scattered, parameters all-gathered.

MPI does the work. Piece `k` of every shard makes a chunk: the collectives of one chunk are under way
while the chunk before is stepped.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastopt.interop.mpi.partition import Partition
from fastopt.layouts.arrays import Array

RAW = {2: np.uint16, 4: np.uint32, 8: np.uint64}  # what is only moved needs no arithmetic


def mpi_type(dtype: np.dtype[Any]) -> Any:
    """MPI's type for sums of this dtype, None where this MPI has none."""
    from mpi4py import MPI

    names = {"float16": "FLOAT16_T", "float32": "FLOAT", "float64": "DOUBLE"}
    found = getattr(MPI, names.get(dtype.name, ""), MPI.DATATYPE_NULL)
    return None if found == MPI.DATATYPE_NULL else found


class Exchange:
    """The collectives of one optimizer.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
    partition : Partition
    dtype : numpy.dtype
        In which gradients are summed.
    """

    def __init__(self, comm: Any, partition: Partition, dtype: np.dtype[Any]) -> None:
        from mpi4py import MPI

        self._comm = comm
        self._partition = partition
        self._dtype = dtype
        self._type = mpi_type(dtype)
        self._in_place = MPI.IN_PLACE
        self._chunks = [partition.chunk(k) for k in range(partition.pieces)]
        self._counts = [[own.stop - own.start for own in chunk] for chunk in self._chunks]
        self._starts = [[own.start for own in chunk] for chunk in self._chunks]
        # Two, one to fill while the other is sent.
        most = max(map(sum, self._counts)) if self._packs(dtype) else 0
        self._staging = [np.empty(most, dtype) for _ in range(2)]

    def _packs(self, dtype: np.dtype[Any]) -> bool:
        """Whether gradients of this dtype must be brought into another form for MPI."""
        return len(self._chunks) > 1 or dtype != self._dtype

    def own(self, k: int) -> slice:
        """This rank's piece of chunk `k`, as a part of its shard."""
        piece = self._chunks[k][self._comm.rank]
        start = self._partition.shards[self._comm.rank].start
        return slice(piece.start - start, piece.stop - start)

    def reduce(self, grad: Array, into: Array, k: int) -> Any:
        """Start to sum chunk `k` of all gradients; each rank's piece goes into its place in `into`.

        What was started for chunk ``k - 2`` must have ended.
        """
        counts = self._counts[k]
        packed = self._packed(grad, k)
        target = into[self.own(k)]
        send, receive = [packed, packed.size, self._type], [target, target.size, self._type]
        return self._comm.Ireduce_scatter(send, receive, counts)

    def _packed(self, grad: Array, k: int) -> Array:
        """The pieces of chunk `k` one behind the other, as MPI wants them, in the dtype of sums."""
        if not self._packs(grad.dtype):
            return grad
        packed = self._staging[k % 2][: sum(self._counts[k])]
        position = 0
        for piece, count in zip(self._chunks[k], self._counts[k], strict=True):
            packed[position : position + count] = grad[piece]
            position += count
        return packed

    def gather(self, flat: Array, k: int, shard: Array | None = None) -> Any:
        """Start to bring chunk `k` of `flat` to all ranks, from their shards of it.

        Where the shard is not a part of `flat` it is given.
        """
        receive = [flat.view(RAW[flat.itemsize]), (self._counts[k], self._starts[k])]
        send = self._in_place if shard is None else shard.view(RAW[shard.itemsize])[self.own(k)]
        return self._comm.Iallgatherv(send, receive)
