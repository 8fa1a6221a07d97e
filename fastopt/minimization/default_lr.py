"""The learning rate where none is given."""

from __future__ import annotations

import math
from typing import cast

import numpy as np

from fastopt import schedules
from fastopt.arrays.checks import Array
from fastopt.minimization.box import Box
from fastopt.minimization.objective import Objective
from fastopt.validation import Schedule

# The classes say where it starts (`usual_lr`). Those that normalize the gradient change an element by
# about so much in a step, and `restarts` makes up for a rate that is too large.


def usual(maker: object, objective: Objective, x: Array, box: Box) -> float | None:
    """The first learning rate, or None for optimizers without a usual one."""
    start = getattr(maker, "usual_lr", None)
    if start == "curvature":
        return _by_curvature(objective, x, box)
    if start is None or objective.noisy:
        return cast("float | None", start)
    with np.errstate(over="ignore"):
        squares = float(np.sum(np.square(x, dtype=np.float64)))
    largest = float(abs(x).max(initial=0.0))  # no mean is above it, not even where squares overflow
    return float(start) * max(1.0, min(math.sqrt(squares / max(x.size, 1)), largest))


def schedule(lr: float, maxiter: float) -> Schedule:
    """Half a cosine to zero at `maxiter`, or a constant without a limit."""
    return schedules.constant(lr) if math.isinf(maxiter) else schedules.cosine(lr, max(int(maxiter), 1))


def _by_curvature(objective: Objective, x: Array, box: Box) -> float:
    """The inverse of the curvature along the gradient at `x`, from two evaluations.

    A step of gradient descent with this rate goes to the minimum of a parabola. It is no longer than
    the point is large, or one, since far away from the minimum many functions are nearly straight.
    """
    grad, near = np.zeros_like(x), np.zeros_like(x)
    objective(x, grad, 0)
    steepest = float(abs(grad).max(initial=0.0))
    size = max(1.0, float(abs(x).max(initial=0.0)))
    if steepest == 0.0 or not np.isfinite(grad).all():
        return 0.0  # there is nowhere to go
    with np.errstate(all="ignore"):
        moved = x - np.asarray(np.finfo(x.dtype).eps ** 0.5 * size / steepest * grad, x.dtype)
    box.clip(moved)
    objective(moved, near, 0)
    with np.errstate(all="ignore"):
        changes = (near - grad).astype(np.float64), (moved - x).astype(np.float64)
        bend, length = (float(np.linalg.norm(change)) for change in changes)
    longest = min(size / steepest, float(np.finfo(x.dtype).max))
    return length / bend if bend * longest > length else longest
