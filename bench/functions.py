"""Functions to minimize, with their gradients: those that the default learning rate is judged by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import rosen, rosen_der

Array = np.ndarray[Any, Any]
Both = Callable[[Array], tuple[float, Array]]


class Case(NamedTuple):
    """A function that returns its value and gradient, and where to start."""

    fun: Both
    x0: Array


def rosenbrock(x: Array) -> tuple[float, Array]:
    return float(rosen(x)), rosen_der(x)


def _residuals(residuals: Callable[[Array], Array], jacobian: Callable[[Array], Array]) -> Both:
    """Half of the sum of squares."""

    def both(x: Array) -> tuple[float, Array]:
        r = residuals(x)
        return 0.5 * float(r @ r), jacobian(x).T @ r

    return both


def beale(x: Array) -> tuple[float, Array]:
    a, b = x
    powers, right = b ** np.arange(1, 4), np.array([1.5, 2.25, 2.625])
    r = right - a + a * powers
    slope = 2 * a * r @ (np.arange(1, 4) * b ** np.arange(3))
    return float(r @ r), np.array([2 * r @ (powers - 1), slope])


def booth(x: Array) -> tuple[float, Array]:
    a, b = x[0] + 2 * x[1] - 7, 2 * x[0] + x[1] - 5
    return float(a**2 + b**2), np.array([2 * a + 4 * b, 4 * a + 2 * b])


def himmelblau(x: Array) -> tuple[float, Array]:
    a, b = x[0] ** 2 + x[1] - 11, x[0] + x[1] ** 2 - 7
    return float(a**2 + b**2), np.array([4 * x[0] * a + 2 * b, 2 * a + 4 * x[1] * b])


def powell_singular(x: Array) -> tuple[float, Array]:
    """Of four numbers, or of each four in a row."""
    a, b, c, d = x.reshape(-1, 4).T
    p, q, r, s = a + 10 * b, c - d, b - 2 * c, a - d
    grad = np.empty_like(x).reshape(-1, 4)
    grad[:, 0] = 2 * p + 40 * s**3
    grad[:, 1] = 20 * p + 4 * r**3
    grad[:, 2] = 10 * q - 8 * r**3
    grad[:, 3] = -10 * q - 40 * s**3
    return float((p**2 + 5 * q**2 + r**4 + 10 * s**4).sum()), grad.ravel()


def quadratic(condition: float, size: int, seed: int) -> Case:
    """With curvatures from 1 to `condition`, along turned axes."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.normal(size=(size, size)))[0]
    matrix = axes * np.geomspace(1, condition, size) @ axes.T
    return Case(lambda x: (0.5 * float(x @ matrix @ x), matrix @ x), rng.normal(size=size))


def logistic(rows: int, columns: int, seed: int, scale: float = 1.0) -> Case:
    """Logistic regression on random data, with a small quadratic penalty."""
    rng = np.random.default_rng(seed)
    data = rng.normal(size=(rows, columns)) * np.geomspace(1, scale, columns)
    sign = np.sign(data @ rng.normal(size=columns) + rng.normal(size=rows))

    def both(x: Array) -> tuple[float, Array]:
        margin = sign * (data @ x)
        value = np.logaddexp(0, -margin).mean() + 5e-4 * x @ x
        return float(value), -data.T @ (sign / (1 + np.exp(margin))) / rows + 1e-3 * x

    return Case(both, np.zeros(columns))


def softmax(rows: int, columns: int, classes: int, seed: int) -> Case:
    """Softmax regression on random data, with a small quadratic penalty."""
    rng = np.random.default_rng(seed)
    data = rng.normal(size=(rows, columns))
    labels = np.argmax(data @ rng.normal(size=(columns, classes)) + rng.normal(size=(rows, classes)), 1)

    def both(x: Array) -> tuple[float, Array]:
        weights = x.reshape(columns, classes)
        scores = data @ weights
        scores -= scores.max(1, keepdims=True)
        share = np.exp(scores)
        share /= share.sum(1, keepdims=True)
        value = -np.log(share[np.arange(rows), labels]).mean() + 5e-4 * x @ x
        share[np.arange(rows), labels] -= 1
        return float(value), (data.T @ share / rows).ravel() + 1e-3 * x

    return Case(both, np.zeros(columns * classes))


