"""The learning rate of a minimization where none is given: halved wherever the value stops falling."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from fastopt.arrays.checks import Array
from fastopt.minimization.best import BestPoint
from fastopt.optimizers.optimizer import Optimizer

# Iterations without a new lowest value. From 10 to 30 of them, and first rates from a third of
# `usual_lr` to three times as much, solve the same functions.
PATIENCE = 20
# A value or gradient that is not finite after so many halvings has other reasons than the rate, and
# steps with half of it are too short to change anything.
MOST = 100


class Restarts:
    """Restarts an optimizer from the best point, with half the learning rate, if it makes no progress.

    Progress is a value below all values so far. After `PATIENCE` iterations without it, or where the
    value or the gradient is not finite, the states start anew: they are those of a longer step.

    Parameters
    ----------
    make : callable
        From a learning rate to an optimizer of the point.
    lr : float
        The first learning rate.
    best : BestPoint or None
        The best point so far, if the loop keeps it anyway.
    """

    def __init__(self, make: Callable[[float], Optimizer], lr: float, best: BestPoint | None) -> None:
        self.optimizer = make(lr)
        self._make, self._lr = make, lr
        self._is_kept = best is not None
        self._best = best or BestPoint(self.optimizer.params, last=False)
        self._count = self._waited = 0
        self._lowest = math.inf
        self._least = float(np.finfo(self.optimizer.params.dtype).tiny)

    @property
    def exhausted(self) -> bool:
        """Whether a smaller rate is not worth a try any more."""
        return self._count >= MOST or 0.5 * self._lr < self._least

    def next_gradient(self, x: Array, value: float, grad: Array, finite: bool) -> Array:
        """The gradient of the coming step: this one, or after a restart that of the best point."""
        if finite and value < self._lowest:
            self._lowest, self._waited = value, 0
            if not self._is_kept:
                copy = self._best.free()
                copy[...] = grad
                self._best.offer(x, value, copy)
            return grad
        self._waited += 1
        if finite and (self._waited < PATIENCE or self.exhausted):
            return grad
        self._lr /= 2
        self._count += 1
        self._waited = 0
        x[...] = self._best.x
        self.optimizer = self._make(self._lr)
        return self._best.grad
