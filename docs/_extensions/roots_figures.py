"""The figures of "RMSProp from its roots": computed with fastopt while they are drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.figure import Figure

import fastopt
from bench.drawing import colour
from fastopt import transforms as t

Array = np.ndarray[Any, Any]

STEEPNESS = np.array([1.0, 40.0])  # of the valley, along it and across it
START = np.array([-8.0, 2.0])


def descend(w: Array, opt: fastopt.Optimizer, grad: Callable[[Array], Array], steps: int) -> Array:
    """Where `w` was before the first step and after each one."""
    path = [w.copy()]
    for _ in range(steps):
        opt.step(grad(w))
        path.append(w.copy())
    return np.array(path)


def _valley(x: Array, y: Array) -> Array:
    return 0.5 * (STEEPNESS[0] * x * x + STEEPNESS[1] * y * y)


def _valley_path(make: Callable[[Array], fastopt.Optimizer], steps: int) -> Array:
    w = START.copy()
    return descend(w, make(w), lambda w: STEEPNESS * w, steps)


def _contours(axes: Any) -> None:
    x, y = np.meshgrid(np.linspace(-9, 2, 300), np.linspace(-3.2, 3.2, 200))
    levels = [0.5, 2, 6, 14, 30, 60, 110, 180]
    axes.contour(x, y, _valley(x, y), levels, colors=colour("faint"), linewidths=0.6, alpha=0.6)
    axes.plot(0, 0, marker="*", markersize=12, color=colour("ink"), linestyle="none")
    axes.grid(False)
    axes.set(xlim=(-9, 2), ylim=(-3.2, 3.2))


def descent(figure: Figure) -> None:
    """Gradient descent in the valley: a rate that is small enough across is too small along it."""
    for axes, lr in zip(figure.subplots(2, 1, sharex=True), (0.01, 0.048), strict=True):
        _contours(axes)
        path = _valley_path(lambda w, lr=lr: fastopt.SGD(w, lr=lr), 40)
        axes.plot(*path.T, marker=".", markersize=5, color="C1")
        axes.set_title(f"gradient descent, rate {lr:g}, 40 steps")


PATHS = {
    "gradient descent, rate 0.045": lambda w: fastopt.SGD(w, lr=0.045),
    "momentum 0.9, rate 0.01": lambda w: fastopt.SGD(w, lr=0.01, momentum=0.9),
    "AdaGrad, rate 0.5": lambda w: fastopt.AdaGrad(w, lr=0.5),
    "RMSProp, rate 0.2": lambda w: fastopt.RMSProp(w, lr=0.2),
}


def paths(figure: Figure) -> None:
    """Four rules in the same valley, from the same start."""
    for i, (axes, (title, make)) in enumerate(
        zip(figure.subplots(4, 1, sharex=True), PATHS.items(), strict=True)
    ):
        _contours(axes)
        axes.plot(*_valley_path(make, 40).T, marker=".", markersize=5, color=f"C{(i + 1) % 4}")
        axes.set_title(f"{title}, 40 steps")


def noisy(count: int = 200) -> Array:
    """A slow wave under noise."""
    time = np.arange(count)
    return np.sin(2 * np.pi * time / count) + 0.4 * np.random.default_rng(0).standard_normal(count)


def average(series: Array, beta: float, *, corrected: bool = False) -> Array:
    """The exponentially weighted average: what `trace` gathers if damped by as much as it keeps."""
    gathered = np.zeros(1)
    opt = fastopt.Optimizer(np.zeros(1), t.trace(beta, beta), state={"momentum_buffer": gathered})
    result = []
    for i, value in enumerate(series):
        opt.step(np.array([value]))
        result.append(gathered[0] / (1 - beta ** (i + 1) if corrected else 1))
    return np.array(result)


def ewma(figure: Figure) -> None:
    """Averages of the same noisy series, with a longer and longer memory."""
    axes = figure.subplots()
    series = noisy()
    axes.plot(series, ".", color=colour("faint"), markersize=4, label="values")
    for beta, line in zip((0.5, 0.9, 0.98), ("C1", "C0", "C2"), strict=True):
        window = round(1 / (1 - beta))
        axes.plot(average(series, beta), color=line, label=f"beta {beta:g}: about {window} values")
    axes.set(xlabel="step")
    axes.legend(loc="lower left")


def weights(figure: Figure) -> None:
    """How much a value counts that came some steps ago, and the window 1 / (1 - beta)."""
    axes = figure.subplots()
    ago = np.arange(0, 61)
    for beta, line in zip((0.5, 0.9, 0.95), ("C1", "C0", "C2"), strict=True):
        window = 1 / (1 - beta)
        axes.plot(ago, beta**ago, color=line, label=f"beta {beta:g}, 1 / (1 - beta) = {window:.0f}")
        axes.axvline(window, color=line, linestyle=":", linewidth=1.2)
    axes.axhline(np.exp(-1), color=colour("faint"), linewidth=0.8)
    axes.annotate("1 / e", (60, np.exp(-1)), ha="right", va="bottom")
    axes.set(xlabel="steps ago", ylabel="weight, newest = 1")
    axes.legend()


def start(figure: Figure) -> None:
    """An average that starts from zero is too small at first, and what the correction does."""
    axes = figure.subplots()
    series = 1 + 0.3 * np.random.default_rng(1).standard_normal(60)
    axes.plot(series, ".", color=colour("faint"), markersize=4, label="values around 1")
    axes.plot(average(series, 0.95), color="C1", label="average from zero, beta 0.95")
    corrected = average(series, 0.95, corrected=True)
    axes.plot(corrected, color="C0", label="divided by 1 - beta^t")
    axes.set(xlabel="step", ylim=(0, 2))
    axes.legend(loc="upper right")


def rates(figure: Figure) -> None:
    """The rate that is left of 0.01 when gradients keep the same size: AdaGrad's dies."""
    axes = figure.subplots()
    gradients = np.random.default_rng(0).standard_normal(3000)
    rules = {
        "AdaGrad: lr / sqrt(sum of squares)": (fastopt.AdaGrad(np.zeros(1), lr=0.01), "sum", "C1"),
        "RMSProp: lr / sqrt(average of squares)": (
            fastopt.RMSProp(np.zeros(1), lr=0.01),
            "square_avg",
            "C0",
        ),
    }
    for label, (opt, state, line) in rules.items():
        effective = []
        for gradient in gradients:
            opt.step(np.array([gradient]))
            effective.append(0.01 / np.sqrt(opt.state[state][0] + opt.eps))
        axes.loglog(np.arange(1, len(effective) + 1), effective, color=line, label=label)
    axes.set(xlabel="step", ylabel="effective rate")
    axes.legend(loc="lower left")