def pseudo_huber(rows: int, columns: int, seed: int) -> Case:
    """A regression that outliers move little."""
    rng = np.random.default_rng(seed)
    data = rng.normal(size=(rows, columns))
    target = data @ rng.normal(size=columns) + rng.standard_t(1.5, rows)

    def both(x: Array) -> tuple[float, Array]:
        r = data @ x - target
        root = np.sqrt(1 + r**2)
        return float((root - 1).mean()), data.T @ (r / root) / rows

    return Case(both, np.zeros(columns))


def wood(x: Array) -> tuple[float, Array]:
    a, b, c, d = x
    p, q = b - a**2, d - c**2
    value = 100 * p**2 + (1 - a) ** 2 + 90 * q**2 + (1 - c) ** 2
    value += 10.1 * ((b - 1) ** 2 + (d - 1) ** 2) + 19.8 * (b - 1) * (d - 1)
    cross = 20.2 * np.array([b - 1, d - 1]) + 19.8 * np.array([d - 1, b - 1])
    grad = [-400 * a * p - 2 * (1 - a), 200 * p + cross[0]]
    grad += [-360 * c * q - 2 * (1 - c), 180 * q + cross[1]]
    return float(value), np.array(grad)


def dixon_price(x: Array) -> tuple[float, Array]:
    weights = np.arange(2, x.size + 1)
    r = 2 * x[1:] ** 2 - x[:-1]
    grad = np.zeros_like(x)
    grad[0] = 2 * (x[0] - 1)
    grad[1:] += 8 * weights * r * x[1:]
    grad[:-1] -= 2 * weights * r
    return float((x[0] - 1) ** 2 + weights @ r**2), grad


def styblinski_tang(x: Array) -> tuple[float, Array]:
    return 0.5 * float((x**4 - 16 * x**2 + 5 * x).sum()), 2 * x**3 - 16 * x + 2.5


def zakharov(x: Array) -> tuple[float, Array]:
    weights = 0.5 * np.arange(1, x.size + 1)
    total = weights @ x
    return float(x @ x + total**2 + total**4), 2 * x + (2 * total + 4 * total**3) * weights


def variably_dimensioned(x: Array) -> tuple[float, Array]:
    weights = np.arange(1.0, x.size + 1)
    total = weights @ (x - 1)
    rest = x - 1
    return float(rest @ rest + total**2 + total**4), 2 * rest + (2 * total + 4 * total**3) * weights


def broyden_tridiagonal(size: int) -> Case:
    def residuals(x: Array) -> Array:
        wide = np.pad(x, 1)
        return (3 - 2 * x) * x - wide[:-2] - 2 * wide[2:] + 1

    def jacobian(x: Array) -> Array:
        return np.diag(3 - 4 * x) - np.eye(size, k=-1) - 2 * np.eye(size, k=1)

    return Case(_residuals(residuals, jacobian), np.full(size, -1.0))


def brown_almost_linear(size: int) -> Case:
    def residuals(x: Array) -> Array:
        r = x + x.sum() - (size + 1)
        r[-1] = np.prod(x) - 1
        return r

    def jacobian(x: Array) -> Array:
        matrix = np.eye(size) + 1
        matrix[-1] = [np.prod(np.delete(x, i)) for i in range(size)]
        return matrix

    return Case(_residuals(residuals, jacobian), np.full(size, 0.5))


def trigonometric(size: int) -> Case:
    index = np.arange(1, size + 1)

    def residuals(x: Array) -> Array:
        return size - np.cos(x).sum() + index * (1 - np.cos(x)) - np.sin(x)

    def jacobian(x: Array) -> Array:
        return np.sin(x) + np.diag(index * np.sin(x) - np.cos(x))

    return Case(_residuals(residuals, jacobian), np.full(size, 1 / size))


