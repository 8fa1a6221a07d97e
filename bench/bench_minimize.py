"""What an iteration of `fastopt.minimize` costs, beside SciPy's L-BFGS-B and a plain loop in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.optimize

import fastopt
from bench.measure import timed
from bench.problems import Array

STEPS = 200
LR, BETA, EPS = 1e-3, 0.9, 1e-8


def _bowl(size: int) -> Callable[[Array], tuple[float, Array]]:
    """A quadratic function whose axes differ by 10**6, so that nobody arrives within `STEPS`."""
    scale = np.logspace(0, 6, size)

    def value_and_slope(x: Array) -> tuple[float, Array]:
        slope = scale * x
        return 0.5 * float(slope @ x), slope

    return value_and_slope


def _numpy(fun: Any, x0: Array) -> Array:
    """RMSProp as one writes it down, with the best point kept."""
    x, average = x0.copy(), np.zeros_like(x0)
    best, least = x0, np.inf
    for _ in range(STEPS):
        value, slope = fun(x)
        if value < least:
            best, least = x.copy(), value
        average = BETA * average + (1 - BETA) * slope**2
        x = x - LR * slope / np.sqrt(average + EPS)
    return best


@pytest.mark.parametrize("size", [10, 10**4])
def bench_minimize(size: int, compare: Any, benchmark: Any) -> None:
    fun, x0 = _bowl(size), np.ones(size)
    settings = {"lr": LR, "beta": BETA, "eps": EPS, "maxiter": STEPS, "gtol": None, "ftol": None}

    def with_fastopt() -> Any:
        return fastopt.minimize(fun, x0, **settings)

    def with_scipy() -> Any:
        options = {"maxiter": STEPS, "maxfun": 10**6, "ftol": 0.0, "gtol": 0.0}
        return scipy.optimize.minimize(fun, x0, jac=True, method="L-BFGS-B", options=options)

    def evaluate() -> None:
        for _ in range(STEPS):
            fun(x0)

    result = with_fastopt()
    assert result.nit == STEPS
    assert result.fun < fun(x0)[0]
    samplers = {
        "fastopt": timed(with_fastopt, calls=STEPS),
        "numpy": timed(lambda: _numpy(fun, x0), calls=STEPS),
        "lbfgsb": timed(with_scipy, calls=with_scipy().nit),
        "function": timed(evaluate, calls=STEPS),
    }
    case = {"question": "minimize", "form": "rmsprop", "dtype": "float64", "size": size}
    compare(case | {"all_threads": True, "threads": fastopt.get_num_threads()}, samplers)
    benchmark.pedantic(with_fastopt, rounds=5, warmup_rounds=1)
