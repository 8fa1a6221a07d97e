"""A step in pieces, taken as the parts of a gradient arrive: with the bits of a step at once."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from fastopt.executors import norm, reference
from fastopt.executors.launch import step_stretch
from fastopt.layouts.arrays import Array
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
    """

    def __init__(self, optimizer: Optimizer, across: norm.Across) -> None:
        self._optimizer = optimizer
        self._across = across
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
        own._gradients.check(self._found)
        self._limit = own._watch.limit_at(own._step_count)

    def fingerprint(self) -> int:
        """A number for the settings of the step that was begun: equal where they are equal."""
        own = self._optimizer
        numbers = np.array([own._step_count, own._grad_scale, self._limit])
        return zlib.crc32(own._hyper.of(0)[1:].tobytes(), zlib.crc32(numbers.tobytes()))

    def describe(self) -> dict[str, Any]:
        """The same in words."""
        own = self._optimizer
        return {
            "the number of the step": own._step_count,
            "grad_scale": own._grad_scale,
            "the limit of the norm": self._limit,
            "the settings": own._plain_settings(),
            "the hyperparameters of this step": own._hyper.of(0)[1:].tolist(),
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
        """Step the elements from `start` to `stop`, whose gradient is there."""
        own = self._optimizer
        if own._compiled:
            step_stretch(own.executor, own._rows, start, stop)
            return
        group, leaf = own._groups[0], own._leaves[0]
        grad = self._found[0]
        param, slope, *slots = (
            array.reshape(-1)[start:stop] for array in (leaf, grad, *group.slots()[0])
        )
        reference.step(group.parts, own._hyper.of(0), param, slope, slots)
        if own.zero_grad:
            slope[...] = 0

    def end(self) -> None:
        """Count the step."""
        self._optimizer._count_step()
