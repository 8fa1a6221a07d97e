"""A step in pieces, taken as the parts of a gradient arrive: with the bits of a step at once."""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from fastopt.executors import norm
from fastopt.executors.launch import step_stretch
from fastopt.layouts.arrays import Array
from fastopt.layouts.columns import FIRST, PHASE
from fastopt.optimizers.in_memory import InMemory
from fastopt.optimizers.optimizer import Optimizer


class AnyPieces(ABC):
    """The step of an optimizer over one array, in parts: `begin`, `decide`, `run` for each, `end`.

    All that can fail happens in `begin`, before anything is written.

    Parameters
    ----------
    optimizer : Optimizer
        Of a single array.
    across : Across
        How the norm of this array is combined with those of other processes.
    first : int
        The number of its first element among those of all processes: what is rounded at random
        depends on it.
    """

    def __init__(self, optimizer: Optimizer, across: norm.Across = norm.ALONE, first: int = 0) -> None:
        self._optimizer = optimizer
        self._across = across
        self._first = first
        self._limit = 0.0

    @property
    def _steps(self) -> Any:
        """The optimizer's: they refuse to begin where loading was interrupted."""
        return self._optimizer._steps

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

    def describe(self) -> dict[str, Any]:
        """The same in words."""
        return {
            "the number of the step": self._steps.count,
            "grad_scale": self._steps.grad_scale,
            "the limit of the norm": self._limit,
            "the settings": self._optimizer._plain_settings(),
            "the hyperparameters of this step": self._steps.hyper.of(0)[PHASE:].tolist(),
        }

    @property
    def waits(self) -> bool:
        """Whether the whole gradient must be there before the first piece: its norm is wanted."""
        return bool(self._steps.watch.is_on)


class Pieces(AnyPieces):
    """Pieces of an array in memory. The parameters are those of `AnyPieces`."""

    def __init__(self, optimizer: Optimizer, across: norm.Across = norm.ALONE, first: int = 0) -> None:
        super().__init__(optimizer, across, first)
        if not isinstance(optimizer._steps, InMemory):
            raise TypeError("optimizer must be over an array in memory to be stepped in pieces")
        self._steps.rows[0, FIRST] = first
        self._found: list[Any] = []

    def begin(self, grad: Array, grad_scale: float, stream: Any = None) -> None:
        """Check an array that will hold the gradient, and get the hyperparameters of the step."""
        self._steps.refuse(stream)
        self._steps.begin(grad_scale)
        self._found = self._steps.gradients.find(grad)
        self._steps.check(self._found)
        self._limit = self._steps.watch.limit_at(self._steps.count)

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
        own = self._steps
        if own.compiled:
            step_stretch(self._optimizer.executor, own.rows, start, stop)
            return
        own.work.interpret_stretch(0, self._found[0], own.hyper.of(0), self._first, slice(start, stop))

    def end(self) -> None:
        """Count the step."""
        self._steps.end({})
