"""The two large collectives, piece by piece: gradients reduce-scattered, parameters all-gathered.

MPI does the work. Piece `k` of every shard makes a chunk: the collectives of one chunk are under way
while the chunk before is stepped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from fastopt.interop.mpi.partition import Partition
from fastopt.layouts.arrays import Array

UNDER_WAY = 2  # all-gathers at a time
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

    Raises
    ------
    ValueError
        This MPI cannot sum numbers of that dtype.
    """

    def __init__(self, comm: Any, partition: Partition, dtype: np.dtype[Any]) -> None:
        from mpi4py import MPI

        self._comm = comm
        self._partition = partition
        self._pieces = partition.pieces
        self._dtype = dtype
        self._type = mpi_type(dtype)
        if self._type is None and self._comm.size > 1:
            raise ValueError(
                f"this MPI cannot sum {dtype}: give reduce_dtype, such as numpy.float32, for gradients"
            )
        self._in_place = MPI.IN_PLACE
        # Two, one to fill while the other is sent; made when they are needed.
        self._staging: list[Array] = []
        self.prepare(dtype)

    def prepare(self, dtype: np.dtype[Any]) -> None:
        """Get ready for gradients of this dtype."""
        if self._packs(dtype) and not self._staging and self._comm.size > 1:
            most = self._partition.largest_chunk
            self._staging = [np.empty(most, self._dtype) for _ in range(min(self._pieces, 2))]

    def _packs(self, dtype: np.dtype[Any]) -> bool:
        """Whether gradients of this dtype must be brought into another form for MPI."""
        return self._pieces > 1 or dtype != self._dtype

    def own(self, k: int) -> slice:
        """This rank's piece of chunk `k`, as a part of its shard."""
        piece = self._partition.piece(self._comm.rank, k)
        start = self._partition.shards[self._comm.rank].start
        return slice(piece.start - start, piece.stop - start)

    def reduced(self, grad: Array, into: Array) -> Iterator[int]:
        """Sum the gradients of all ranks, each piece into its place in `into`.

        Gives the number of each chunk as it arrives; by then the next one is under way.
        """
        under_way: deque[Any] = deque()
        for k in range(self._pieces):
            under_way.append(self._reduce(grad, into, k))
            if k > 0:
                under_way.popleft().Wait()
                yield k - 1
        under_way.popleft().Wait()
        yield self._pieces - 1

    def _reduce(self, grad: Array, into: Array, k: int) -> Any:
        chunk = self._partition.chunk(k)
        counts = [piece.stop - piece.start for piece in chunk]
        packed = self._packed(grad, chunk, k) if self._packs(grad.dtype) else grad
        target = into[self.own(k)]
        send, receive = [packed, packed.size, self._type], [target, target.size, self._type]
        return self._comm.Ireduce_scatter(send, receive, counts)

    def _packed(self, grad: Array, chunk: list[slice], k: int) -> Array:
        """The pieces of a chunk one behind the other, as MPI wants them, in the dtype of sums."""
        staging, position = self._staging[k % 2], 0
        for piece in chunk:
            following = position + piece.stop - piece.start
            staging[position:following] = grad[piece]
            position = following
        return staging[:position]

    @contextmanager
    def gathering(self) -> Iterator[Callable[..., None]]:
        """``gather(flat, k)`` starts to bring chunk `k` of `flat` to all ranks; the end waits for all.

        Where a rank's shard is not a part of `flat`, it is the third argument.
        """
        under_way: deque[Any] = deque()

        def gather(flat: Array, k: int, shard: Array | None = None) -> None:
            if len(under_way) == UNDER_WAY:
                under_way.popleft().Wait()
            send = self._in_place if shard is None else shard.view(RAW[shard.itemsize])[self.own(k)]
            chunk = self._partition.chunk(k)
            counts = [piece.stop - piece.start for piece in chunk]
            starts = [piece.start for piece in chunk]
            receive = [flat.view(RAW[flat.itemsize]), (counts, starts)]
            under_way.append(self._comm.Iallgatherv(send, receive))

        yield gather
        for request in under_way:
            request.Wait()

    def gather_all(self, flat: Array, shard: Array | None = None) -> None:
        """Bring all of `flat` to all ranks."""
        with self.gathering() as gather:
            for k in range(self._pieces):
                gather(flat, k, shard)
