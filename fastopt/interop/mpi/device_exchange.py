"""The collectives over CUDA arrays: by a CUDA-aware MPI, or staged through host memory."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from fastopt.arrays import placement
from fastopt.arrays.checks import Array
from fastopt.arrays.device_array import AnyArray, DeviceArray, library_of
from fastopt.codecs.base import DType
from fastopt.executors.cuda import device, place, streams
from fastopt.interop.mpi.exchange import Exchange
from fastopt.interop.mpi.partition import Partition

if TYPE_CHECKING:
    from mpi4py import MPI

# How MPIs say so, beside the standard: Open MPI and MPICH by the one, kin of MPICH by the other.
QUERY, GPU_QUERY, GPU_CUDA = "MPIX_Query_cuda_support", "MPIX_GPU_query_support", 0


def reads_devices(comm: MPI.Comm) -> bool:
    """Whether this MPI reports CUDA support.

    MPI 4.1 tells in the information on a communicator; many MPIs before it have a function.
    """
    from mpi4py import MPI

    information = comm.Get_info()
    try:
        kinds = information.Get("mpi_memory_alloc_kinds") or ""
    finally:
        information.Free()
    if any(kind.partition(":")[0] == "cuda" for kind in kinds.split(",")):
        return True
    library = ctypes.CDLL(MPI.__file__)  # with what it is linked to
    if hasattr(library, QUERY):
        return bool(getattr(library, QUERY)() == 1)
    if hasattr(library, GPU_QUERY):
        answer = ctypes.c_int(0)
        return getattr(library, GPU_QUERY)(GPU_CUDA, ctypes.byref(answer)) == 0 and bool(answer.value)
    return False


def exchange(
    way: str, comm: MPI.Comm, partition: Partition, dtype: DType, params: DeviceArray
) -> DeviceExchange:
    """The exchange that is asked for.

    Raises
    ------
    ValueError
        It is left to MPI, which says that it cannot read the memory of a device.
    """
    if way == "auto":
        # One process alone sends nothing, and what it brings to itself any MPI can move on the host.
        way = "direct" if reads_devices(comm) else "host" if comm.size == 1 else way
    if way == "auto":
        from mpi4py import MPI

        version = MPI.Get_library_version().partition("\n")[0].strip("\0 ")
        raise ValueError(
            f"params are on a CUDA device, which this MPI ({version}) does not say that it can read: "
            "use a CUDA-aware MPI, or give device_exchange='host' to exchange them through the memory "
            "of the host, or 'direct' if you know that this MPI can"
        )
    kind = DirectExchange if way == "direct" else HostExchange
    with device.on(device.ordinal(params)):
        return kind(comm, partition, dtype)


def shown(params: Any, part: DeviceArray, piece: slice, replicated: bool) -> Any:
    """The shard as an array of the library that `params` is of."""
    if not replicated:
        return params
    try:
        flat = params.detach() if library_of(params) == "torch" else params
        shard = flat.reshape(-1)[piece]
        address = placement.enter("params", shard).address
    # Numba's device arrays raise NotImplementedError for a reshape that needs a copy.
    except (AttributeError, TypeError, NotImplementedError) as error:
        kind = type(params).__name__
        raise TypeError(f"params must have reshape and slices on a device, not be {kind}") from error
    if part.size and address != part.address:
        raise TypeError("params must be of a library whose slices are no copies")
    return shard


class DeviceExchange(Exchange):
    """The base of both exchanges, for arrays on the current device.

    MPI does not know streams, so the host synchronizes them. The parameters are those of `Exchange`.
    """

    _stream = 0  # on which gradients are produced and packed, and steps are launched

    def __init__(self, *arguments: Any) -> None:
        self._ordinal = device.current()
        super().__init__(*arguments)

    def wait_for(self, grad: Any, stream: object) -> Any:
        """Wait until a gradient can be read; return the stream to step on."""
        self._stream = streams.default(grad)() if stream is None else streams.handle(stream)
        self.wait()
        return self._stream

    def wait(self) -> None:
        """Synchronize the stream of the steps."""
        with device.on(self._ordinal):
            device.synchronize(self._stream)


class DirectExchange(DeviceExchange):
    """The exchange by a CUDA-aware MPI, with device pointers."""

    def _empty(self, size: int) -> DeviceArray:
        with device.on(self._ordinal):
            return device.allocate((size,), self._dtype)

    def _fill(self, staging: Any, grad: AnyArray, chunk: list[slice]) -> None:
        position = 0
        for piece in chunk:
            following = position + piece.stop - piece.start
            target = staging.part(position, following)
            place.convert(target, placement.part(grad, piece), self._stream)
            position = following
        self.wait()

    def _buffer(self, array: DeviceArray) -> object:
        from mpi4py import MPI

        return MPI.memory.fromaddress(array.address, array.nbytes)


class HostExchange(DeviceExchange):
    """The exchange by any MPI, staged through host memory."""

    def _host(self, role: str, size: int, dtype: DType) -> Array:
        """A buffer in host memory, which is kept for the next step."""
        buffer = self._memory.get(role)
        if buffer is None or buffer.size != size or buffer.dtype != dtype:
            buffer = self._memory[role] = np.empty(size, dtype)
        return buffer

    @cached_property
    def _memory(self) -> dict[str, Array]:
        return {}

    def broadcast(self, flat: AnyArray) -> None:
        """Broadcast the content of rank 0."""
        if self._comm.size > 1:
            host = placement.to_host(flat)
            super().broadcast(host)
            placement.copy(flat, host)

    def reduced(self, grad: Any, into: AnyArray) -> Iterator[int]:
        """Sum the gradients of all ranks, each piece into its slice of `into`."""
        staged = self._host("gradient", grad.size, grad.dtype)
        place.read(staged, grad)
        host = self._host("sum", into.size, into.dtype)
        for k in super().reduced(staged, host):
            piece = self.in_shard(k)
            placement.copy(placement.part(into, piece), host[piece])
            yield k

    @contextmanager
    def gathering(self) -> Iterator[Callable[..., None]]:
        """``gather(flat, k)`` starts to gather chunk `k` on all ranks; the exit waits for all."""
        staged: list[tuple[Any, Array]] = []
        with super().gathering() as gather_host:

            def gather(flat: AnyArray, k: int, shard: AnyArray | None = None) -> None:
                if not staged:
                    staged.append((flat, self._host("whole", flat.size, flat.dtype)))
                host = staged[0][1]
                piece = self._partition.piece(self._comm.rank, k)
                source = (
                    placement.part(flat, piece)
                    if shard is None
                    else placement.part(shard, self.in_shard(k))
                )
                place.read(host[piece], source)
                gather_host(host, k)

            yield gather
        for flat, host in staged:
            placement.copy(flat, host)
