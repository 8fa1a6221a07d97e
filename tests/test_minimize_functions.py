"""Every form in which `fastopt.minimize` takes a function and its gradient."""

import math

import numpy as np
import pytest
from scipy.optimize import Bounds, approx_fprime, rosen, rosen_der

import fastopt
from tests.minimizing import X0, both
from tests.support import DTYPES, assert_same_bits


class WithArguments:
    """Rosenbrock's function, scaled; in every form that a function can have."""

    def pair(self, x, a, b):
        return a * rosen(x) + b, a * rosen_der(x)

    def value(self, x, a, b):
        return a * rosen(x) + b

    def value_of_shape(self, x, a, b):
        return np.array([a * rosen(x) + b])

    def gradient(self, x, a, b):
        return a * rosen_der(x)

    def gradient_list(self, x, a, b):
        return list(a * rosen_der(x))

    def writes(self, x, a, b, out):
        assert not x.flags.writeable
        np.multiply(a, rosen_der(x), out=out)
        return a * rosen(x) + b

    def writes_and_returns(self, x, a, b, *, out):
        out[:] = a * rosen_der(x)
        return a * rosen(x) + b, out

    def writes_gradient(self, x, a, b, out):
        out[:] = a * rosen_der(x)

    def writes_and_returns_gradient(self, x, a, b, *, out):
        return np.multiply(a, rosen_der(x), out=out)

    def destroys(self, x, a, b):
        result = self.pair(x, a, b)
        x[:] = np.nan  # it is a copy
        return result


F = WithArguments()


