"""Ways to take one step, each in its fastest honest form.

A peer is a function of a problem and a number of threads. It returns a function that takes one step, or
None where it cannot. A step leaves its results in ``problem.arrays``; one that keeps them elsewhere has
a method ``fetch`` that puts them there.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from bench import native
from bench.problems import FAMILY, RMSPROP, Form, Problem, make

Step: TypeAlias = Callable[[], object]
Peer: TypeAlias = Callable[[Problem, int], Step | None]

TITLES = {
    "fastopt": "fastopt",
    "fastopt_fast": "fastopt, fast=True",
    "roofline": "roofline",
    "c": "the same loop in C",
    "numpy_in_place": "NumPy in place",
    "numpy_naive": "naive NumPy",
    "numexpr": "numexpr",
    "flat": "one flat buffer",
    "torch": "torch, foreach",
    "torch_eager": "torch, one by one",
    "torch_compiled": "torch, compiled",
    "torch_fused": "torch, fused",
    "optax": "optax, jit",
    "keras": "Keras on jax, jit",
    "rmsprop": "plain RMSProp",
    "norm": "with the gradient's norm as a statistic",
    "norms": "with three norms as statistics",
    "sum_after": "with a transform's sum for the next step",
    "clipped": "clipped by the global norm",
    "numpy": "a loop in NumPy",
    "lbfgsb": "L-BFGS-B of SciPy",
    "function": "the function alone",
    "import": "`import fastopt`",
    "warm_one_core": "first step, code from the cache",
    "warm_all_cores": "the same on all cores",
    "cold_one_core": "first step, compiled",
    "cold_all_cores": "the same on all cores",
    "numba_import": "`import numba`",
    "numba_loop_warm_one_core": "a loop in Numba, code from the cache",
    "numba_loop_warm_all_cores": "the same on all cores",
    "numba_loop_cold_one_core": "a loop in Numba, compiled",
    "numba_loop_cold_all_cores": "the same on all cores",
}


def _fastopt(problem: Problem, threads: int, fast: bool = False) -> Step:
    param, *_ = problem.arrays.values()
    state = {name: array for name, array in problem.arrays.items() if name != "param"}
    executor = "serial" if threads == 1 else "auto"
    optimizer = problem.form.optimizer(param, state=state, executor=executor, fast=fast)
    return partial(optimizer.step, problem.grad)


def _fast(problem: Problem, threads: int) -> Step | None:
    """With the caller's limit of threads."""
    has = problem.form is RMSPROP or problem.form in FAMILY
    return _fastopt(problem, threads, fast=True) if has else None


def _c(problem: Problem, threads: int) -> Step | None:
    library = native.library(problem.grad.dtype)
    if library is None:
        return None
    function = getattr(library, problem.form.name, None)
    if function is None:
        return None
    s = problem.form.settings
    hyper = [
        s["lr"],
        s["beta"],
        1 - s["beta"],
        s["eps"],
        s.get("momentum", 0),
        s.get("weight_decay", 0),
    ]
    arrays = np.array(hyper, problem.grad.dtype), problem.grad, *problem.arrays.values()
    pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in arrays]  # they keep the arrays alive
    return partial(function, ctypes.c_int64(problem.grad.size), ctypes.c_int(threads), *pointers)


def _naive(problem: Problem, threads: int) -> Step | None:
    """The formula as printed."""
    if problem.form is not RMSPROP:
        return None
    lr, beta, eps, *_ = problem.form.settings.values()
    g, a = problem.grad, problem.arrays

    def rmsprop() -> None:
        v = a["square_avg"] = beta * a["square_avg"] + (1 - beta) * g * g
        a["param"] = a["param"] - lr * g / np.sqrt(v + eps)

    return rmsprop


def _in_place(problem: Problem, threads: int) -> Step:
    lr, beta, eps, *_ = problem.form.settings.values()
    g, (w, v, *others) = problem.grad, problem.arrays.values()
    t = np.empty_like(g)

    def rmsprop() -> None:
        np.multiply(g, 1 - beta, out=t)
        np.multiply(t, g, out=t)
        np.multiply(v, beta, out=v)
        np.add(v, t, out=v)
        np.add(v, eps, out=t)
        np.sqrt(t, out=t)
        np.divide(g, t, out=t)
        np.multiply(t, lr, out=t)
        np.subtract(w, t, out=w)

    if problem.form is RMSPROP:
        return rmsprop

    (m, b), u = others, np.empty_like(g)
    momentum, weight_decay = (problem.form.settings[k] for k in ("momentum", "weight_decay"))

    def everything() -> None:
        np.multiply(w, weight_decay, out=u)
        np.add(u, g, out=u)
        np.multiply(u, 1 - beta, out=t)
        np.multiply(m, beta, out=m)
        np.add(m, t, out=m)
        np.multiply(t, u, out=t)
        np.multiply(v, beta, out=v)
        np.add(v, t, out=v)
        np.multiply(m, m, out=t)
        np.subtract(v, t, out=t)
        np.maximum(t, 0, out=t)
        np.add(t, eps, out=t)
        np.sqrt(t, out=t)
        np.divide(u, t, out=u)
        np.multiply(b, momentum, out=b)
        np.add(b, u, out=b)
        np.multiply(b, lr, out=t)
        np.subtract(w, t, out=w)

    return everything


PEERS: dict[str, Peer] = {
    "fastopt": _fastopt,
    "fastopt_fast": _fast,
    "c": _c,
    "numpy_in_place": _in_place,
    "numpy_naive": _naive,
}


def check(
    form: Form,
    size: int,
    dtype: np.dtype[Any],
    threads: int,
    peers: Mapping[str, Peer] = PEERS,
) -> None:
    """See that all peers compute the same.

    They round in other places (C fuses multiplications with additions), so a few units in the last
    place of the largest numbers involved may differ after three steps.
    """
    tolerance = 16 * float(np.finfo(dtype).eps)
    expected: dict[str, Any] = {}
    for name, peer in peers.items():
        problem = make(form, min(size, 1 << 20), dtype)
        step = peer(problem, threads)
        if step is None:
            continue
        for _ in range(3):
            step()
        getattr(step, "fetch", lambda: None)()
        expected = expected or problem.arrays
        for array, value in problem.arrays.items():
            message = f"{array} by {name}"
            np.testing.assert_allclose(
                value, expected[array], rtol=tolerance, atol=tolerance, err_msg=message
            )
