"""Problems that the automatic learning rate is judged by: the ten it was chosen on, and ten others.

Each is computed for many runs at once: ``x`` has a row of parameters for each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy.special import gammaln
from sklearn import datasets

Array = np.ndarray[Any, Any]
Generator = np.random.Generator
# Of scores and targets: the losses, and their derivatives by the scores.
PerRow = Callable[[Array, Array], tuple[Array, Array]]


class Problem(NamedTuple):
    """The loss over all data, a gradient of it or of a minibatch, and where to start."""

    x0: Array
    loss: Callable[[Array], Array]
    gradient: Callable[[Array, Generator], Array]
    steps: int
    noisy: bool


def standardized(data: Array) -> Array:
    spread = data.std(0)
    return np.asarray((data - data.mean(0)) / np.where(spread == 0, 1, spread))


def _rows(rng: Generator, count: int, batch: int | None) -> Any:
    return slice(None) if batch is None else rng.integers(0, count, batch)


def logistic(scores: Array, sign: Array) -> tuple[Array, Array]:
    margin = scores * sign
    return np.logaddexp(0, -margin), -sign / (1 + np.exp(np.clip(margin, -500, 500)))


def square(scores: Array, target: Array) -> tuple[Array, Array]:
    return 0.5 * (scores - target) ** 2, scores - target


def huber(scores: Array, target: Array) -> tuple[Array, Array]:
    root = np.sqrt(1 + (scores - target) ** 2)
    return root - 1, (scores - target) / root


def poisson(scores: Array, counts: Array) -> tuple[Array, Array]:
    rate = np.exp(np.minimum(scores, 50))
    return rate - counts * scores + gammaln(counts + 1), rate - counts


def linear(data: Array, target: Array, rule: PerRow, batch: int | None, steps: int) -> Problem:
    """A model whose scores are linear in the parameters."""

    def gradient(x: Array, rng: Generator) -> Array:
        rows = _rows(rng, len(data), batch)
        return rule(x @ data[rows].T, target[rows])[1] @ data[rows] / len(target[rows])

    def loss(x: Array) -> Array:
        return np.asarray(rule(x @ data.T, target)[0].mean(1))

    return Problem(np.zeros(data.shape[1]), loss, gradient, steps, batch is not None)


def _cross_entropy(scores: Array, labels: Array) -> tuple[Array, Array]:
    """Of each run, and its derivative by the scores."""
    share = np.exp(scores - scores.max(2, keepdims=True))
    share /= share.sum(2, keepdims=True)
    rows = np.arange(len(labels))
    loss = -np.log(np.maximum(share[:, rows, labels], 1e-300)).mean(1)
    share[:, rows, labels] -= 1
    return loss, share / len(labels)


def _squares(outputs: Array, target: Array) -> tuple[Array, Array]:
    rest = outputs - target
    return 0.5 * (rest**2).sum(2).mean(1), rest / len(target)


def softmax(data: Array, labels: Array, batch: int | None, steps: int, penalty: float = 0.0) -> Problem:
    shape = data.shape[1], int(labels.max()) + 1

    def gradient(x: Array, rng: Generator) -> Array:
        rows = _rows(rng, len(data), batch)
        part = data[rows]
        slope = _cross_entropy(np.matmul(part, x.reshape(-1, *shape)), labels[rows])[1]
        return np.asarray(np.matmul(part.T, slope).reshape(len(x), -1) + penalty * x)

    def loss(x: Array) -> Array:
        scores = np.matmul(data, x.reshape(-1, *shape))
        return np.asarray(_cross_entropy(scores, labels)[0] + 0.5 * penalty * (x**2).sum(1))

    return Problem(np.zeros(shape[0] * shape[1]), loss, gradient, steps, batch is not None)


def network(data: Array, target: Array, hidden: int, relu: bool, steps: int, seed: int) -> Problem:
    """One hidden layer, relu or tanh; classes if the targets are labels, else squares."""
    rng = np.random.default_rng(seed)
    is_class = target.ndim == 1
    outputs = int(target.max()) + 1 if is_class else target.shape[1]
    rule = _cross_entropy if is_class else _squares
    inputs = data.shape[1]
    first = rng.normal(size=(inputs, hidden)) / np.sqrt(inputs)
    second = rng.normal(size=(hidden, outputs)) / np.sqrt(hidden)
    x0 = np.concatenate([first.ravel(), np.zeros(hidden), second.ravel(), np.zeros(outputs)])
    ends = np.cumsum([inputs * hidden, hidden, hidden * outputs])

    def forward(x: Array, part: Array) -> tuple[Array, Array, Array]:
        a, b, c, d = np.split(x, ends, 1)
        c = c.reshape(-1, hidden, outputs)
        inner = np.matmul(part, a.reshape(-1, inputs, hidden)) + b[:, None]
        inner = np.maximum(inner, 0) if relu else np.tanh(inner)
        return inner, np.matmul(inner, c) + d[:, None], c

    def gradient(x: Array, rng: Generator) -> Array:
        rows = rng.integers(0, len(data), 32)
        inner, out, c = forward(x, data[rows])
        slope = rule(out, target[rows])[1]
        back = np.matmul(slope, c.transpose(0, 2, 1)) * ((inner > 0) if relu else (1 - inner**2))
        weights = np.matmul(data[rows].T, back), np.matmul(inner.transpose(0, 2, 1), slope)
        first, second = (matrix.reshape(len(x), -1) for matrix in weights)
        return np.concatenate([first, back.sum(1), second, slope.sum(1)], 1)

    def loss(x: Array) -> Array:
        return rule(forward(x, data)[1], target)[0]

    return Problem(x0, loss, gradient, steps, True)


def quadratic(curvatures: Array, noise: float, steps: int, seed: int, turned: bool = True) -> Problem:
    rng, size = np.random.default_rng(seed), len(curvatures)
    axes = np.linalg.qr(rng.normal(size=(size, size)))[0] if turned else np.eye(size)
    matrix = axes * curvatures @ axes.T

    def gradient(x: Array, rng: Generator) -> Array:
        return np.asarray(x @ matrix + (noise * rng.normal(size=size) if noise else 0.0))

    def loss(x: Array) -> Array:
        return 0.5 * ((x @ matrix) * x).sum(1)

    return Problem(rng.normal(size=size), loss, gradient, steps, noise > 0)


def rosenbrock(size: int, steps: int) -> Problem:
    def loss(x: Array) -> Array:
        return (100 * (x[:, 1:] - x[:, :-1] ** 2) ** 2 + (1 - x[:, :-1]) ** 2).sum(1)

    def gradient(x: Array, rng: Generator) -> Array:
        result, rest = np.zeros_like(x), x[:, 1:] - x[:, :-1] ** 2
        result[:, :-1] = -400 * x[:, :-1] * rest - 2 * (1 - x[:, :-1])
        result[:, 1:] += 200 * rest
        return result

    return Problem(np.resize([-1.2, 1.0], size), loss, gradient, steps, False)


def factorization(rows: int, columns: int, rank: int, steps: int, seed: int) -> Problem:
    """Of a matrix, from ten of its rows at a time."""
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(rows, rank)) @ rng.normal(size=(rank, columns))
    matrix += 0.1 * rng.normal(size=matrix.shape)
    x0 = 0.3 * rng.normal(size=(rows + columns) * rank)

    def factors(x: Array) -> tuple[Array, Array]:
        left, right = np.split(x, [rows * rank], 1)
        return left.reshape(-1, rows, rank), right.reshape(-1, columns, rank)

    def loss(x: Array) -> Array:
        left, right = factors(x)
        return 0.5 * ((np.matmul(left, right.transpose(0, 2, 1)) - matrix) ** 2).mean((1, 2))

    def gradient(x: Array, rng: Generator) -> Array:
        left, right = factors(x)
        chosen = rng.integers(0, rows, 10)
        part = left[:, chosen]
        rest = (np.matmul(part, right.transpose(0, 2, 1)) - matrix[chosen]) / (10 * columns)
        of_left = np.zeros_like(left)
        np.add.at(of_left, (slice(None), chosen), np.matmul(rest, right))
        of_right = np.matmul(rest.transpose(0, 2, 1), part)
        return np.concatenate([of_left.reshape(len(x), -1), of_right.reshape(len(x), -1)], 1)

    return Problem(x0, loss, gradient, steps, True)


def chosen_on() -> dict[str, Problem]:
    """The problems on which the constants of the rule were chosen."""
    cancer, digits, wine = datasets.load_breast_cancer(), datasets.load_digits(), datasets.load_wine()
    rng = np.random.default_rng(1)
    scales = np.geomspace(0.1, 10, 20)
    data = rng.normal(size=(800, 20)) * scales
    sign = np.sign(data @ (rng.normal(size=20) / scales) + 0.5 * rng.normal(size=800))
    cancer_data, cancer_sign = standardized(cancer.data), 2.0 * cancer.target - 1
    return {
        "logistic, breast cancer": linear(cancer_data, cancer_sign, logistic, 32, 1000),
        "softmax, digits": softmax(standardized(digits.data), digits.target, 64, 1000),
        "softmax, wine, full batch": softmax(standardized(wine.data), wine.target, None, 500, 1e-3),
        "logistic, columns of unequal scale": linear(data, sign, logistic, 32, 2000),
        "tanh network, digits": network(digits.data / 16, digits.target, 20, False, 1500, 2),
        "matrix factorization": factorization(40, 30, 4, 2000, 3),
        "Rosenbrock, 2": rosenbrock(2, 2000),
        "Rosenbrock, 10": rosenbrock(10, 2000),
        "quadratic, condition 10^4": quadratic(np.geomspace(1e-2, 1e2, 30), 0.0, 2000, 4),
        "noisy quadratic, condition 1000": quadratic(np.geomspace(1e-1, 1e2, 30), 1.0, 1000, 5),
    }


def kept_back() -> dict[str, Problem]:
    """The others."""
    diabetes, digits, iris = datasets.load_diabetes(), datasets.load_digits(), datasets.load_iris()
    rng = np.random.default_rng(11)
    data = rng.normal(size=(600, 15))
    sign = np.sign(data @ rng.normal(size=15)) * np.where(rng.random(600) < 0.2, -1, 1)
    heavy = rng.normal(size=(500, 20))
    heavy_target = heavy @ rng.normal(size=20) * 3 + rng.standard_t(1.5, 500)
    events = rng.normal(size=(600, 10)) * 0.5
    counts = rng.poisson(np.exp(events @ rng.normal(size=10) + 1)).astype(float)
    smooth = rng.normal(size=(1000, 8))
    height = np.sin(smooth[:, :2].sum(1)) + 0.3 * smooth[:, 2] * smooth[:, 3]
    height = (height + 0.1 * rng.normal(size=1000))[:, None]
    turned = rng.normal(size=(200, 30)) @ np.linalg.qr(rng.normal(size=(30, 30)))[0]
    turned *= np.geomspace(0.03, 3, 30)
    line = turned @ rng.normal(size=30) + 0.1 * rng.normal(size=200)
    progress = (diabetes.target - diabetes.target.mean()) / diabetes.target.std()
    pixels = digits.data / 16
    axes = np.geomspace(1e-3, 1e3, 20)
    return {
        "least squares, diabetes": linear(standardized(diabetes.data), progress, square, 16, 1000),
        "logistic, wrong labels": linear(data, sign, logistic, 16, 1500),
        "Huber regression": linear(heavy, heavy_target, huber, 32, 1000),
        "Poisson regression": linear(events, counts, poisson, 32, 1000),
        "relu network, regression": network(smooth, height, 24, True, 2000, 12),
        "autoencoder, digits": network(pixels, pixels, 8, False, 1000, 13),
        "Rosenbrock, 100": rosenbrock(100, 2000),
        "softmax, iris, full batch": softmax(standardized(iris.data), iris.target, None, 1000, 1e-3),
        "least squares, full batch": linear(turned, line, square, None, 2000),
        "noisy quadratic, unequal axes": quadratic(axes, 0.3, 2000, 14, turned=False),
    }
