"""A transform with sums for sparse gradients, and the same steps on whole arrays in NumPy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import fastopt
from fastopt import chain
from fastopt import transforms as t

STATS = "grad_norm", "grad_mean", "grad_nonfinite"
LIMIT, MIX, LR = 1.5, 0.25, 0.125


def square(update, param, state, hyper):
    return update * update


def agreement(update, param, state, hyper):
    return update * (state[0] + 0.5 * param)


def size(update, param, state, hyper):
    return math.sqrt(abs(update)) / (1.0 + state[0] * state[0])


def damped(update, param, state, hyper):
    (average,) = state
    factor, keep, mix = hyper
    return factor * update, (keep * average + mix * update,)


def decayed(update, param, state, hyper):
    return update, (hyper[1] * state[0],)


def decided(hyper, sums, carried):
    limit, mix = hyper
    squares, agreed, size_before = sums
    trend = 0.5 * carried[0] + agreed
    norm = math.sqrt(squares)
    factor = limit / norm if norm > limit else 1.0
    mix = mix / (1.0 + trend * trend)
    return (factor / (1.0 + 0.125 * size_before), 1.0 - mix, mix), (trend,)


def damp(**how: Any) -> fastopt.Transform:
    """Sums for this step and for the next, of update, parameter and state, and a carried number."""
    return fastopt.Transform(
        damped,
        state={"average": 0.0},
        hyper=(LIMIT, MIX),
        no_gradient=decayed,
        sums={"squares": square, "agreement": agreement},
        sums_after={"size": size},
        from_sums=decided,
        carried={"trend": 0.0},
        **how,
    )


class Expected:
    """The same step on whole arrays in NumPy; a sum is over the rows that have a gradient."""

    def __init__(self, params: list[np.ndarray], mode: str, per_array: bool, **settings: Any) -> None:
        self.params = [param.copy() for param in params]
        self.averages = [np.zeros_like(param) for param in params]
        self.sizes = [0.0] * len(params)
        self.norms = [0.0] * len(params)
        self.means = [0.0] * len(params)
        self.trends = [0.0] * len(params)
        self.lazy, self.per_array, self.settings = mode == "lazy", per_array, settings

    def step(self, grads: list[Any], scale: float) -> None:
        wholes: dict[int, Any] = {}
        for i, (grad, param) in enumerate(zip(grads, self.params, strict=True)):
            if grad is None:
                continue
            whole, rows = np.zeros_like(param), np.arange(len(param))
            if isinstance(grad, tuple):
                for row, value in zip(*grad, strict=True):
                    whole[row] += value
                rows = np.unique(grad[0])
            else:
                whole[:] = grad
            wholes[i] = whole / scale, rows
        for i, (whole, _) in wholes.items():
            self.norms[i], self.means[i] = math.sqrt((whole**2).sum()), whole.mean()
        norm = math.sqrt(sum((whole**2).sum() for whole, _ in wholes.values()))
        clip = self.settings.get("clip_norm", math.inf)
        clipped = {i: (w * (clip / norm if norm > clip else 1.0), r) for i, (w, r) in wholes.items()}
        groups = [[i] for i in range(len(grads))] if self.per_array else [list(range(len(grads)))]
        for members in groups:
            present = [i for i in members if i in clipped]
            if self.per_array and not present:
                continue
            squares = sum((clipped[i][0] ** 2).sum() for i in present)
            agreed = sum(
                (clipped[i][0] * (self.averages[i] + 0.5 * self.params[i])).sum() for i in present
            )
            elements = sum(self.sizes[i] for i in members)
            trend = 0.5 * self.trends[members[0]] + agreed
            limit = LIMIT / math.sqrt(squares) if squares > LIMIT**2 else 1.0
            factor, mix = limit / (1 + 0.125 * elements), MIX / (1 + trend * trend)
            for i in members:
                self.trends[i] = trend
            for i in present:
                whole, rows = clipped[i]
                average = self.averages[i]
                self.sizes[i] = (np.sqrt(abs(whole)) / (1 + average**2)).sum()
                rows = rows if self.lazy else np.arange(len(whole))
                average[rows] = (1 - mix) * average[rows] + mix * whole[rows]
                self.params[i][rows] -= LR * factor * whole[rows]

    def check(self, opt: Any, what: Any) -> None:
        params = opt.params if isinstance(opt.params, (list, tuple)) else [opt.params]
        averages = opt.state["average"]
        averages = averages if isinstance(averages, (list, tuple)) else [averages]
        for actual, wanted in zip([*params, *averages], [*self.params, *self.averages], strict=True):
            assert np.allclose(actual, wanted, rtol=1e-11, atol=1e-13), what
        total = math.sqrt(sum(norm * norm for norm in self.norms))
        assert math.isclose(opt.stats["grad_norm"], total, rel_tol=1e-12, abs_tol=1e-300), what
        each = opt.stats.per_array["grad_norm"], opt.stats.per_array["grad_mean"]
        for actual, wanted in zip(each, (self.norms, self.means), strict=True):
            actual = actual if isinstance(actual, list) else [actual]
            assert np.allclose(actual, wanted, rtol=1e-12, atol=1e-14), what
        assert opt.stats["grad_nonfinite"] == 0


def gradient(kind: str | None, param: np.ndarray, number: int) -> Any:
    rng = np.random.default_rng(100 * number + param.shape[1])
    if kind is None:
        return None
    if kind == "dense":
        return rng.normal(size=param.shape)
    rows = [[0], [2, 0, 2], [3, 1], []][number % 4]
    return np.array(rows, np.int64), rng.normal(size=(len(rows), param.shape[1]))


def start(widths: tuple[int, ...]) -> list[np.ndarray]:
    return [np.linspace(-1, 1, 4 * width).reshape(4, width) for width in widths]


def run(orders: Any, mode: str, executor: str, widths: tuple[int, ...], **settings: Any) -> Any:
    """Steps with these kinds of gradients, each compared with what is expected."""
    params, per_array = start(widths), settings.pop("per_array", False)
    expected = Expected(params, mode, per_array, **settings)
    parts, single = chain(damp(per_array=per_array), t.scale_by_learning_rate(LR)), len(params) == 1
    how = {"sparse": mode, "executor": executor, "stats": STATS, **settings}
    opt = fastopt.Optimizer(params[0] if single else params, parts, **how)
    for number, kinds in enumerate(orders):
        grads = [gradient(kind, param, number) for kind, param in zip(kinds, params, strict=True)]
        scale = 1.0 if number % 3 else 4.0
        expected.step(grads, scale)
        opt.step(grads[0] if single else grads, grad_scale=scale)
        if settings.get("zero_grad"):
            left = [g[1] if isinstance(g, tuple) else g for g in grads if g is not None]
            assert not any(array.any() for array in left)
        expected.check(opt, (orders, number))
    return opt
