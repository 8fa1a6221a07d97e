"""The point that a minimization keeps: the best one, or the last one."""

from __future__ import annotations

import math

import numpy as np

from fastopt.arrays.checks import Array


class BestPoint:
    """The point that the result will have: the best one, or the last one that was finite."""

    def __init__(self, x: Array, last: bool) -> None:
        self.x = x.copy()
        self.value = math.nan
        self._first = True
        self._last = last
        # One of them is filled while the other is kept. They start as NaN, so that a function that
        # writes no gradient, or adds to it, is noticed.
        self._buffers = np.full_like(x, math.nan), np.full_like(x, math.nan)
        self.grad = self._buffers[0]

    def free(self) -> Array:
        """A buffer for the next gradient."""
        return self._buffers[self.grad is self._buffers[0]]

    def offer(self, x: Array, value: float, grad: Array) -> None:
        """Keep this point if it is better, or the first one; points that are not finite are not."""
        preferred = self._last or value < self.value or not math.isfinite(self.value)
        if self._first or (math.isfinite(value) and preferred):
            self._first = False
            self.x[...] = x
            self.value = value
            self.grad = grad
