"""The default rule of `fastopt.minimize`: half the rate, from the best point, without progress."""

import functools

import numpy as np
import pytest

import fastopt
from bench.functions import TEN, TWENTY
from tests.minimizing import X0, both, by_hand_restarting, recorded, usual_rate
from tests.support import COMPILED, DTYPES, assert_same_bits, compiled_suite_only

RMSPROP = functools.partial(fastopt.RMSProp, momentum=0.9, bias_correction=True)
STEPS = 300 if COMPILED else 120


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("keep", ["best", "last"])
def test_steps_are_those_of_a_loop_by_hand(dtype, keep):
    """Whether the best point is kept for the result or for the restarts alone."""
    x0 = X0.astype(dtype)
    result, seen = recorded(both, x0, maxiter=STEPS, ftol=None, gtol=None, keep=keep)
    points = by_hand_restarting(RMSPROP, both, x0, usual_rate(0.03, x0), STEPS)
    assert_same_bits(np.array([x for x, _, _ in seen]), np.array(points[1:]))
    assert_same_bits(
        result.x, points[-1 if keep == "last" else int(np.argmin([both(x)[0] for x in points]))]
    )
    assert (result.nit, result.nfev, result.njev) == (STEPS, STEPS + 1, STEPS + 1)


def test_settings_that_are_given_stay():
    settings = {"momentum": 0.5, "beta": 0.8, "weight_decay": 0.01}
    make = functools.partial(fastopt.RMSProp, bias_correction=True, **settings)
    _, seen = recorded(both, X0, maxiter=100, **settings)
    points = by_hand_restarting(make, both, X0, usual_rate(0.03, X0), 100)
    assert_same_bits(seen[-1][0], points[-1])
    # A number for lr is the end of the rule, and all settings are those of the class.
    _, seen = recorded(both, X0, maxiter=50, lr=0.1)
    points = by_hand_restarting(fastopt.RMSProp, both, X0, 0.1, 50, patience=10**9)
    assert_same_bits(seen[-1][0], points[-1])


@pytest.mark.parametrize("where", ["value", "gradient"])
def test_it_turns_back_where_the_function_is_not_finite(where):
    """With a gradient that is not a number the value alone makes no best point."""

    def fun(x):
        value, grad = float((x - np.log(x)).sum()), 1 - 1 / x
        if x.min() <= 0.3:
            value, grad = (np.nan, grad) if where == "value" else (-9.0, np.full_like(x, np.nan))
        return value, grad

    x0 = np.array([40.0, 0.5])
    with np.errstate(all="ignore"):
        result, seen = recorded(fun, x0, optimizer="adam", gtol=1e-4)
        points = by_hand_restarting(fastopt.Adam, fun, x0, usual_rate(0.1, x0), result.nit)
    assert_same_bits(np.array([x for x, _, _ in seen]), np.array(points[1:]))
    assert any(x.min() <= 0.3 for x in points)
    assert result.success
    np.testing.assert_allclose(result.x, 1, atol=1e-3)


def test_it_gives_up_where_no_rate_is_small_enough():
    calls = []

    def fun(x):
        calls.append(1)
        return (1.0, np.ones(2)) if len(calls) == 1 else (np.inf, np.ones(2))

    result = fastopt.minimize(fun, [1.0, 2.0], maxiter=np.inf)
    assert (result.status, result.success, result.nfev) == (3, False, 102)
    assert result.x.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_it_goes_on_where_no_rate_is_small_enough(dtype):
    """And does not halve the rate until it is no number of the dtype."""
    steps = 2_100 if COMPILED else 2_060  # 100 halvings
    flat = lambda x: (1.0, np.ones_like(x))  # noqa: E731
    result = fastopt.minimize(flat, np.ones(2, dtype), gtol=None, ftol=None, maxiter=steps)
    assert (result.status, result.nit) == (1, steps)


@pytest.mark.parametrize(("dtype", "scale"), [(np.float32, 1e-15), (np.float64, 1e-290)])
def test_rates_next_to_the_smallest_are_not_halved(dtype, scale):
    """Here the rate starts at the inverse of the curvature."""
    steep = lambda x: (float(x @ x / scale), 2 * x / dtype(scale))  # noqa: E731
    result = fastopt.minimize(
        steep, np.ones(2, dtype), optimizer="sgd", keep="last", gtol=None, ftol=None, maxiter=2_200
    )
    assert result.status == 1


@pytest.mark.parametrize(("dtype", "slope"), [(np.float32, 1e-42), (np.float64, 1e-310)])
def test_a_slope_whose_inverse_is_no_number(dtype, slope):
    flat = lambda x: (0.0, np.full_like(x, slope))  # noqa: E731
    assert fastopt.minimize(flat, np.ones(2, dtype), optimizer="sgd").success


FEW = ["Rosenbrock, 2", "Beale", "Booth", "Himmelblau", "Powell, singular", "logistic regression"]


@compiled_suite_only
@pytest.mark.parametrize("optimizer", ["rmsprop", "adam"])
def test_functions_are_minimized_without_any_option(optimizer):
    """Those that take least time, of all in `bench.evaluations`; the gradients of all are right."""
    for name in FEW:
        fun, x0 = TEN[name]
        result = fastopt.minimize(fun, x0, jac=True, optimizer=optimizer, gtol=1e-4, maxiter=4999)
        assert result.success, name
    for fun, x0 in {**TEN, **TWENTY}.values():
        x = x0 + np.random.default_rng(0).normal(size=x0.size) / 10
        way = np.random.default_rng(1).normal(size=x0.size) * 1e-5
        slope = (fun(x + way)[0] - fun(x - way)[0]) / 2
        np.testing.assert_allclose(slope, fun(x)[1] @ way, rtol=1e-5)
