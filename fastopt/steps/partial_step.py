"""A step in pieces, taken as the parts of a gradient arrive: with the bits of a step at once."""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np

from fastopt.arrays.checks import Array
from fastopt.changes import make
from fastopt.executors import norm
from fastopt.executors.cpu.columns import FIRST
from fastopt.executors.dispatch import step_stretch
from fastopt.kernels.job import PHASE
from fastopt.steps.memory_stepper import MemoryStepper


class AnyPartialStep(ABC):
    """The step of an optimizer over one array, in parts: `begin`, `decide`, `run` for each, `end`.

    All that can fail happens in `begin`, before anything is written.

    Parameters
    ----------
    stepper : callable
        Gives the stepper of an optimizer over a single array, as it is now: after a load that was
        interrupted it refuses to begin.
    across : Reducer
        How the norm of this array is combined with those of other processes.
    first : int
        The number of its first element among those of all processes: what is rounded at random
        depends on it.
    """

    def __init__(
        self, stepper: Callable[[], Any], across: norm.Reducer = norm.LOCAL, first: int = 0
    ) -> None:
        self._stepper = stepper
        self._across = across
        self._first = first
        self._limit = 0.0

    @property
    def _steps(self) -> Any:
        return self._stepper()

    @abstractmethod
    def begin(self, grad: Any, grad_scale: float, stream: Any = None) -> None:
        """Check an array that will hold the gradient, and get the hyperparameters of the step.

        `stream` is as for `Optimizer.step`.

        Raises
        ------
        TypeError, ValueError
            As `Optimizer.step`. Nothing was changed.
        """

    @abstractmethod
    def decide(self) -> bool:
        """Look at the whole gradient, where its norm is wanted; whether the step is to be taken."""

    @abstractmethod
    def run(self, start: int, stop: int) -> None:
        """Step the elements from `start` to `stop`, whose gradient is there.

        States of 8 bits are kept in blocks: pieces begin at multiples of `codecs.base.BLOCK`.
        """

    @abstractmethod
    def end(self) -> None:
        """Count the step."""

    def fingerprint(self) -> int:
        """A number for the settings of the step that was begun: equal where they are equal."""
        own = self._steps
        numbers = np.array([own.count, own.grad_scale, self._limit])
        return zlib.crc32(own.hyper.of(0)[PHASE:].tobytes(), zlib.crc32(numbers.tobytes()))

    def describe(self, settings: Any) -> dict[str, Any]:
        """The same in words; `settings` are those of the optimizer."""
        return {
            "the number of the step": self._steps.count,
            "grad_scale": self._steps.grad_scale,
            "the limit of the norm": self._limit,
            "the settings": settings,
            "the hyperparameters of this step": self._steps.hyper.of(0)[PHASE:].tolist(),
        }

    @property
    def waits(self) -> bool:
        """Whether the whole gradient must be there before the first piece: its norm is wanted."""
        return bool(self._steps.watch.is_on)


class PartialStep(AnyPartialStep):
    """Pieces of an array in memory. The parameters are those of `AnyPartialStep`."""

    def __init__(
        self, stepper: Callable[[], Any], across: norm.Reducer = norm.LOCAL, first: int = 0
    ) -> None:
        super().__init__(stepper, across, first)
        if not isinstance(stepper(), MemoryStepper):
            raise TypeError("stepper must be of an array in memory to step it in pieces")
        self._steps.rows[0, FIRST] = first
        self._found: list[Any] = []
        self._count = self._left = 0  # steps so far, and elements that are still to be stepped

    def begin(self, grad: Array, grad_scale: float, stream: Any = None) -> None:
        """Check an array that will hold the gradient, and get the hyperparameters of the step."""
        self._steps.refuse(stream)
        self._steps.begin(grad_scale)
        self._found = self._steps.gradients.find(grad)
        self._steps.check(self._found)
        self._count, self._left = self._steps.count, self._steps.table.size
        self._limit = self._steps.watch.limit_at(self._count)

    def decide(self) -> bool:
        """Look at the whole gradient, where its norm is wanted; whether the step is to be taken."""
        own = self._steps
        if not self.waits:
            return True
        own.measure(self._found)
        factor = own.watch.decide(self._found, own.grad_scale, self._limit, self._across)
        if factor is None:
            return False
        own.hyper.scale_gradients(factor)
        return True

    def run(self, start: int, stop: int) -> None:
        """Step the elements from `start` to `stop`, whose gradient is there."""
        own, left = self._steps, self._left - (stop - start)
        # With the last element the step is counted, whatever comes between that and `end`.
        count = self._count + (left == 0)
        if own.compiled:
            step_stretch(own.executor, own.rows, start, stop, count - own.lags[0])
        else:
            part = slice(start, stop)
            changes = own.work.interpret_stretch(0, self._found[0], own.hyper.of(0), self._first, part)
            make([*changes, *own.counted(count, own.lags)])
        self._left = left

    def end(self) -> None:
        """Count the step, if the last piece did not do so."""
        make(self._steps.counted(self._count + 1, self._steps.lags))