@pytest.mark.parametrize(
    ("fun", "jac"),
    [
        (F.pair, True),
        (F.pair, None),
        (F.value, F.gradient),
        (F.value_of_shape, F.gradient_list),
        (F.writes, True),
        (F.writes, None),
        (F.writes_and_returns, None),
        (F.writes_and_returns, True),
        (F.value, F.writes_gradient),
        (F.value, F.writes_and_returns_gradient),
        (F.writes, F.gradient),
        (F.destroys, True),
    ],
    ids=lambda f: getattr(f, "__name__", str(f)),
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_forms_of_the_function(fun, jac, dtype):
    arguments = {"args": (2.0, 1.0), "lr": 0.1, "maxiter": 20}
    x0 = X0.astype(dtype)
    expected = fastopt.minimize(F.pair, x0, jac=True, **arguments)
    result = fastopt.minimize(fun, x0, jac=jac, **arguments)
    assert_same_bits(result.x, expected.x)
    assert_same_bits(result.jac, expected.jac)
    assert (result.fun, result.nfev, result.njev) == (expected.fun, expected.nfev, expected.njev)


@pytest.mark.parametrize(
    "keep",
    [lambda x: x, lambda x: x[1:], lambda x: memoryview(x), lambda x: [{"x": x.reshape(5, 1).T}]],
    ids=["itself", "view", "buffer", "inside"],
)
def test_what_a_function_keeps_of_x_stays(keep):
    kept, expected = [], []

    def fun(x):
        if len(kept) != 2:  # once it lets go
            kept.append(keep(x))
            expected.append(keep(x.copy()))
        else:
            kept.append(None)
            expected.append(None)
        return both(x)

    result = fastopt.minimize(fun, X0, maxiter=5, callback=lambda x: None)
    assert len(kept) == 6
    assert str([np.asarray(k) for k in kept]) == str([np.asarray(e) for e in expected])
    assert kept[0] is not kept[1]
    assert_same_bits(result.x, fastopt.minimize(both, X0, maxiter=5).x)


def test_a_copy_that_was_changed_is_not_used_again():
    def fun(x):
        result = both(x)
        x.flags.writeable = False
        return result

    assert_same_bits(fastopt.minimize(fun, X0, maxiter=5).x, fastopt.minimize(both, X0, maxiter=5).x)


def test_one_argument_need_not_be_a_tuple():
    result = fastopt.minimize(lambda x, a: (a * (x @ x), 2 * a * x), [1.0], 3.0, optimizer="sgd")
    assert result.success
    assert abs(result.x[0]) < 1e-5


@pytest.mark.parametrize("jac", [None, False, "2-point"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_gradient_by_differences(jac, dtype):
    x0 = X0.astype(dtype)
    result = fastopt.minimize(rosen, x0, jac=jac, maxiter=0)
    step = (math.sqrt(np.finfo(dtype).eps) * np.maximum(1, abs(x0))).astype(dtype)
    expected = approx_fprime(x0, lambda x: rosen(x.astype(dtype)), (x0 + step) - x0)
    assert_same_bits(result.jac, expected.astype(dtype))
    np.testing.assert_allclose(
        result.jac, rosen_der(X0), rtol=0.02, atol=2 if dtype == np.float32 else 1e-4
    )
    assert (result.nfev, result.njev) == (6, 1)
    assert result.message.endswith("approximated by differences.")


def test_minimum_by_differences():
    result = fastopt.minimize(rosen, [-1.2, 1.0], optimizer="adam")
    np.testing.assert_allclose(result.x, 1, atol=1e-3)
    assert result.nfev == 3 * result.njev


def test_differences_stay_in_the_box():
    low, high = np.array([0.0, 0.5, 1.0, 0.0]), np.array([1.0, 0.5, 1.0 + 1e-9, np.inf])

    def fun(x):
        assert (low <= x).all()
        assert (x <= high).all()
        return ((x - 2) ** 2).sum()

    result = fastopt.minimize(fun, [1.0, 0.5, 1.0, 0.0], bounds=Bounds(low, high), maxiter=0)
    np.testing.assert_allclose(result.jac, [-2, 0, -2, -4], rtol=1e-6)


def test_steps_and_random_numbers():
    seen = {"fun": [], "jac": []}

    def fun(x, a, step, *, rng):
        assert type(step) is int
        seen["fun"].append((step, rng.random()))
        return a * x @ x

    def jac(x, a, *, step, rng):
        seen["jac"].append((step, rng.random()))
        return 2 * a * x

    arguments = {"args": (1.0,), "jac": jac, "maxiter": 4, "lr": 0.1}
    fastopt.minimize(fun, [1.0, 2.0], seed=7, **arguments)
    assert seen["fun"] == seen["jac"]
    assert [step for step, _ in seen["fun"]] == [0, 1, 2, 3, 4]
    assert len({number for _, number in seen["fun"]}) == 5
    again = seen["fun"]
    for seed, same in [(7, True), (8, False), (None, False)]:
        seen["fun"] = []
        fastopt.minimize(fun, [1.0, 2.0], seed=seed, **arguments)
        assert (seen["fun"] == again) is same
    runs = []
    for _ in range(2):
        seen["fun"] = []
        fastopt.minimize(fun, [1.0, 2.0], seed=np.random.default_rng(3), **arguments)
        runs.append(seen["fun"])
    assert runs[0] == runs[1] != again


def test_names_with_a_default_or_filled_by_args_are_left_alone():
    def fun(x, step, out=None, rng=5):
        assert (step, out, rng) == (0.5, None, 5)
        return both(x)

    assert fastopt.minimize(fun, X0, (0.5,), maxiter=3).nit == 3


def test_minibatches():
    """A regression from a tenth of the data at a time: the last point counts, and no rule ends it."""
    rng = np.random.default_rng(0)
    truth, data = np.array([1.0, -2.0, 3.0]), rng.normal(size=(200, 3))
    target = data @ truth

    def loss(w, *, rng, out):
        rows = rng.choice(200, 20, replace=False)
        rest = data[rows] @ w - target[rows]
        np.matmul(data[rows].T, rest, out=out)
        return 0.5 * rest @ rest

    values = []
    result = fastopt.minimize(
        loss,
        np.zeros(3),
        optimizer="adam",
        seed=1,
        maxiter=600,
        callback=lambda intermediate_result: values.append(intermediate_result.fun),
    )
    np.testing.assert_allclose(result.x, truth, atol=1e-6)
    assert (result.nit, result.status) == (600, 1)
    assert result.fun == values[-1]
    best = fastopt.minimize(loss, np.zeros(3), optimizer="adam", seed=1, maxiter=600, keep="best")
    assert best.fun == min([*values, best.fun])
