"""The loop of a minimization: evaluate, record, call observers, stop or step."""

from __future__ import annotations

import math
from itertools import count

import numpy as np

from fastopt.arrays.checks import Array
from fastopt.minimization.box import Box
from fastopt.minimization.objective import Objective
from fastopt.minimization.observers import Observers
from fastopt.minimization.result import MinimizeResult
from fastopt.minimization.stopping import CALLBACK, Outcome, Stopping
from fastopt.optimizers.optimizer import Optimizer

KEEP = ("auto", "best", "last")


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


def descend(
    objective: Objective,
    optimizer: Optimizer,
    box: Box,
    best: BestPoint,
    stopping: Stopping,
    observers: Observers,
    history: list[float] | None,
) -> MinimizeResult:
    """Step until a rule stops it; append all values to `history`, if it is not None."""
    x = optimizer.params
    for nit in count():
        grad = best.free()
        value = objective(x, grad, nit)
        if history is not None:
            history.append(value)
        size = box.gradient_size(x, grad)
        best.offer(x, value, grad)
        stopped = nit > 0 and observers.tell(nit, x, value)
        outcome = CALLBACK if stopped else stopping.check(nit, x, value, size)
        if outcome is not None:
            result = _result(outcome, nit, objective, optimizer, best)
            if history is not None:
                result.history = np.array(history)
            return result
        optimizer.step(grad)
    raise AssertionError("a count has no end")


def _result(
    outcome: Outcome, nit: int, objective: Objective, optimizer: Optimizer, best: BestPoint
) -> MinimizeResult:
    note = " The gradient was approximated by differences." if objective.approximates else ""
    result = MinimizeResult(
        x=best.x,
        fun=best.value,
        jac=best.grad,
        nit=nit,
        nfev=objective.nfev,
        njev=objective.njev,
        success=outcome.status == 0,
        status=outcome.status,
        message=outcome.message + note,
    )
    if "average" in optimizer.state:
        result.average = optimizer.state["average"]
    return result
