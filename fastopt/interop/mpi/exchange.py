"""The two large collectives, piece by piece: gradients reduce-scattered, parameters all-gathered.

MPI does the work. Piece `k` of every shard makes a chunk: the collectives of one chunk are under way
while the chunk before is stepped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from fastopt.arrays import placement
from fastopt.arrays.device_array import AnyArray
from fastopt.codecs.base import DType
from fastopt.codecs.floats import as_dtype
from fastopt.codecs.formats import FORMATS, name_of, partners_of
from fastopt.interop.mpi.partition import Partition
from fastopt.text import listed

if TYPE_CHECKING:
    from mpi4py import MPI

UNDER_WAY = 2  # all-gathers at a time
Way: TypeAlias = Literal["auto", "direct", "host"]  # in which arrays on a device are exchanged
Reduction: TypeAlias = Literal["mean", "sum"]


def mpi_type(dtype: DType) -> MPI.Datatype | None:
    """MPI's type for sums of this dtype, None where this MPI has none."""
    from mpi4py import MPI

    row = FORMATS.get(dtype.name)
    datatype = getattr(MPI, row.mpi, MPI.DATATYPE_NULL) if row and row.mpi else MPI.DATATYPE_NULL
    return None if datatype == MPI.DATATYPE_NULL else datatype


def summed_in(reduce_dtype: object, dtype: DType) -> tuple[str, ...]:
    """The formats that gradients may have, the last of them the one in which they are summed."""
    name = str(name_of(dtype))
    if reduce_dtype is not None:
        try:
            name = as_dtype(reduce_dtype).name
        except TypeError as error:
            raise TypeError(f"reduce_dtype must be a dtype, not {reduce_dtype!r}") from error
    accepted = partners_of(dtype)
    if name not in accepted:
        raise ValueError(
            f"reduce_dtype must be {listed(accepted)} for parameters of {dtype}, got {name}"
        )
    return accepted if name == "float32" else (name,)


class Exchange:
    """The collectives of one optimizer, over arrays in memory.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
    partition : Partition
    dtype : numpy.dtype
        Of the sums of gradients.

    Raises
    ------
    ValueError
        This MPI cannot sum numbers of that dtype.
    """

    def __init__(self, comm: MPI.Comm, partition: Partition, dtype: DType) -> None:
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
        self._words = {1: MPI.UINT8_T, 2: MPI.UINT16_T, 4: MPI.UINT32_T, 8: MPI.UINT64_T}
        # Two, one to fill while the other is sent; allocated on first use.
        self._staging: list[Any] = []
        self.prepare(dtype)

    def _empty(self, size: int) -> Any:
        """A buffer for gradients, in the dtype of sums."""
        return np.empty(size, self._dtype)

    def _fill(self, staging: Any, grad: Any, chunk: list[slice]) -> None:
        """Pack the pieces of a chunk contiguously, in the dtype of sums."""
        position = 0
        for piece in chunk:
            following = position + piece.stop - piece.start
            staging[position:following] = grad[piece]
            position = following

    def _buffer(self, array: Any) -> object:
        """An array of any format as a buffer for MPI, whose datatype is passed beside it."""
        return array.view(f"u{array.itemsize}")

    def _moved(self, array: AnyArray) -> list[Any]:
        """The MPI arguments of an array that is only moved, without arithmetic."""
        return [self._buffer(array), array.size, self._words[array.itemsize]]

    def prepare(self, dtype: DType) -> None:
        """Allocate staging buffers for gradients of this dtype, if they are needed."""
        if self._packs(dtype) and not self._staging and self._comm.size > 1:
            most = self._partition.largest_chunk
            self._staging = [self._empty(most) for _ in range(min(self._pieces, 2))]

    def _packs(self, dtype: DType) -> bool:
        """Whether gradients of this dtype must be packed for MPI."""
        return self._pieces > 1 or dtype != self._dtype

    def in_shard(self, k: int) -> slice:
        """This rank's piece of chunk `k`, as a slice of its shard."""
        piece = self._partition.piece(self._comm.rank, k)
        start = self._partition.shards[self._comm.rank].start
        return slice(piece.start - start, piece.stop - start)

    def wait_for(self, grad: object, stream: object) -> Any:
        """Wait until a gradient can be read; return the stream to step on."""
        return stream

    def wait(self) -> None:
        """Wait until what was stepped can be sent."""

    def broadcast(self, flat: AnyArray) -> None:
        """Broadcast the content of rank 0."""
        if self._comm.size > 1:
            self._comm.Bcast(self._moved(flat), root=0)

    def reduced(self, grad: AnyArray, into: AnyArray) -> Iterator[int]:
        """Sum the gradients of all ranks, each piece into its slice of `into`.

        Yields the index of each chunk when it has arrived and the next one is being sent.
        """
        under_way: deque[Any] = deque()
        for k in range(self._pieces):
            under_way.append(self._reduce(grad, into, k))
            if k > 0:
                under_way.popleft().Wait()
                yield k - 1
        under_way.popleft().Wait()
        yield self._pieces - 1

    def _reduce(self, grad: AnyArray, into: AnyArray, k: int) -> MPI.Request:
        chunk = self._partition.chunk(k)
        counts = [piece.stop - piece.start for piece in chunk]
        packed = self._packed(grad, chunk, k) if self._packs(grad.dtype) else grad
        target = placement.part(into, self.in_shard(k))
        send = [self._buffer(packed), packed.size, self._type]
        receive = [self._buffer(target), target.size, self._type]
        return self._comm.Ireduce_scatter(send, receive, counts)

    def _packed(self, grad: AnyArray, chunk: list[slice], k: int) -> Any:
        """The pieces of a chunk in a staging buffer, in the dtype of sums."""
        staging = self._staging[k % 2]
        size = sum(piece.stop - piece.start for piece in chunk)
        self._fill(staging, grad, chunk)
        return placement.part(staging, slice(0, size))

    @contextmanager
    def gathering(self) -> Iterator[Callable[..., None]]:
        """``gather(flat, k)`` starts to gather chunk `k` of `flat` on all ranks; the exit waits.

        A rank's shard that is not a part of `flat` is the third argument.
        """
        under_way: deque[Any] = deque()

        def gather(flat: AnyArray, k: int, shard: AnyArray | None = None) -> None:
            if len(under_way) == UNDER_WAY:
                under_way.popleft().Wait()
            send = (
                self._in_place
                if shard is None
                else self._moved(placement.part(shard, self.in_shard(k)))
            )
            chunk = self._partition.chunk(k)
            counts = [piece.stop - piece.start for piece in chunk]
            starts = [piece.start for piece in chunk]
            receive, _, kind = self._moved(flat)
            under_way.append(self._comm.Iallgatherv(send, [receive, (counts, starts), kind]))

        yield gather
        for request in under_way:
            request.Wait()

    def gather_all(self, flat: AnyArray, shard: AnyArray | None = None) -> None:
        """Gather all of `flat` on all ranks."""
        with self.gathering() as gather:
            for k in range(self._pieces):
                gather(flat, k, shard)