def log_sum_exp(x: Array) -> tuple[float, Array]:
    """A smooth maximum of lines, with a small quadratic part."""
    rng = np.random.default_rng(4)
    lines, right = rng.normal(size=(3 * x.size, x.size)), rng.normal(size=3 * x.size)
    scores = lines @ x - right
    top = scores.max()
    share = np.exp(scores - top)
    total = share.sum()
    return float(top + np.log(total) + 5e-3 * x @ x), lines.T @ share / total + 1e-2 * x


def mccormick(x: Array) -> tuple[float, Array]:
    a, b = x
    value = np.sin(a + b) + (a - b) ** 2 - 1.5 * a + 2.5 * b + 1
    return float(value), np.cos(a + b) + np.array([2 * (a - b) - 1.5, -2 * (a - b) + 2.5])


def sphere(x: Array) -> tuple[float, Array]:
    return float(x @ x), 2 * x


def _start(size: int) -> Array:
    """Rosenbrock's usual start, repeated."""
    return np.resize([-1.2, 1.0], size)


TEN: dict[str, Case] = {
    "Rosenbrock, 2": Case(rosenbrock, _start(2)),
    "Rosenbrock, 4": Case(rosenbrock, _start(4)),
    "Rosenbrock, 50": Case(rosenbrock, _start(50)),
    "Rosenbrock, 1000": Case(rosenbrock, _start(1000)),
    "Beale": Case(beale, np.array([1.0, 1.0])),
    "Booth": Case(booth, np.array([0.0, 0.0])),
    "Himmelblau": Case(himmelblau, np.array([0.0, 0.0])),
    "Powell, singular": Case(powell_singular, np.array([3.0, -1.0, 0.0, 1.0])),
    "quadratic, condition 100": quadratic(100, 20, 0),
    "logistic regression": logistic(200, 10, 1),
}

TWENTY: dict[str, Case] = {
    "Rosenbrock, 10, from zeros": Case(rosenbrock, np.zeros(10)),
    "Rosenbrock, 2, from (5, -5)": Case(rosenbrock, np.array([5.0, -5.0])),
    "Rosenbrock, 100, at random": Case(rosenbrock, np.random.default_rng(5).uniform(-2, 2, 100)),
    "Beale, from (-2, 2)": Case(beale, np.array([-2.0, 2.0])),
    "Himmelblau, from (-4, 4)": Case(himmelblau, np.array([-4.0, 4.0])),
    "Powell, singular, 40": Case(powell_singular, np.resize([3.0, -1.0, 0.0, 1.0], 40)),
    "quadratic, condition 1000": quadratic(1000, 30, 2),
    "quadratic, condition 10^4": quadratic(1e4, 30, 3),
    "sphere, from 1000": Case(sphere, np.full(10, 1000.0)),
    "logistic, columns scaled 1 to 100": logistic(300, 10, 6, 100.0),
    "softmax regression": softmax(300, 8, 5, 7),
    "pseudo-Huber regression": pseudo_huber(200, 20, 8),
    "Wood": Case(wood, np.array([-3.0, -1.0, -3.0, -1.0])),
    "Dixon-Price, 10": Case(dixon_price, np.full(10, 2.0)),
    "Styblinski-Tang, 10": Case(styblinski_tang, np.linspace(-4, 4, 10)),
    "Zakharov, 10": Case(zakharov, np.full(10, 1.0)),
    "variably dimensioned, 10": Case(variably_dimensioned, 1 - np.arange(1, 11) / 10),
    "Broyden, tridiagonal, 30": broyden_tridiagonal(30),
    "Brown, almost linear, 10": brown_almost_linear(10),
    "log-sum-exp, 20": Case(log_sum_exp, np.full(20, 3.0)),
}
