"""Every way in which `fastopt.minimize` ends, and who is told of what on the way."""

import functools
import math

import numpy as np
import pytest
from scipy.optimize import Bounds, rosen

import fastopt
from tests.minimizing import X0, both, by_hand, recorded, sphere, usual_rate
from tests.support import assert_same_bits


def test_ends_by_gradient():
    result = fastopt.minimize(sphere, [3.0, -4.0], optimizer="sgd", lr=0.4, gtol=1e-3)
    assert (result.success, result.status) == (True, 0)
    assert "gtol" in result.message
    # x shrinks to a fifth in every step: 8 * 0.2**n <= 1e-3 at n = 6.
    assert (result.nit, result.nfev) == (6, 7)
    assert abs(result.jac).max() <= 1e-3


def test_ends_by_projected_gradient():
    result = fastopt.minimize(
        sphere, [3.0, 4.0], optimizer="adam", lr=0.5, bounds=[(1, None), (None, -2)]
    )
    assert result.success
    assert "gtol" in result.message
    assert result.x.tolist() == [1.0, -2.0]
    assert result.jac.tolist() == [2.0, -4.0]  # not projected


def test_ends_by_function():
    result, seen = recorded(both, X0, optimizer="adam", lr=0.02, gtol=None, ftol=1e-7, window=5)
    assert (result.success, result.status) == (True, 0)
    assert "ftol" in result.message
    assert "last 5 iterations" in result.message
    values = np.array([rosen(X0), *(fun for _, fun, _ in seen)])
    small = abs(np.diff(values)) <= 1e-7 * np.maximum(1, np.maximum(values[1:], values[:-1]))
    assert small[-5:].all()
    assert not any(small[i : i + 5].all() for i in range(len(small) - 5))


def test_ends_by_point():
    result, seen = recorded(
        both, X0, optimizer="adam", lr=0.02, gtol=None, ftol=None, xtol=1e-5, window=5
    )
    assert (result.success, result.status) == (True, 0)
    assert "xtol" in result.message
    points = np.array([X0, *(x for x, _, _ in seen)])
    small = abs(np.diff(points, axis=0)).max(axis=1) <= 1e-5 * np.maximum(
        abs(points[1:]).max(axis=1), 1
    )
    assert small[-5:].all()
    assert not any(small[i : i + 5].all() for i in range(len(small) - 5))


def test_rules_that_are_off():
    rest = fastopt.minimize(sphere, [0.0], gtol=None, ftol=None, maxiter=150, lr=0.1)
    assert (rest.nit, rest.status) == (150, 1)
    assert fastopt.minimize(sphere, [0.0], gtol=None, ftol=0, maxiter=150, lr=0.1).nit == 100
    assert fastopt.minimize(sphere, [0.0], gtol=0, maxiter=150).nit == 0


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["value", "gradient"])
@pytest.mark.parametrize("bounds", [None, [(-5, 5)]])
def test_what_is_not_finite_ends_it(wrong, where, bounds):
    def fun(x):
        value, grad = sphere(x)
        if x[0] < 1:
            return (wrong, grad) if where == "value" else (value, np.array([wrong]))
        return value, grad

    result = fastopt.minimize(fun, [2.0], optimizer="sgd", lr=0.25, bounds=bounds)
    assert (result.success, result.status, result.nit) == (False, 3, 2)
    assert "not finite after 2 iterations" in result.message
    assert "learning rate" in result.message
    if where == "value":
        assert (result.x[0], result.fun, result.jac[0]) == (1.0, 1.0, 2.0)
    else:  # the value is good there, and the best
        assert (result.x[0], result.fun) == (0.5, 0.25)


def test_what_is_not_finite_at_the_start():
    result = fastopt.minimize(lambda x: (math.nan, x), [2.0, 1.0])
    assert (result.success, result.status, result.nit) == (False, 3, 0)
    assert "at x0" in result.message
    assert result.x.tolist() == [2.0, 1.0]
    assert math.isnan(result.fun)


def test_float32_gradients_that_overflow_are_not_finite():
    result = fastopt.minimize(lambda x: (1.0, np.array([1e300])), np.ones(1, np.float32))
    assert result.status == 3


def test_a_gradient_that_is_not_written_is_noticed():
    def adds(x, out):
        out += 2 * x
        return x @ x

    assert fastopt.minimize(adds, [1.0]).status == 3


def test_skip_nonfinite_continues():
    def fun(x, step):
        return x @ x, 2 * x if step != 1 else np.full(1, math.nan)

    result = fastopt.minimize(fun, [2.0], optimizer="sgd", lr=0.25, maxiter=3, skip_nonfinite=True)
    assert (result.nit, result.status) == (3, 1)
    assert result.x[0] == 0.5


def test_callbacks_and_stop_iteration():
    points = []

    def callback(x):
        points.append(x)
        x[:] = 7  # a copy
        if len(points) == 4:
            raise StopIteration

    result = fastopt.minimize(both, X0, callback=callback)
    assert (result.success, result.status, result.nit) == (False, 99, 4)
    assert "StopIteration" in result.message
    make = functools.partial(fastopt.RMSProp, momentum=0.9, bias_correction=True)
    expected, _ = by_hand(functools.partial(make, lr=usual_rate(0.03, X0)), X0, 4)
    assert_same_bits(result.x, expected[-1])


def test_errors_of_the_functions_come_through():
    def stops(x):
        raise StopIteration("mine")

    with pytest.raises(StopIteration, match="mine"):
        fastopt.minimize(stops, X0)
    with pytest.raises(ZeroDivisionError):
        fastopt.minimize(both, X0, callback=lambda x: 1 / 0)


def test_a_progress_bar(capsys):
    pytest.importorskip("tqdm", reason="tqdm is not installed")
    fastopt.minimize(sphere, [1.0], maxiter=20, lr=0.01, progress=True)
    shown = capsys.readouterr().err
    assert "20/20" in shown
    assert "fun=" in shown
    with pytest.raises(ZeroDivisionError):
        fastopt.minimize(lambda x: 1 / 0, [1.0], progress=True)
    assert "0/5000" in capsys.readouterr().err
    fastopt.minimize(sphere, [1.0], maxiter=2)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("size", [1, 2, 32_767, 32_768, 32_769, 100_003])
@pytest.mark.parametrize("bounded", [False, True])
def test_large_gradients_are_measured_in_pieces(size, bounded):
    """`gtol` sees every element, the last too, and only a step that stays in the box."""
    rng = np.random.default_rng(5)
    grad = rng.uniform(-1e-3, 1e-3, size)
    for where in {0, size // 2, size - 1}:
        g = grad.copy()
        g[where] = 3.0
        bounds = Bounds(np.where(np.arange(size) == where, -2.0, -9.0), 9.0) if bounded else None
        largest = 2.0 if bounded else 3.0
        for gtol, status in [(largest, 0), (np.nextafter(largest, 0), 1)]:
            result = fastopt.minimize(
                lambda x, g=g: (0.0, g), np.zeros(size), bounds=bounds, gtol=gtol, maxiter=0, ftol=None
            )
            assert result.status == status
        g[where] = math.nan
        assert fastopt.minimize(lambda x, g=g: (0.0, g), np.zeros(size), bounds=bounds).status == 3
