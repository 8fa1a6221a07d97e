"""What `fastopt.minimize` refuses: before anything is called or written, and in words that help."""

import functools
import sys

import numpy as np
import pytest
from scipy import sparse
from scipy.optimize import Bounds, rosen, rosen_der

import fastopt
from tests.refusals import refusal

X0 = np.array([1.0, 2.0, 3.0])


def both(x):
    return rosen(x), rosen_der(x)


def never(x):
    raise AssertionError("called")


@pytest.mark.parametrize(
    ("x0", "error", "words"),
    [
        (np.ones((2, 3)), ValueError, ["x0", "one dimension", "(2, 3)", "ravel"]),
        ([[1, 2], [3]], ValueError, ["x0"]),
        ([1j, 2], TypeError, ["x0", "complex128", "real"]),
        (["1"], TypeError, ["x0", "real"]),
        (None, TypeError, ["x0", "object"]),
        ([1.0, None], TypeError, ["x0", "object"]),
        ([1.0, np.nan], ValueError, ["x0", "finite", "nan"]),
        ([np.inf], ValueError, ["x0", "finite", "inf"]),
        (np.ma.array([1.0], mask=[True]), TypeError, ["x0", "masked"]),
    ],
)
def test_x0(x0, error, words):
    with refusal(error, words):
        fastopt.minimize(never, x0)


@pytest.mark.parametrize(
    ("bounds", "error", "words"),
    [
        ([(0, 1), (0, 1)], ValueError, ["bounds", "3 elements", "got 2"]),
        (Bounds([0, 0], [1, 1]), ValueError, ["bounds", "3 elements"]),
        ([(0, 1), (2, 1), (0, 1)], ValueError, ["bounds", "low <= high", "2.0 and 1.0", "x[1]"]),
        (Bounds(1, 0), ValueError, ["bounds", "low <= high"]),
        ([(0, np.nan)] * 3, ValueError, ["bounds", "NaN"]),
        ([(np.inf, np.inf)] * 3, ValueError, ["bounds", "finite"]),
        ([(-np.inf, -np.inf)] * 3, ValueError, ["bounds", "finite"]),
        ((0, 1), TypeError, ["bounds", "sequence of (min, max)", "(0, 1)"]),
        (5, TypeError, ["bounds", "Bounds", "5"]),
        ([(0, 1, 2)] * 3, ValueError, ["bounds", "(min, max)"]),
        ([("a", 1)] * 3, TypeError, ["bounds", "numbers or None", "'a'"]),
        ([(1j, 1)] * 3, TypeError, ["bounds", "numbers or None"]),
    ],
)
def test_bounds(bounds, error, words):
    with refusal(error, words):
        fastopt.minimize(never, X0, bounds=bounds)


def test_bounds_beyond_float32():
    with refusal(ValueError, ["bounds", "finite", "float32"]):
        fastopt.minimize(never, X0.astype(np.float32), bounds=[(1e300, None)])
    open_ = fastopt.minimize(both, X0.astype(np.float32), bounds=[(-1e300, 1e300)], maxiter=0)
    assert open_.x.tolist() == X0.tolist()


@pytest.mark.parametrize(
    ("argument", "value", "error", "words"),
    [
        ("jac", "3-point", ValueError, ["jac", "'2-point'", "'3-point'"]),
        ("jac", 5, TypeError, ["jac", "5"]),
        ("optimizer", "lbfgs", ValueError, ["optimizer", "rmsprop", "'lbfgs'"]),
        ("optimizer", 5, TypeError, ["optimizer", "5"]),
        ("optimizer", None, TypeError, ["optimizer", "None"]),
        ("optimizer", fastopt.Adam(np.ones(3)), TypeError, ["optimizer", "array of its own"]),
        ("optimizer", lambda x: 5, TypeError, ["optimizer", "int"]),
        (
            "optimizer",
            lambda x: fastopt.Adam(x.copy()),
            ValueError,
            ["optimizer", "array that it is given"],
        ),
        ("maxiter", -1, ValueError, ["maxiter", "-1"]),
        ("maxiter", 1.5, TypeError, ["maxiter", "1.5"]),
        ("window", 0, ValueError, ["window", ">= 1"]),
        ("gtol", -1, ValueError, ["gtol", ">= 0", "-1"]),
        ("ftol", np.nan, ValueError, ["ftol", "nan"]),
        ("xtol", "small", ValueError, ["xtol", "'small'", "'auto'"]),
        ("xtol", [1], TypeError, ["xtol"]),
        ("keep", "first", ValueError, ["keep", "best", "last", "'first'"]),
        ("keep", True, TypeError, ["keep", "True"]),
        ("callback", 5, TypeError, ["callback", "5"]),
        ("progress", 1, TypeError, ["progress", "1"]),
        ("seed", -1, ValueError, ["seed", "-1"]),
        ("seed", "x", TypeError, ["seed", "Generator", "'x'"]),
        ("lr", -1.0, ValueError, ["lr", "-1.0"]),
        ("lr", None, TypeError, ["lr"]),
        ("rate", 1.0, TypeError, ["RMSProp", "rate", "lr"]),
        ("maximize", True, ValueError, ["maximize", "negative"]),
        ("zero_grad", True, ValueError, ["zero_grad"]),
        ("executor", "gpu", ValueError, ["executor", "'gpu'"]),
    ],
)
def test_arguments(argument, value, error, words):
    with refusal(error, words):
        fastopt.minimize(never, X0, **{argument: value})


