"""Where `fastopt.minimize` starts, and the bounds that it keeps."""

import functools

import ml_dtypes
import numpy as np
import pytest
from scipy.optimize import Bounds

import fastopt
from tests.minimizing import X0, both, by_hand, recorded, sphere
from tests.support import DTYPES, assert_same_bits


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("low", "high"),
    [
        (-1.0, 0.75),
        (np.array([-2.0, 0.0, -np.inf, 0.5, -0.5]), np.array([2.0, 0.5, np.inf, 1.0, -0.25])),
    ],
    ids=["numbers", "arrays"],
)
def test_steps_within_bounds(low, high, dtype):
    points, values = by_hand(functools.partial(fastopt.Adam, lr=0.1, bounds=(
        np.broadcast_to(low, X0.shape).astype(dtype), np.broadcast_to(high, X0.shape).astype(dtype)
    )), X0.astype(dtype), 40, low, high)  # fmt: skip
    called = []
    result, seen = recorded(
        lambda x: (called.append(x.copy()), both(x))[1],
        X0.astype(dtype),
        optimizer="adam",
        lr=0.1,
        maxiter=40,
        bounds=Bounds(low, high),
    )
    assert_same_bits(np.array([x for x, _, _ in seen]), np.array(points[1:]))
    assert_same_bits(np.array(called), np.array(points))
    assert all((low <= x).all() and (x <= high).all() for x in called)
    assert result.fun == min(values)


@pytest.mark.parametrize("x0", [3.0, 3, [3], np.array([3], np.int8), np.array(3, ">f8")])
def test_what_becomes_float64(x0):
    result = fastopt.minimize(sphere, x0, lr=0.1)
    assert (result.x.dtype, result.x.shape) == (np.float64, (1,))


@pytest.mark.parametrize("dtype", [">f4", "<f4", ">f2", "<f2", ml_dtypes.bfloat16])
def test_what_is_computed_in_float32(dtype):
    x0 = np.array([3, -0.5], np.dtype(dtype))
    result = fastopt.minimize(sphere, x0, lr=0.1, maxiter=20)
    expected = fastopt.minimize(sphere, x0.astype(np.float32), lr=0.1, maxiter=20)
    assert result.x.dtype == result.jac.dtype == np.float32
    assert_same_bits(result.x, expected.x)
    assert fastopt.minimize(sphere, x0[0], maxiter=1).x.dtype == np.float32


def test_gradients_of_16_bits():
    points = []

    def rough(x):
        points.append(x.copy())
        return float(x @ x), (2 * x).astype(ml_dtypes.bfloat16)

    result = fastopt.minimize(rough, np.array([1.5, -3], ml_dtypes.bfloat16), lr=0.1, maxiter=3)
    assert result.nit == 3
    assert all(point.dtype == np.float32 for point in points)
    assert_same_bits(points[0], np.array([1.5, -3], np.float32))


def test_nothing_to_optimize():
    for bounds in (None, []):
        result = fastopt.minimize(lambda x: (0.5, x), [], bounds=bounds)
        assert (result.success, result.fun, result.x.shape) == (True, 0.5, (0,))


@pytest.mark.parametrize(
    "bounds",
    [
        [(0, 1), (None, 1), (0, None), (None, None), (-np.inf, np.inf)],
        np.array([(0, 1), (-np.inf, 1), (0, np.inf), (-np.inf, np.inf), (-np.inf, np.inf)]),
        Bounds([0, -np.inf, 0, -np.inf, -np.inf], [1, 1, np.inf, np.inf, np.inf], keep_feasible=True),
        zip([0, None, 0, None, None], [1, 1, None, None, None], strict=True),
    ],
    ids=["list", "array", "Bounds", "iterator"],
)
def test_forms_of_bounds(bounds):
    start = np.array([2.0, 2.0, -2.0, 2.0, -2.0])
    result = fastopt.minimize(sphere, start, bounds=bounds, maxiter=0)
    assert result.x.tolist() == [1, 1, 0, 2, -2]
    assert start.tolist() == [2, 2, -2, 2, -2]


def test_bounds_for_all_and_none():
    assert fastopt.minimize(sphere, [3.0, -3.0], bounds=Bounds(-1, 2), maxiter=0).x.tolist() == [2, -1]
    assert fastopt.minimize(sphere, [3.0, -3.0], bounds=[(-1, 2)], maxiter=0).x.tolist() == [2, -1]
    free = fastopt.minimize(both, X0, bounds=Bounds(), maxiter=5)
    assert_same_bits(free.x, fastopt.minimize(both, X0, maxiter=5).x)


def test_bounds_are_not_left_by_rounding():
    """0.1 is not a float32: the nearest is above, the next one below is as far as x may go."""
    result = fastopt.minimize(
        lambda x: (-float(x[0]), np.array([-1.0])), np.zeros(1, np.float32), bounds=[(-0.1, 0.1)], lr=1
    )
    assert float(result.x[0]) <= 0.1 < float(np.nextafter(result.x[0], np.float32(1)))
    fixed = fastopt.minimize(sphere, np.zeros(1, np.float32), bounds=[(0.1, 0.1)])
    assert fixed.x[0] == np.float32(0.1)
    assert fixed.success
