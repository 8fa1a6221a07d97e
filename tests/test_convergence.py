"""Every optimizer reaches a stated loss in a stated number of steps, on problems known as hard.

The learning rates were the best, or next to it, of 1, 2, 5 times powers of ten from 1e-3 to 1; they are
constant, so that RMSProp ends with steps of that size around the minimum. What was measured stands
beside the limits, which leave a margin. AdamW ends where its decay balances the gradient.
"""

import functools

import numpy as np
import pytest

import fastopt

KINDS = {
    "SGD": functools.partial(fastopt.SGD, momentum=0.9),
    **{name: getattr(fastopt, name) for name in ("RMSProp", "AdaGrad", "Adam", "AdamW", "NAdam")},
}


def rosenbrock(x):
    a, b = x
    slope = np.array([-2 * (1 - a) - 400 * a * (b - a * a), 200 * (b - a * a)])
    return (1 - a) ** 2 + 100 * (b - a * a) ** 2, slope


def beale(x):
    a, b = x
    powers = np.array([b, b**2, b**3])
    rest = np.array([1.5, 2.25, 2.625]) - a + a * powers
    by_b = a * np.array([1, 2 * b, 3 * b**2])
    return rest @ rest, np.array([2 * rest @ (powers - 1), 2 * rest @ by_b])


@functools.cache
def quadratic_matrix():
    """Condition 1e4, its axes turned away from those of the parameters."""
    axes, _ = np.linalg.qr(np.random.default_rng(7).normal(size=(30, 30)))
    return axes * np.logspace(0, -4, 30) @ axes.T


def quadratic(x):
    slope = quadratic_matrix() @ x
    return 0.5 * x @ slope, slope


@functools.cache
def digits():
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed")
    pixels, labels = datasets.load_digits(return_X_y=True)
    return pixels / 16.0, labels


def logistic(x):
    """Mean cross-entropy of ten classes."""
    pixels, labels = digits()
    rows = np.arange(len(labels))
    scores = pixels @ x
    scores -= scores.max(axis=1, keepdims=True)
    scores -= np.log(np.exp(scores).sum(axis=1, keepdims=True))
    excess = np.exp(scores)
    excess[rows, labels] -= 1
    return -scores[rows, labels].mean(), pixels.T @ excess / len(labels)


def minimize(function, start, kind, lr, steps):
    x = np.array(start, float)
    opt = KINDS[kind](x, lr=lr)
    for _ in range(steps):
        opt.step(function(x)[1])
    return function(x)[0]


STARTS = {
    rosenbrock: ([-1.2, 1.0], 2000),  # 24.2
    beale: ([1.0, 1.0], 1000),  # 14.2
    quadratic: (np.ones(30), 2000),
    logistic: (np.zeros((64, 10)), 60),  # log(10) = 2.30
}
# LIMITS
