"""`ShardedOptimizer`: one step over parameters that many processes share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from fastopt.codecs.floats import NAMES, floats, name_of
from fastopt.interop.mpi import checkpoint
from fastopt.interop.mpi.exchange import RAW, Exchange
from fastopt.interop.mpi.partition import Partition, usual_pieces
from fastopt.interop.mpi.ranks import Ranks
from fastopt.layouts import arrays
from fastopt.layouts.arrays import Array
from fastopt.optimizers.optimizer import Optimizer
from fastopt.optimizers.pieces import Pieces
from fastopt.optimizers.watch import Last
from fastopt.validation import finite_positive, flag, whole_number


class ShardedOptimizer:
    """Step parameters together with the other ranks of a communicator, each its own shard.

    A step sums the gradients of all ranks, each rank receiving the sum for its shard (reduce-scatter),
    steps the shard, and brings the new parameters to all ranks (all-gather). Shards are exchanged in
    pieces: while one piece is stepped, those before and behind it are on their way.

    All methods but the plain attributes are collective: every rank must call them, in the same order.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
        Which processes take part.
    params : array
        Replicated: all parameters, of any shape, the same on every rank; those of rank 0 are taken.
        Owned: only the shard of this rank, flat, as `shard_slice` says. Never copied.
    make_optimizer : callable
        ``make_optimizer(shard)`` gives this rank's optimizer over `shard`, a flat array: any of
        fastopt's, with the same settings on all ranks. ``clip_norm`` and ``skip_nonfinite`` look at the
        gradients of all ranks.
    average : bool, default True
        Step with the mean of the gradients, and not with their sum.
    replicated : bool, default True
        Every rank has all parameters. If False it owns its shard alone, and `gather` brings the others
        on request.
    overlap_chunks : int, optional
        In how many pieces a shard is exchanged; by default pieces are of about 1 MiB.
    reduce_dtype : dtype, optional
        In which gradients are summed, by default that of the parameters. With float32, gradients of
        float16 and bfloat16 are summed in float32, and the step takes that sum as it is.

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
        comm: Any,
        params: Any,
        make_optimizer: Callable[[Array], Optimizer],
        *,
        average: bool = True,
        replicated: bool = True,
        overlap_chunks: int | None = None,
        reduce_dtype: Any = None,
    ) -> None:
        self._ranks = Ranks(comm)
        self._comm = comm
        with self._ranks.together("ShardedOptimizer"):
            self._average = flag("average", average)
            self._replicated = flag("replicated", replicated)
            arrays.check_writeable("params", params)
            if not self._replicated and params.ndim != 1:
                raise ValueError(
                    f"params must be flat where each rank owns a shard, got {params.shape}"
                )
            if overlap_chunks is not None:
                whole_number("overlap_chunks", overlap_chunks, 1)
            self._accepted = _summed_in(reduce_dtype, params.dtype)
            if not callable(make_optimizer):
                raise TypeError(f"make_optimizer must be callable, not {make_optimizer!r}")
        self._params: Array = params
        self._check_same(overlap_chunks)
        self._divide(overlap_chunks)
        if self._replicated:
            comm.Bcast(params.reshape(-1).view(RAW[params.itemsize]), root=0)
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
        own = self.optimizer._description() | {"zero_grad": self.optimizer.zero_grad}
        self._ranks.same("optimizers of all ranks must be alike", own)
        self._pieces = Pieces(self.optimizer, self._ranks, self.slice.start)

    def _check_same(self, overlap_chunks: int | None) -> None:
        own = {
            "dtype": self._params.dtype.name,
            "average": self._average,
            "replicated": self._replicated,
            "overlap_chunks": overlap_chunks,
            "reduce_dtype": self._accepted[-1],
        }
        own |= {"shape": self._params.shape} if self._replicated else {}
        self._ranks.same("all ranks must have the same parameters and options", own)

    def _divide(self, overlap_chunks: int | None) -> None:
        """Find this rank's shard, and make the buffers for exchanging it."""
        size, rank, flat = self._ranks.size, self._ranks.rank, self._params.reshape(-1)
        length = flat.size if self._replicated else sum(self._comm.allgather(flat.size))
        pieces = overlap_chunks or usual_pieces(length, size, flat.itemsize)
        self._partition = Partition(length, size, pieces)
        self.slice = self._partition.shards[rank]
        with self._ranks.together("ShardedOptimizer"):
            own = self._partition.size(rank)
            if not self._replicated and flat.size != own:
                raise ValueError(
                    f"params must be the shard of {own} elements that rank {rank} owns of {length} in "
                    f"all (see shard_slice), got {flat.size}"
                )
            summed = floats(self._accepted[-1]).dtype
            self._exchange = Exchange(self._comm, self._partition, summed)
            # Where there are no others, the gradient is used where it is.
            self._received = np.empty(own if size > 1 else 0, summed)
        self._all: Array | None = flat if self._replicated else None
        self.shard: Array = flat[self.slice] if self._replicated else flat
        shape = self._params.shape if self._replicated else (length,)
        self._like: Array = np.broadcast_to(flat.dtype.type(0), shape)
        self._written = [arrays.memory_range("params", self._params)]

    @property
    def comm(self) -> Any:
        """The communicator."""
        return self._comm

    @property
    def params(self) -> Array:
        """The array that was given: all parameters, or the own shard."""
        return self._params

    @property
    def length(self) -> int:
        """How many parameters there are on all ranks together."""
        return self._partition.length

    @property
    def replicated(self) -> bool:
        """Whether every rank has all parameters."""
        return self._replicated

    @property
    def average(self) -> bool:
        """Whether the gradients' mean is used, and not their sum."""
        return self._average

    @property
    def overlap_chunks(self) -> int:
        """In how many pieces a shard is exchanged."""
        return self._partition.pieces

    @property
    def step_count(self) -> int:
        """How many steps were taken."""
        return self.optimizer.step_count

    @property
    def last(self) -> Last | None:
        """The norm of the gradient of all ranks, and whether the step was skipped."""
        return self.optimizer.last

    def step(self, local_grad: Any, *, grad_scale: float = 1.0) -> None:
        """Update the parameters with the gradients of all ranks.

        Parameters
        ----------
        local_grad : array
            This rank's gradient for all parameters: of their shape, flat where shards are owned; in
            the dtype of sums, or of 16 bits where that is float32.
        grad_scale : float, optional
            Gradients are multiplied by ``1 / grad_scale`` first.

        Raises
        ------
        TypeError, ValueError
            The gradient or a hyperparameter is not acceptable, or ranks differ in their settings or in
            the number of the step. Nothing was changed, on any rank.
        RankError
            That is so on another rank. Nothing was changed.
        """
        with self._ranks.together("step") as notes:
            arrays.check_readable("local_grad", local_grad, self._accepted)
            arrays.check_shape("local_grad", local_grad, self._like)
            arrays.check_apart("local_grad", local_grad, self._written)
            if self.optimizer.zero_grad:
                arrays.check_writeable("local_grad", local_grad)
            self._exchange.prepare(local_grad.dtype)
            flat = local_grad.reshape(-1)
            grad = flat if self._ranks.size == 1 else self._received
            scale = finite_positive("grad_scale", grad_scale)
            self._pieces.begin(grad, scale * self._ranks.size if self._average else scale)
            notes.fingerprint = self._pieces.fingerprint()
            notes.describe = self._pieces.describe
        if self._exchange_and_step(flat):
            self._pieces.end()
            if self.optimizer.zero_grad and self._ranks.size > 1:
                flat.fill(0)

    def _exchange_and_step(self, flat: Array) -> bool:
        """Whether the step was taken."""
        if self._ranks.size == 1:
            taken = self._pieces.decide()
            if taken:
                self._pieces.run(0, flat.size)
            return taken
        arrived: Iterable[int] = self._exchange.reduced(flat, self._received)
        if self._pieces.waits:
            arrived = list(arrived)
            if not self._pieces.decide():
                return False
        with self._exchange.gathering() as gather:
            for k in arrived:
                own = self._exchange.own(k)
                self._pieces.run(own.start, own.stop)
                if self._all is not None:
                    gather(self._all, k)
        return True

    def gather(self, out: Any = None, *, of: Any = None) -> Array:
        """Bring an array that is spread over the ranks like the parameters to all of them.

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
            part = self.shard if of is None else of
            arrays.check_readable("of", part)
            arrays.check_shape("of", part, self.shard)
            whole = np.broadcast_to(part.dtype.type(0), self.length)
            out = np.empty_like(whole, subok=False) if out is None else out
            arrays.check_writeable("out", out, (part.dtype.name,))
            arrays.check_like("out", out, whole)
            arrays.check_apart("out", out, [arrays.memory_range("of", part), *self._written])
            notes.fingerprint = NAMES.index(part.dtype.name)
            notes.describe = lambda: {"dtype": part.dtype.name}
        self._exchange.gather_all(out, part)
        filled: Array = out
        return filled

    def save(self, path: Any) -> None:
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
        checkpoint.save(self._ranks, path, self.optimizer, self.shard, self._partition)

    def load(self, path: Any) -> None:
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
        checkpoint.load(self._ranks, path, self.optimizer, self.shard, self._partition)
        if self._all is not None:
            self._exchange.gather_all(self._all)

    def __reduce__(self) -> Any:
        raise TypeError("a ShardedOptimizer cannot be copied or pickled: use save and load")

    def __repr__(self) -> str:
        kind = "replicated" if self._replicated else "owned"
        return (
            f"ShardedOptimizer(<rank {self._ranks.rank} of {self._ranks.size}>, {self.slice.start}:"
            f"{self.slice.stop} of {self.length} elements, {kind}, {self.optimizer!r})"
        )


def _summed_in(reduce_dtype: Any, own: np.dtype[Any]) -> tuple[str, ...]:
    """The formats that gradients may have, the last of them the one in which they are summed."""
    wanted = str(name_of(own))
    if reduce_dtype is not None:
        try:
            is_bfloat16 = isinstance(reduce_dtype, str) and reduce_dtype == "bfloat16"
            wanted = "bfloat16" if is_bfloat16 else np.dtype(reduce_dtype).name
        except TypeError as error:
            raise TypeError(f"reduce_dtype must be a dtype, not {reduce_dtype!r}") from error
    formats = arrays.partners_of(own)
    if wanted not in formats:
        accepted = arrays.listed(formats)
        raise ValueError(f"reduce_dtype must be {accepted} for parameters of {own}, got {wanted}")
    return formats if wanted == "float32" else (wanted,)
