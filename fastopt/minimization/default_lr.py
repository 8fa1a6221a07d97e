"""The learning rate where none is given."""

from __future__ import annotations

from math import isinf
from typing import Any

import numpy as np

from fastopt import schedules
from fastopt.arrays.checks import Array
from fastopt.minimization.box import Box
from fastopt.minimization.objective import Objective
from fastopt.validation import Schedule

# The classes say where it starts (`usual_lr`). Those that normalize the gradient change an element by
# about so much in a step. Tried on Rosenbrock's function of 2 and 10 variables, Beale's, a quadratic of
# condition 1e4, a sphere far away and a logistic regression, with 5000 steps: the best or next to it of
# 0.01, 0.03, 0.1, 0.3 and 1, over all. AdaGrad was slow with all of these but the last; RAdam, whose
# first steps are as long as gradients, left with all of them.


def usual(maker: Any, objective: Objective, x: Array, box: Box, maxiter: float) -> Schedule | None:
    """The default schedule: half a cosine to zero at `maxiter`, or a constant without a limit.

    None for optimizers without a usual learning rate.
    """
    start = getattr(maker, "usual_lr", None)
    if start is None:
        return None
    if start == "curvature":
        start = _by_curvature(objective, x, box)
    return (
        schedules.constant(start) if isinf(maxiter) else schedules.cosine(start, max(int(maxiter), 1))
    )


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
    longest = size / steepest
    return length / bend if bend * longest > length else longest
