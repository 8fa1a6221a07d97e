"""All ranks do the same, or all raise: small collectives that keep them together."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from fastopt.kernels.job import PHASE
from fastopt.steps.stepper import Stepper

if TYPE_CHECKING:
    from mpi4py import MPI

    Comm: TypeAlias = MPI.Comm
else:
    Comm = object  # the import of MPI starts it, and hints are read at run time too


class RankError(RuntimeError):
    """An operation failed on another rank, and was not carried out on this one either.

    Where it failed, the error is raised as it is.

    Parameters
    ----------
    message : str
        What failed.
    ranks : tuple of int, optional
        Where; also an attribute.
    """

    def __init__(self, message: str, ranks: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.ranks = ranks


class Ranks:
    """The processes of a communicator.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
    """

    def __init__(self, comm: Comm) -> None:
        from mpi4py import MPI

        if not isinstance(comm, MPI.Intracomm) or comm == MPI.COMM_NULL:
            shown = "MPI.COMM_NULL" if isinstance(comm, MPI.Comm) else type(comm).__name__
            raise TypeError(
                f"comm must be an intracommunicator of mpi4py, such as MPI.COMM_WORLD, not {shown}"
            )
        self.comm = comm
        self.rank: int = comm.rank
        self.size: int = comm.size
        self._sum, self._max = MPI.SUM, MPI.MAX
        self._mine, self._worst = np.zeros(3, np.int64), np.zeros(3, np.int64)
        self._number, self._numbers = np.zeros(1), np.zeros(1)

    @contextmanager
    def together(self, what: str) -> Iterator[Notes]:
        """Raise an error on every rank if the block fails on any.

        In the block there must be no communication. Its end is one small all-reduce, in which ranks
        also see whether all of them are here and noted the same.
        """
        notes, failure = Notes(what), None
        try:
            yield notes
        except Exception as error:
            failure = error
        code = notes.code()
        self._mine[:] = failure is not None, code, -code
        self.comm.Allreduce(self._mine, self._worst, self._max)
        failed, largest, smallest = self._worst.tolist()
        if failed:
            self._raise(failure)
        if largest != -smallest:
            self.same("all ranks must do the same", notes.shown())
            raise ValueError(f"all ranks must do the same, but they differ in {what}")

    def _raise(self, failure: Exception | None) -> None:
        """The error of this rank, or one that tells of the others'."""
        mine = None if failure is None else f"{type(failure).__name__}: {failure}"
        messages = list(enumerate(self.comm.allgather(mine)))
        if failure is not None:
            raise failure
        failed = [(rank, text) for rank, text in messages if text is not None]
        first, text = failed[0]
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        raise RankError(f"rank {first}{more} failed: {text}", tuple(rank for rank, _ in failed))

    def same(self, rule: str, by_name: Mapping[str, object]) -> None:
        """Raise a ValueError on every rank where they differ in one of these values."""
        every = self.comm.allgather(dict(by_name))
        for name in dict.fromkeys(name for one in every for name in one):
            values = [one.get(name) for one in every]
            if any(value != values[0] for value in values):
                other = next(rank for rank, value in enumerate(values) if value != values[0])
                raise ValueError(
                    f"{rule}: {name} is {values[0]!r} on rank 0, but {values[other]!r} on rank {other}"
                )

    def sum(self, value: float) -> float:
        """The sum over all ranks."""
        return self._combined(value, self._sum)

    def max(self, value: float) -> float:
        """The largest over all ranks."""
        return self._combined(value, self._max)

    def _combined(self, value: float, operation: MPI.Op) -> float:
        self._number[0] = value
        self.comm.Allreduce(self._number, self._numbers, operation)
        return float(self._numbers[0])


def fingerprint(stepper: Stepper) -> int:
    """A number for the settings of the step that was begun: equal where they are equal."""
    numbers = np.array([stepper.count, stepper.grad_scale, stepper.limit])
    return zlib.crc32(stepper.hyper.of(0)[PHASE:].tobytes(), zlib.crc32(numbers.tobytes()))


def describe(stepper: Stepper, settings: object) -> dict[str, object]:
    """The same in words; `settings` are those of the optimizer."""
    return {
        "the number of the step": stepper.count,
        "grad_scale": stepper.grad_scale,
        "the limit of the norm": stepper.limit,
        "the settings": settings,
        "the hyperparameters of this step": stepper.hyper.of(0)[PHASE:].tolist(),
    }


class Notes:
    """What a rank is about to do, to be compared with the others."""

    def __init__(self, what: str) -> None:
        self._what = what
        self.fingerprint = 0
        self.describe: Callable[[], Mapping[str, Any]] = dict  # asked where ranks differ

    def code(self) -> int:
        """A number that is equal where all is."""
        return zlib.crc32(self._what.encode(), self.fingerprint)

    def shown(self) -> dict[str, object]:
        """The same in words."""
        return {"the call": self._what, **self.describe()}
