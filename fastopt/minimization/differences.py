"""A gradient by differences, for functions that come without one."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy.optimize import approx_fprime

from fastopt.arrays.checks import Array
from fastopt.minimization.box import Box

# So many elements are tried one by one where nobody asked for it: a gradient is as many calls of `fun`.
LARGEST = 1000


def fill(grad: Array, fun: Callable[[Array], float], x: Array, value: float, box: Box) -> None:
    """Write the differences of `fun` around `x`, where it has the value `value`, to `grad`.

    Differences are forward, or backward where the box leaves more room; where it leaves none the
    gradient is zero.
    """
    steps = _steps(x, box)
    free = np.flatnonzero(steps)
    here, moved = x[free], x.copy()

    def of_free(near: Array) -> float:
        if np.array_equal(near, here):
            return value  # known
        moved[free] = near
        box.clip(moved)  # x + (high - x) can be above high, by rounding
        return fun(moved)

    slopes = approx_fprime(here, of_free, steps[free]) if free.size else 0.0
    grad[...] = 0.0
    grad[free] = slopes


def _steps(x: Array, box: Box) -> Array:
    epsilon = x.dtype.type(math.sqrt(np.finfo(x.dtype).eps))
    steps: Array = epsilon * np.maximum(abs(x), x.dtype.type(1.0))
    if box.high is not None:
        above = np.minimum(steps, box.high - x)
        below = steps if box.low is None else np.minimum(steps, x - box.low)
        steps = np.where(below > above, -below, above)
    return (x + steps) - x  # the step after rounding