def epsilon(figure: Figure) -> None:
    """How far a gradient that stays the same moves a parameter, in units of the learning rate."""
    axes = figure.subplots()
    size = np.logspace(-9, 0, 200)
    for eps, style in ((1e-8, "-"), (1e-4, "--")):
        inside, outside = size / np.sqrt(size**2 + eps), size / (size + eps)
        axes.loglog(size, inside, style, color="C0", label=f"inside, sqrt(v + {eps:g})")
        axes.loglog(size, outside, style, color="C1", label=f"outside, sqrt(v) + {eps:g}")
    axes.set(xlabel="size of the gradient", ylabel="step / learning rate", ylim=(1e-6, 3))
    axes.legend(loc="lower right")


def square(figure: Figure) -> None:
    """J = w^2 from w = 5: plain gradient descent is the faster one here."""
    axes = figure.subplots()
    rules = {
        "gradient descent": (fastopt.SGD, "C1"),
        "RMSProp": (fastopt.RMSProp, "C0"),
    }
    for label, (kind, line) in rules.items():
        w = np.array([5.0])
        path = descend(w, kind(w, lr=0.1), lambda w: 2 * w, 60)
        axes.plot(path, color=line, label=f"{label}, rate 0.1")
    axes.set(xlabel="step", ylabel="w")
    axes.legend()


def scales(figure: Figure) -> None:
    """The same with two parameters whose gradients differ by a factor of ten thousand."""
    axes = figure.subplots()
    steep = np.array([100.0, 0.01])
    falling = fastopt.schedules.cosine(0.1, 300)
    rules = {
        "gradient descent, rate 0.009": (lambda w: fastopt.SGD(w, lr=0.009), "C1"),
        "RMSProp, rate 0.1": (lambda w: fastopt.RMSProp(w, lr=0.1), "C2"),
        "RMSProp, rate falling from 0.1 to 0": (lambda w: fastopt.RMSProp(w, lr=falling), "C0"),
    }
    for label, (make, line) in rules.items():
        w = np.array([5.0, 5.0])
        path = descend(w, make(w), lambda w: 2 * steep * w, 300)
        loss = (steep * path**2).sum(axis=1)
        axes.semilogy(np.maximum(loss, 1e-7), color=line, label=label)
    axes.set(xlabel="step", ylabel="J = 100 a² + 0.01 b²", ylim=(1e-6, 1e6))
    axes.legend(loc="upper right")


# Name -> what draws it, and its width and height.
FIGURES: dict[str, tuple[Callable[[Figure], None], tuple[float, float]]] = {
    "descent": (descent, (6.4, 4.8)),
    "ewma": (ewma, (6.4, 3.6)),
    "weights": (weights, (6.4, 3.2)),
    "start": (start, (6.4, 3.2)),
    "paths": (paths, (6.4, 8.6)),
    "rates": (rates, (6.4, 3.4)),
    "epsilon": (epsilon, (6.4, 3.6)),
    "square": (square, (6.4, 3)),
    "scales": (scales, (6.4, 3.2)),
}
