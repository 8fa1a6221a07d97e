"""The loop of a minimization: evaluate, record, call observers, stop or step."""

from __future__ import annotations

import math
from itertools import count

import numpy as np

from fastopt.minimization.best import BestPoint
from fastopt.minimization.box import Box
from fastopt.minimization.objective import Objective
from fastopt.minimization.observers import Observers
from fastopt.minimization.restarts import Restarts
from fastopt.minimization.result import MinimizeResult
from fastopt.minimization.stopping import CALLBACK, Outcome, Stopping
from fastopt.optimizers.optimizer import Optimizer

KEEP = ("auto", "best", "last")


def descend(
    objective: Objective,
    optimizer: Optimizer,
    restarts: Restarts | None,
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
        finite = math.isfinite(value) and math.isfinite(size)
        if finite or restarts is None or nit == 0:
            best.offer(x, value, grad)
        stopped = nit > 0 and observers.tell(nit, x, value)
        may_recover = restarts is not None and nit > 0 and not restarts.exhausted
        outcome = CALLBACK if stopped else stopping.check(nit, x, value, finite or may_recover, size)
        if outcome is not None:
            result = _result(outcome, nit, objective, optimizer, best)
            if history is not None:
                result.history = np.array(history)
            return result
        if restarts is not None:
            grad = restarts.next_gradient(x, value, grad, finite)
            optimizer = restarts.optimizer
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