@pytest.mark.parametrize("fun", [None, 5, "rosen"])
def test_no_function(fun):
    with refusal(TypeError, ["fun", repr(fun)]):
        fastopt.minimize(fun, X0)


def test_an_optimizer_without_bounds():
    with pytest.raises(TypeError, match="bounds"):
        fastopt.minimize(never, X0, optimizer=lambda x: fastopt.Adam(x), bounds=[(0, 1)])
    partial = functools.partial(fastopt.Adam, lr=0.1)
    assert fastopt.minimize(both, X0, optimizer=partial, bounds=[(0, 1)]).x.max() <= 1


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (5.0, TypeError, ["(value, gradient)", "float", "out"]),
        (None, TypeError, ["(value, gradient)", "NoneType"]),
        ((1.0, X0, X0), TypeError, ["(value, gradient)"]),
        ((None, X0), TypeError, ["number", "NoneType"]),
        ((1j, X0), TypeError, ["real number", "complex"]),
        (("1", X0), TypeError, ["real number", "str"]),
        ((X0, X0), ValueError, ["one number", "(3,)"]),
        ((1.0, None), TypeError, ["gradient", "NoneType"]),
        ((1.0, X0 * 1j), TypeError, ["gradient", "complex128"]),
        ((1.0, X0[:2]), ValueError, ["gradient", "(3,)", "(2,)"]),
        ((1.0, X0[:, None]), ValueError, ["gradient", "(3, 1)"]),
        ((1.0, 2.0), ValueError, ["gradient", "()"]),
        ((1.0, sparse.csr_array(X0[None])), TypeError, ["gradient", "csr_array"]),
    ],
)
def test_what_a_function_returns(value, error, words):
    with refusal(error, words):
        fastopt.minimize(lambda x: value, X0, jac=True)


def test_two_gradients():
    with refusal(TypeError, ["number", "pair", "jac=True"]):
        fastopt.minimize(both, X0, jac=rosen_der)
    with refusal(TypeError, ["number", "pair"]):
        fastopt.minimize(both, X0, jac="2-point")


def test_a_gradient_by_differences_has_a_limit():
    calls = []

    def fun(x):
        calls.append(1)
        return float(x @ x)

    with refusal(ValueError, ["no gradient", "1001 elements", "1002 calls", "1000", "approx_fprime"]):
        fastopt.minimize(fun, np.ones(1001))
    assert len(calls) == 1
    assert fastopt.minimize(fun, np.ones(1000), maxiter=0).nfev == 1001
    assert fastopt.minimize(fun, np.ones(1001), jac="2-point", maxiter=0).nfev == 1002


def test_progress_without_tqdm(monkeypatch):
    for name in ("tqdm", "tqdm.auto"):
        monkeypatch.setitem(sys.modules, name, None)
    with refusal(ImportError, ["progress", "pip install tqdm"]):
        fastopt.minimize(never, X0, progress=True)
    assert fastopt.minimize(both, X0, maxiter=1).nit == 1


def test_a_schedule_that_goes_wrong():
    with refusal(ValueError, ["lr", "step 2", "-1.0"]):
        fastopt.minimize(both, X0, lr=lambda step: 0.1 if step < 2 else -1.0)
