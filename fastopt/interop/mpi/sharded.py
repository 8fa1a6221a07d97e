"""`ShardedOptimizer`: one step over parameters that many processes share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar, get_args

import numpy as np

from fastopt.arrays import checks, placement
from fastopt.arrays.checks import Array
from fastopt.arrays.device_array import AnyArray, leave
from fastopt.codecs.floats import floats
from fastopt.codecs.formats import number_of
from fastopt.interop.mpi import checkpoint
from fastopt.interop.mpi.exchange import Exchange, Reduction, Way, summed_in
from fastopt.interop.mpi.partition import Partition, usual_pieces
from fastopt.interop.mpi.ranks import Comm, Ranks, describe, fingerprint
from fastopt.optimizers.checkpoint import description, finish_loading, settings
from fastopt.optimizers.optimizer import Optimizer
from fastopt.optimizers.saved_description import by_option
from fastopt.steps.clipping import GradientStats
from fastopt.steps.stepper import Stepper, stepper_of
from fastopt.validation import PathLike, choice, finite_positive, flag, whole_number

Local = TypeVar("Local", bound=Optimizer)


class ShardedOptimizer(Generic[Local]):
    """Step parameters together with the other ranks of a communicator, each its own shard.

    A step sums the gradients of all ranks, each rank receiving the sum for its shard (reduce-scatter),
    steps the shard, and brings the new parameters to all ranks (all-gather). Large shards are exchanged
    in chunks: while one chunk is stepped, the previous and the next one are being sent.

    All methods but the plain attributes are collective: every rank must call them, in the same order.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
        Which processes take part.
    params : array
        Replicated: all parameters, of any shape, the same on every rank; those of rank 0 are taken.
        Owned: only the shard of this rank, flat, as `shard_slice` says. Never copied. On all ranks
        NumPy's, or on all of them on a CUDA device.
    make_optimizer : callable
        ``make_optimizer(shard)`` gives this rank's optimizer over `shard`, a flat array: any of
        fastopt's, with the same settings on all ranks. ``clip_norm`` and ``skip_nonfinite`` measure the
        gradients of all ranks.
    reduction : {"mean", "sum"}, default "mean"
        What a step takes of the gradients of all ranks.
    replicated : bool, default True
        Every rank has all parameters. If False it owns its shard alone, and `gather` brings the others
        on request.
    overlap_chunks : int, optional
        The number of chunks in which a shard is exchanged. By default chunks have about 1 MiB; with up
        to 64 MiB of parameters, and on a device, there is one.
    reduce_dtype : dtype, optional
        The dtype in which gradients are summed, by default that of the parameters. With float32,
        gradients of float16 and bfloat16 are summed in float32, and the step takes that sum as it is.
    device_exchange : {"auto", "direct", "host"}, default "auto"
        For arrays on a CUDA device: "direct" passes device pointers, "host" stages through host memory,
        "auto" is "direct" if MPI reports CUDA support, and an error if it does not.

    Attributes
    ----------
    optimizer : Optimizer
        The local one. Assign settings to it, such as ``lr``, on every rank.
    shard : array
        The parameters that this rank owns, flat.
    slice : slice
        Where they stand among all.

    Raises
    ------
    TypeError, ValueError
        An argument is not acceptable, or they differ between ranks. It is raised on every rank.
    RankError
        Something is not acceptable on another rank.

    Examples
    --------
    One process is a communicator too; ``mpiexec -n 4 python train.py`` makes four.

    >>> import numpy as np, fastopt
    >>> from mpi4py import MPI
    >>> from fastopt.interop.mpi import ShardedOptimizer
    >>> w = np.array([5.0])
    >>> opt = ShardedOptimizer(MPI.COMM_WORLD, w, lambda shard: fastopt.RMSProp(shard, lr=0.1))
    >>> opt.step(2 * w)
    >>> w
    array([4.68377223])
    """

    def __init__(
        self,
        comm: Comm,
        params: object,
        make_optimizer: Callable[[Array], Local],
        *,
        reduction: Reduction = "mean",
        replicated: bool = True,
        overlap_chunks: int | None = None,
        reduce_dtype: object = None,
        device_exchange: Way = "auto",
    ) -> None:
        self._ranks, self._comm = Ranks(comm), comm
        with self._ranks.together("ShardedOptimizer"):
            choice("reduction", reduction, get_args(Reduction))
            self._replicated = flag("replicated", replicated)
            entered = placement.enter("params", params)
            checks.check_writeable("params", entered)
            self._on_device = placement.is_on_device(entered)
            if not self._replicated and entered.ndim != 1:
                raise ValueError(
                    f"params must be flat where each rank owns a shard, got {entered.shape}"
                )
            if overlap_chunks is not None:
                whole_number("overlap_chunks", overlap_chunks, 1)
            self._accepted = summed_in(reduce_dtype, entered.dtype)
            if not callable(make_optimizer):
                raise TypeError(f"make_optimizer must be callable, not {make_optimizer!r}")
            choice("device_exchange", device_exchange, get_args(Way))
            if device_exchange != "auto" and not self._on_device:
                raise ValueError(
                    f"device_exchange is for params on a CUDA device, got {device_exchange!r} for "
                    "params in memory"
                )
        self._params, self._entered, self._reduction = params, entered, reduction
        self._check_same(overlap_chunks, device_exchange)
        self._divide(overlap_chunks, device_exchange)
        if self._replicated:
            self._exchange.broadcast(self._flat)
        with self._ranks.together("make_optimizer"):
            self.optimizer = make_optimizer(self.shard)
            if not isinstance(self.optimizer, Optimizer):
                kind = type(self.optimizer).__name__
                raise TypeError(f"make_optimizer must give an optimizer of fastopt, not {kind}")
            if self.optimizer.params is not self.shard:
                raise ValueError("make_optimizer must give an optimizer over the shard itself")
            if self.optimizer.sparse is not None:
                mode = self.optimizer.sparse
                raise ValueError(f"sparse must be None: sums over ranks are dense, got {mode!r}")
            if self.optimizer.capturable:
                raise ValueError("capturable must be False: a graph cannot hold what MPI does")
            self._stepper_of = stepper_of(self.optimizer)
            self._stepper_of().take_part(self.slice.start, self._ranks)
        described = by_option(description(self.optimizer)) | {"zero_grad": self.optimizer.zero_grad}
        self._ranks.same("optimizers of all ranks must be alike", described)

    def _check_same(self, overlap_chunks: int | None, device_exchange: Way) -> None:
        options = {
            "place": "a device" if self._on_device else "memory",
            "device_exchange": device_exchange,
            "dtype": self._entered.dtype.name,
            "reduction": self._reduction,
            "replicated": self._replicated,
            "overlap_chunks": overlap_chunks,
            "reduce_dtype": self._accepted[-1],
        }
        options |= {"shape": self._entered.shape} if self._replicated else {}
        self._ranks.same("all ranks must have the same parameters and options", options)

    def _divide(self, overlap_chunks: int | None, device_exchange: Way) -> None:
        """Find this rank's shard, and allocate the buffers for exchanging it."""
        size, rank = self._ranks.size, self._ranks.rank
        self._flat = flat = placement.part(self._entered, slice(0, self._entered.size))
        length = flat.size if self._replicated else sum(self._comm.allgather(flat.size))
        usual = 1 if self._on_device else usual_pieces(length, size, flat.itemsize)
        pieces = overlap_chunks or usual
        self._partition = Partition(length, size, pieces)
        self.slice = self._partition.shards[rank]
        with self._ranks.together("ShardedOptimizer"):
            shard_size = self._partition.size(rank)
            if not self._replicated and flat.size != shard_size:
                raise ValueError(
                    f"params must be the shard of {shard_size} elements that rank {rank} owns of "
                    f"{length} in all (see shard_slice), got {flat.size}"
                )
            summed = floats(self._accepted[-1]).dtype
            self._exchange = self._make_exchange(summed, device_exchange)
            # Where there are no others, the gradient is used where it is.
            self._received = placement.empty(flat, shard_size if size > 1 else 0, summed)
            self._part = placement.part(flat, self.slice) if self._replicated else flat
            self.shard: Any = self._part
            if self._on_device:
                from fastopt.interop.mpi import device_exchange as on_device

                self.shard = on_device.shown(self._params, self._part, self.slice, self._replicated)
        self._all: Any = flat if self._replicated else None
        shape = self._entered.shape if self._replicated else (length,)
        self._like: Array = np.broadcast_to(flat.dtype.type(0), shape)
        self._written = checks.Guarded([checks.memory_range("params", self._entered)])

    def _make_exchange(self, summed: np.dtype[np.generic], device_exchange: Way) -> Exchange:
        if not self._on_device:
            return Exchange(self._comm, self._partition, summed)
        from fastopt.interop.mpi import device_exchange as on_device

        return on_device.exchange(device_exchange, self._comm, self._partition, summed, self._entered)

    @property
    def comm(self) -> Comm:
        """The communicator."""
        return self._comm

    @property
    def params(self) -> Any:
        """The caller's array: all parameters, or this rank's shard."""
        return self._params

    @property
    def length(self) -> int:
        """The number of parameters on all ranks together."""
        return self._partition.length

    @property
    def replicated(self) -> bool:
        """Whether every rank has all parameters."""
        return self._replicated

    @property
    def reduction(self) -> Reduction:
        """What a step takes of the gradients of all ranks: their mean or their sum."""
        return self._reduction

    @property
    def overlap_chunks(self) -> int:
        """The number of pieces in which a shard is exchanged."""
        return self._partition.pieces

    @property
    def step_count(self) -> int:
        """The step count."""
        return self.optimizer.step_count

    @property
    def last(self) -> GradientStats | None:
        """The norm of the gradient of all ranks, and whether the step was skipped."""
        return self.optimizer.last

    def step(self, local_grad: object, *, grad_scale: float = 1.0, stream: object = None) -> None:
        """Update the parameters with the gradients of all ranks.

        Parameters
        ----------
        local_grad : array
            This rank's gradient for all parameters: of their shape, flat where shards are owned; in
            the dtype of sums, or of 16 bits where that is float32.
        grad_scale : float, optional
            Gradients are multiplied by ``1 / grad_scale`` first.
        stream : stream, optional
            On a CUDA device, as for ``Optimizer.step``: where the gradient is produced. MPI knows no
            streams, so the host waits for it first, and for the step before it returns.

        Raises
        ------
        TypeError, ValueError
            The gradient or a hyperparameter is not acceptable, or ranks differ in their settings or in
            the number of the step. Nothing was changed, on any rank.
        RankError
            That is so on another rank. Nothing was changed.
        """
        with self._ranks.together("step") as notes:
            grad = placement.enter("local_grad", local_grad)
            checks.check_readable("local_grad", grad, self._accepted)
            checks.check_shape("local_grad", grad, self._like)
            placement.check_one_place([("params", self._entered), ("local_grad", grad)])
            self._written.check_apart("local_grad", grad)
            checks.check_is_written("params", self._entered)  # by now too
            if self.optimizer.zero_grad:
                checks.check_writeable("local_grad", grad)
            self._exchange.prepare(grad.dtype)
            flat = placement.part(grad, slice(0, grad.size))
            scale = finite_positive("grad_scale", grad_scale)
            stepper = self._stepper_of()  # after a load that was interrupted it refuses
            scale *= self._ranks.size if self._reduction == "mean" else 1
            summed = flat if self._ranks.size == 1 else self._received
            stepper.begin(summed, scale, self._exchange.wait_for(flat, stream))
            notes.fingerprint = fingerprint(stepper)
            notes.describe = lambda: describe(stepper, settings(self.optimizer))
        if self._exchange_and_step(stepper, flat):
            stepper.end()
            if self.optimizer.zero_grad and self._ranks.size > 1:
                placement.clear(flat)

    def _exchange_and_step(self, stepper: Stepper, flat: AnyArray) -> bool:
        """Whether the step was taken."""
        if self._ranks.size == 1:
            steps = stepper.decide()
            if steps:
                stepper.run(0, flat.size)
                self._exchange.wait()
            return steps
        arrived: Iterable[int] = self._exchange.reduced(flat, self._received)
        whole = stepper.pass_sums is not None  # a block of its sums may reach across pieces
        if whole or stepper.reads_first:  # norm and sums are of the whole gradient
            arrived = list(arrived)
            if not stepper.decide():
                return False
        with self._exchange.gathering() as gather:
            for k in arrived:
                piece = slice(0, self._received.size) if whole else self._exchange.in_shard(k)
                stepper.run(piece.start, piece.stop)  # of what was stepped nothing, once more
                self._exchange.wait()
                if self._all is not None:
                    gather(self._all, k)
        return True

    def gather(self, out: object = None, *, of: object = None) -> Any:
        """Gather an array that is sharded like the parameters on all ranks.

        Parameters
        ----------
        out : array, optional
            Flat, for all elements; a new one if it is left out.
        of : array, optional
            This rank's part, flat like `shard`, which it is by default. A state will do, or the array
            that ``copy_to`` writes: ``opt.gather(of=opt.optimizer.state["exp_avg"])``.

        Returns
        -------
        array
            `out`, filled.

        Raises
        ------
        TypeError, ValueError, RankError
            An array is not acceptable, on this rank or on another one.
        """
        with self._ranks.together("gather") as notes:
            part = self._part if of is None else placement.enter("of", of)
            checks.check_readable("of", part)
            checks.check_shape("of", part, self._part)
            like = np.broadcast_to(part.dtype.type(0), self.length)
            filled = placement.empty(part, self.length) if out is None else placement.enter("out", out)
            checks.check_writeable("out", filled, (part.dtype.name,))
            checks.check_like("out", filled, like)
            placement.check_one_place([("params", self._entered), ("of", part), ("out", filled)])
            checks.Guarded([checks.memory_range("of", part)]).check_apart("out", filled)
            self._written.check_apart("out", filled)
            placement.synchronize(filled)
            notes.fingerprint = number_of(part.dtype.name)
            notes.describe = lambda: {"dtype": part.dtype.name}
        self._exchange.gather_all(filled, part)
        return leave(filled) if out is None else out

    def save(self, path: PathLike) -> None:
        """Write parameters and states to a folder: it then holds all of them, or what it held before.

        Every rank writes its own shard to a file, and rank 0 a small index when all files are there.

        Parameters
        ----------
        path : str or path
            A folder that all ranks see; made if it is not there. A process killed meanwhile leaves
            files that the next save takes away.

        Raises
        ------
        ValueError, OSError, RankError
            A rank cannot write. The checkpoint that was there stays.
        """
        checkpoint.save(self._ranks, path, self.optimizer, self._part, self._partition)

    def load(self, path: PathLike) -> None:
        """Continue from a folder written by `save`, on whatever number of ranks.

        Parameters and states are read; settings are taken over as by ``Optimizer.load``.

        Parameters
        ----------
        path : str or path
            The folder.

        Raises
        ------
        FileNotFoundError
            There is no checkpoint, or a part of it is missing.
        TypeError, ValueError
            It is damaged, or belongs to another optimizer. Nothing was changed, on any rank.
        RankError
            That is so on another rank. Nothing was changed.
        """
        checkpoint.load(self._ranks, path, self.optimizer, self._part, self._partition)
        if self._all is not None:
            self._exchange.gather_all(self._all)
        finish_loading(self.optimizer)

    def __reduce__(self) -> Any:
        raise TypeError("a ShardedOptimizer cannot be copied or pickled: use save and load")

    def __repr__(self) -> str:
        kind = "replicated" if self._replicated else "owned"
        return (
            f"ShardedOptimizer(<rank {self._ranks.rank} of {self._ranks.size}>, {self.slice.start}:"
            f"{self.slice.stop} of {self.length} elements, {kind}, {self.optimizer!r})"
        )
