"""A step in pieces, taken as the parts of a gradient arrive: with the bits of a step at once."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from fastopt.executors import norm
from fastopt.executors.launch import step_stretch
from fastopt.layouts.arrays import Array
from fastopt.layouts.columns import FIRST, PHASE
from fastopt.optimizers.optimizer import Optimizer


class Pieces:
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
        optimizer._rows[0, FIRST] = first
        self._found: list[Any] = []
        self._limit = 0.0

    def begin(self, grad: Array, grad_scale: float) -> None:
        """Check an array that will hold the gradient, and get the hyperparameters of the step.

        Raises
        ------
        TypeError, ValueError
            As `Optimizer.step`. Nothing was changed.
        """
        own = self._optimizer
        if type(grad_scale) is not float or grad_scale != own._grad_scale:
            own._set_grad_scale(grad_scale)
        elif own._varies:
            own._hyper.fill(own._step_count, grad_scale)
        self._found = own._gradients.find(grad)
        own._check(self._found)
        self._limit = own._watch.limit_at(own._step_count)

    def fingerprint(self) -> int:
        """A number for the settings of the step that was begun: equal where they are equal."""
        own = self._optimizer
        numbers = np.array([own._step_count, own._grad_scale, self._limit])
        return zlib.crc32(own._hyper.of(0)[PHASE:].tobytes(), zlib.crc32(numbers.tobytes()))

    def describe(self) -> dict[str, Any]:
        """The same in words."""
        own = self._optimizer
        return {
            "the number of the step": own._step_count,
            "grad_scale": own._grad_scale,
            "the limit of the norm": self._limit,
            "the settings": own._plain_settings(),
            "the hyperparameters of this step": own._hyper.of(0)[PHASE:].tolist(),
        }

    @property
    def waits(self) -> bool:
        """Whether the whole gradient must be there before the first piece: its norm is wanted."""
        return self._optimizer._watch.is_on

    def decide(self) -> bool:
        """Look at the whole gradient, where its norm is wanted; whether the step is to be taken."""
        own = self._optimizer
        if not self.waits:
            return True
        if own._compiled:
            own._look(own._gradients.known)
        else:
            own._watch.look_in_python(self._found)
        factor = own._watch.decide(self._found, own._grad_scale, self._limit, self._across)
        if factor is None:
            return False
        own._hyper.scale_gradients(factor)
        return True

    def run(self, start: int, stop: int) -> None:
        """Step the elements from `start` to `stop`, whose gradient is there.

        States of 8 bits are kept in blocks: pieces begin at multiples of `codecs.base.BLOCK`.
        """
        own = self._optimizer
        if own._compiled:
            step_stretch(own.executor, own._rows, start, stop)
            return
        own._work.interpret_stretch(
            0, self._found[0], own._hyper.of(0), self._first, slice(start, stop)
        )

    def end(self) -> None:
        """Count the step."""
        self._optimizer._count_step({})
