"""Small problems for optimizers: from a seed, a start, gradients and the loss that they are of."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse
from sklearn.datasets import load_breast_cancer

from fastopt.demo import digits

Array = np.ndarray[Any, Any]


_load = cache(digits.load)


class Problem(NamedTuple):
    """One problem with its start and, if it is noisy, its batches or noise."""

    start: Array
    gradient: Callable[[Array, int], Array]  # at the parameters, in step 0, 1, ...
    loss: Callable[[Array], float]  # without noise, of all data


class Task(NamedTuple):
    """A kind of problem."""

    title: str
    steps: int
    make: Callable[[int], Problem]


def network(seed: int) -> Problem:
    """64-32-10 on the digits, in batches of 64."""
    data = _load(0)
    model = digits.Network(64, 32, 10, seed)
    batches = _batches(len(data.train), digits.BATCH, seed)

    def put(w: Array) -> None:
        model.params[...] = w

    def gradient(w: Array, step: int) -> Array:
        put(w)
        batch = batches(step)
        model.differentiate(data.train[batch], data.train_labels[batch])
        return model.grads.copy()

    def loss(w: Array) -> float:
        put(w)
        return model.loss(data.train, data.train_labels)

    return Problem(model.params.copy(), gradient, loss)


def _batches(count: int, size: int, seed: int) -> Callable[[int], Array]:
    """The indices of the batch of each step: a new order in each epoch."""
    per_epoch = count // size
    orders: dict[int, Array] = {}

    def batch(step: int) -> Array:
        epoch, number = divmod(step, per_epoch)
        if epoch not in orders:
            orders[epoch] = np.random.default_rng((seed, epoch)).permutation(count)
        return orders[epoch][number * size : (number + 1) * size]

    return batch


def text(seed: int) -> Problem:
    """Two topics told apart by the words of documents, most of which are rare; in batches of 50."""
    x, sign = _documents()
    return Problem(
        np.zeros(x.shape[1], np.float32), *_logistic(x, sign, _batches(x.shape[0], 50, seed), 1e-4)
    )


@cache
def _documents() -> tuple[Any, Array]:
    """Which words are in each document, and the sign of its topic."""
    rng = np.random.default_rng(0)
    words, documents, length = 5_000, 3_000, 40
    frequency = 1 / np.arange(1, words + 1)
    favour = np.where(np.arange(words) < 100, 0, rng.choice([-1, 0, 0, 1], words))
    topics = rng.integers(0, 2, documents)
    columns = np.empty((documents, length), np.int64)
    for topic in (0, 1):
        likely = frequency * 4.0 ** (favour * (1 if topic else -1) / 2)
        chosen = topics == topic
        columns[chosen] = rng.choice(words, (chosen.sum(), length), p=likely / likely.sum())
    rows = np.repeat(np.arange(documents), length)
    ones = np.ones(rows.size, np.float32)
    x = sparse.csr_array((ones, (rows, columns.ravel())), shape=(documents, words))
    x.data[:] = 1
    return x, (2 * topics - 1).astype(np.float32)


def regression(seed: int) -> Problem:
    """Logistic regression on scikit-learn's breast cancer data, all of it in each step."""
    x, y = load_breast_cancer(return_X_y=True)
    x = np.column_stack([(x - x.mean(0)) / x.std(0), np.ones(len(x))]).astype(np.float32)
    start = 0.1 * np.random.default_rng(seed).standard_normal(x.shape[1])
    sign = (2 * y - 1).astype(np.float32)
    return Problem(start.astype(np.float32), *_logistic(x, sign, lambda step: slice(None), 1e-3))


def _logistic(x: Any, sign: Array, batches: Any, decay: float = 0.0) -> tuple[Any, Any]:
    """Gradient and loss of a logistic regression with this much of the square of the parameters."""

    def gradient(w: Array, step: int) -> Array:
        batch = batches(step)
        rows, signs = x[batch], sign[batch]
        wrong = -signs / (1 + np.exp(signs * (rows @ w)))
        return (rows.T @ wrong / len(signs) + decay * w).astype(np.float32)

    def loss(w: Array) -> float:
        margin = sign * (x @ w.astype(np.float64))
        return float(np.logaddexp(0, -margin).mean() + 0.5 * decay * (w @ w))

    return gradient, loss


def factors(seed: int) -> Problem:
    """A noisy matrix of 60 x 40 as a product of rank 5, from a small random start."""
    rng = np.random.default_rng(0)
    left, right = rng.standard_normal((60, 5)), rng.standard_normal((5, 40))
    target = (left @ right + 0.1 * rng.standard_normal((60, 40))).astype(np.float32)
    start = (0.3 * np.random.default_rng(seed).standard_normal(500)).astype(np.float32)

    def parts(w: Array) -> tuple[Array, Array, Array]:
        a, b = w[:300].reshape(60, 5), w[300:].reshape(5, 40)
        return a, b, a @ b - target

    def gradient(w: Array, step: int) -> Array:
        a, b, error = parts(w)
        return np.concatenate([(error @ b.T).ravel(), (a.T @ error).ravel()]) / np.float32(60)

    return Problem(start, gradient, lambda w: float(np.square(parts(w)[2]).mean()))


def rosenbrock(seed: int) -> Problem:
    """Rosenbrock's function of 10 variables, near its usual start."""
    start = np.where(np.arange(10) % 2, 1.0, -1.2) + 0.1 * np.random.default_rng(seed).normal(size=10)

    def gradient(x: Array, step: int) -> Array:
        g = np.zeros_like(x)
        bent, off = x[1:] - x[:-1] ** 2, 1 - x[:-1]
        g[:-1] = -400 * x[:-1] * bent - 2 * off
        g[1:] += 200 * bent
        return g

    def loss(x: Array) -> float:
        return float((100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum())

    return Problem(start, gradient, loss)


def quadratic(seed: int) -> Problem:
    """A parabola of 100 variables and condition 1e4, not along the axes, with noise in the gradient."""
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((100, 100)))[0]
    matrix = basis * np.logspace(-4, 0, 100) @ basis.T
    noise = np.random.default_rng((seed, 1))
    return Problem(
        np.random.default_rng(seed).standard_normal(100),
        lambda x, step: matrix @ x + 0.01 * noise.standard_normal(100),
        lambda x: float(0.5 * x @ matrix @ x),
    )


TASKS = {
    "digits": Task("digits, network", 420, network),
    "text": Task("text, rare words", 360, text),
    "regression": Task("logistic regression", 300, regression),
    "factors": Task("matrix factors", 400, factors),
    "rosenbrock": Task("Rosenbrock, 10", 1000, rosenbrock),
    "quadratic": Task("noisy quadratic", 600, quadratic),
}
