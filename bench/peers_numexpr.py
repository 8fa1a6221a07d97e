"""numexpr, where it is installed: an expression for each array, by blocks that fit into the cache."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from bench.peers import Peer, Step
from bench.problems import ADAGRAD, EVERYTHING, OUTSIDE, RMSPROP, Form, Problem

try:
    import numexpr
except ImportError:
    numexpr = None

# By form: which array is set to which expression, one after the other.
EXPRESSIONS: dict[Form, list[tuple[str, str]]] = {
    RMSPROP: [
        ("square_avg", "beta * square_avg + mix * grad * grad"),
        ("param", "param - lr * grad / sqrt(square_avg + eps)"),
    ],
    OUTSIDE: [
        ("square_avg", "beta * square_avg + mix * grad * grad"),
        ("param", "param - lr * grad / (sqrt(square_avg) + eps)"),
    ],
    ADAGRAD: [
        ("sum", "total + grad * grad"),
        ("param", "param - lr * grad / (sqrt(total) + eps)"),
    ],
    EVERYTHING: [
        ("u", "grad + weight_decay * param"),
        ("square_avg", "beta * square_avg + mix * u * u"),
        ("grad_avg", "beta * grad_avg + mix * u"),
        ("u", "square_avg - grad_avg * grad_avg"),
        (
            "momentum_buffer",
            "momentum * momentum_buffer"
            " + (grad + weight_decay * param) / sqrt(where(u > 0, u, 0 * u) + eps)",
        ),
        ("param", "param - lr * momentum_buffer"),
    ],
}


def _numexpr(problem: Problem, threads: int) -> Step | None:
    if numexpr is None or problem.form not in EXPRESSIONS:
        return None
    numexpr.set_num_threads(threads)
    number = problem.grad.dtype.type
    names: dict[str, Any] = {name: number(value) for name, value in problem.form.settings.items()}
    names["mix"] = number(1 - problem.form.settings.get("beta", 0.0))
    names |= {**problem.arrays, "grad": problem.grad}
    names["total"] = names.get("sum")  # `sum` itself is a function in these expressions
    if problem.form is EVERYTHING:
        names["u"] = np.empty_like(problem.grad)
    steps = [
        partial(numexpr.evaluate, expression, local_dict=names, global_dict={}, out=names[target])
        for target, expression in EXPRESSIONS[problem.form]
    ]

    def step() -> None:
        numexpr.set_num_threads(threads)
        for evaluate in steps:
            evaluate()

    return step


PEERS: dict[str, Peer] = {"numexpr": _numexpr}
