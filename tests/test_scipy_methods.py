"""The methods for `scipy.optimize.minimize`, called the way SciPy documents, every argument of it."""

import math
import pickle
import warnings

import numpy as np
import pytest
import scipy.optimize
from scipy.optimize import Bounds, LinearConstraint, OptimizeWarning, rosen, rosen_der, rosen_hess

import fastopt
import fastopt.interop.scipy as methods
from fastopt.optimizers import registry
from tests.refusals import refusal
from tests.subprocesses import run, script
from tests.support import assert_same_bits, compiled_suite_only

X0 = np.array([-1.2, 1.0, 0.8])

NAMES = list(registry.NAMES)
each = pytest.mark.parametrize("name", NAMES)


def both(x, scale=1.0):
    return scale * rosen(x), scale * rosen_der(x)


def minimize(name, fun=both, x0=X0, maxiter=20, options=None, **arguments):
    options = {"maxiter": maxiter, **(options or {})}
    method = getattr(methods, name)
    return scipy.optimize.minimize(fun, x0, method=method, options=options, **arguments)


def assert_same(one, other):
    assert_same_bits(one.x, other.x)
    assert_same_bits(one.jac, other.jac)
    for field in ("fun", "nit", "nfev", "njev", "success", "status", "message"):
        assert one[field] == other[field], field
    assert set(one) == set(other)


@each
def test_the_same_as_fastopts_minimize(name):
    """All ways to give a gradient, at the cost of one call of `fun` for each step."""
    calls = []

    def counted(x):
        calls.append(x)
        return both(x)

    expected = fastopt.minimize(both, X0, optimizer=name, maxiter=20)
    assert_same(minimize(name, counted, jac=True), expected)
    assert len(calls) == expected.nfev
    assert_same(minimize(name, rosen, jac=rosen_der), expected)
    assert_same(minimize(name, jac=None), expected)
    lr = 1e-3 if name == "rprop" else fastopt.schedules.cosine(1e-3, 50)
    settings = {"lr": lr, "clip_norm": 1.0}
    expected = fastopt.minimize(both, X0, optimizer=name, maxiter=20, **settings)
    assert_same(minimize(name, jac=True, options=settings), expected)


def test_the_table_is_complete():
    assert sorted(methods.__all__) == sorted([*NAMES, "method"])
    for name in NAMES:
        method = getattr(methods, name)
        assert method.__name__ == name
        assert f"fastopt.interop.scipy.{name}" in method.__doc__
        assert pickle.loads(pickle.dumps(method)) is method


@pytest.mark.parametrize("jac", [None, False, "2-point", "3-point", "cs"])
def test_differences(jac):
    expected = fastopt.minimize(rosen, X0, optimizer="adam", jac="2-point", maxiter=20)
    assert_same(minimize("adam", rosen, jac=jac), expected)
    with refusal(ValueError, ["no gradient", "1001"]):
        minimize("adam", rosen, np.ones(1001), jac=jac)


@pytest.mark.parametrize("x0", [1.5, [1.5], np.float32(1.5), [1, 2], np.ones(3, np.float32)])
def test_x0(x0):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dtype = scipy.optimize.minimize(lambda x: (x @ x, 2 * x), x0, jac=True).x.shape
    result = minimize("rmsprop", lambda x: (x @ x, 2 * x), x0, jac=True)
    assert result.x.shape == dtype
    assert result.x.dtype == (np.float32 if np.asarray(x0).dtype == np.float32 else np.float64)
    with pytest.raises(ValueError, match="one dimension"):
        minimize("rmsprop", x0=np.ones((2, 2)), jac=True)


@pytest.mark.parametrize("args", [(3.0,), 3.0])
def test_args(args):
    expected = fastopt.minimize(both, X0, (3.0,), optimizer="adam", maxiter=20)
    assert_same(minimize("adam", jac=True, args=args), expected)
    separate = minimize("adam", lambda x, s: s * rosen(x), jac=lambda x, s: s * rosen_der(x), args=args)
    assert_same(separate, expected)


@pytest.mark.parametrize(
    "bounds",
    [
        Bounds([-1, -np.inf, 0.9], [0.5, np.inf, np.inf]),
        [(-1, 0.5), (None, None), (0.9, None)],
        ((-1, 0.5), (-np.inf, np.inf), (0.9, np.inf)),
        np.array([(-1, 0.5), (-np.inf, np.inf), (0.9, np.inf)]),
    ],
    ids=["Bounds", "None", "inf", "array"],
)
def test_bounds(bounds):
    """Where L-BFGS-B ends, too."""
    result = minimize("adam", jac=True, bounds=bounds, maxiter=5000)
    assert result.success
    peer = scipy.optimize.minimize(both, X0, jac=True, bounds=bounds, method="L-BFGS-B")
    np.testing.assert_allclose(result.x, peer.x, atol=1e-4)
    low, high = np.array([-1, -np.inf, 0.9]), np.array([0.5, np.inf, np.inf])
    assert (low <= result.x).all()
    assert (result.x <= high).all()
    step = np.clip(result.x - result.jac, low, high) - result.x
    assert abs(step).max() <= 1e-5


def test_hessians_are_not_used():
    def hessp(x, p):
        raise AssertionError("called")

    with pytest.warns(
        RuntimeWarning, match=r"rmsprop does not use Hessian information \(hess\)"
    ) as caught:
        one = minimize("rmsprop", jac=True, hess=rosen_hess)
    assert [warning.filename for warning in caught] == [__file__]
    with pytest.warns(RuntimeWarning, match="Hessian-vector products"):
        other = minimize("rmsprop", jac=True, hessp=hessp)
    assert_same(one, other)


@pytest.mark.parametrize(
    "constraints",
    [
        LinearConstraint(np.eye(3), 0, 1),
        [LinearConstraint(np.eye(3), 0, 1)],
        {"type": "eq", "fun": lambda x: x[0]},
        [{"type": "ineq", "fun": lambda x: x[0]}],
    ],
)
def test_constraints_are_refused(constraints):
    with refusal(ValueError, ["constraints", "adam", "bounds"]):
        minimize("adam", jac=True, constraints=constraints)


@pytest.mark.parametrize("constraints", [(), [], None])
def test_no_constraints(constraints):
    assert minimize("adam", jac=True, constraints=constraints).nit == 20


def test_tol():
    """For `gtol` and `ftol`, where the options do not say more."""
    result = minimize("adam", jac=True, tol=0.1, maxiter=5000)
    assert_same(result, fastopt.minimize(both, X0, optimizer="adam", gtol=0.1, ftol=0.1))
    assert result.success
    result = minimize("adam", jac=True, tol=0.1, maxiter=5000, options={"gtol": 1e-3, "ftol": None})
    assert_same(result, fastopt.minimize(both, X0, optimizer="adam", gtol=1e-3, ftol=None))
    with refusal(ValueError, ["tol", "-1"]):
        minimize("adam", jac=True, tol=-1)


def test_both_forms_of_callback():
    points, results = [], []
    minimize("adam", jac=True, callback=points.append)

    def callback(*, intermediate_result):
        results.append(intermediate_result)

    minimize("adam", jac=True, callback=callback)
    assert len(points) == len(results) == 20
    for x, result in zip(points, results, strict=True):
        assert_same_bits(x, result.x)
        assert result.fun == rosen(x)
        assert isinstance(result, scipy.optimize.OptimizeResult)


def test_stop_iteration_is_reported_as_scipy_does():
    def callback(intermediate_result):
        if intermediate_result.fun < 3:
            raise StopIteration

    peer = scipy.optimize.minimize(both, X0, jac=True, method="L-BFGS-B", callback=callback)
    result = minimize("adam", jac=True, callback=callback, maxiter=5000)
    for field in ("success", "status", "message"):
        assert result[field] == peer[field]
    assert result.fun < 3


def test_unknown_options():
    with pytest.warns(OptimizeWarning, match="Unknown solver options: maxcor, rate") as caught:
        result = minimize("adam", jac=True, options={"maxcor": 5, "rate": 0.1, "lr": 0.1})
    assert [warning.filename for warning in caught] == [__file__]
    assert_same(result, fastopt.minimize(both, X0, optimizer="adam", maxiter=20, lr=0.1))
    # Of another optimizer.
    with pytest.warns(OptimizeWarning, match="momentum"):
        minimize("adam", jac=True, options={"momentum": 0.5})
    with refusal(ValueError, ["lr", "-1"]):
        minimize("adam", jac=True, options={"lr": -1})


OPTIONS = {
    "gtol": 1.0,
    "ftol": 0.5,
    "xtol": 0.5,
    "window": 2,
    "keep": "last",
    "seed": 5,
    "lr": 0.5,
    "beta": 0.5,
    "eps": 0.1,
    "eps_inside_sqrt": False,
    "centered": True,
    "momentum": 0.9,
    "bias_correction": True,
    "initial_accumulator": 1.0,
    "clip_value": 0.1,
    "clip_norm": 0.1,
    "weight_decay": 0.1,
    "average_decay": 0.5,
    "skip_nonfinite": True,
    "executor": "serial",
}


@pytest.mark.parametrize("option", OPTIONS)
def test_options_are_passed_on(option):
    settings = {option: OPTIONS[option]}
    expected = fastopt.minimize(both, X0, maxiter=20, **settings)
    assert_same(minimize("rmsprop", jac=True, options=settings), expected)


def test_disp(capsys):
    result = minimize("adam", jac=True, options={"disp": True})
    shown = capsys.readouterr().out
    assert shown.startswith(result.message)
    numbers = (
        result.fun,
        "Iterations: 20\n",
        "Function evaluations: 21\n",
        "Gradient evaluations: 21\n",
    )
    assert all(str(number) in shown for number in numbers)
    minimize("adam", jac=True, options={"disp": False})
    assert capsys.readouterr().out == ""


def test_progress(capsys):
    pytest.importorskip("tqdm", reason="tqdm is not installed")
    minimize("adam", jac=True, options={"progress": True})
    assert "20/20" in capsys.readouterr().err


def test_functions_that_write_their_gradient():
    def fun(x, *, out, step):
        assert not x.flags.writeable
        assert isinstance(step, int)
        out[:] = rosen_der(x)
        return rosen(x)

    result = minimize("adam", fun, jac=True)
    assert result.nfev == 21
    assert_same_bits(result.jac, rosen_der(result.x))
    assert_same_bits(minimize("adam", fun).x, result.x)


class Problem:
    """Looks like what SciPy makes of a function with ``jac=True``, but is the caller's own."""

    def __call__(self, x):
        return rosen(x)

    def fun(self, x):
        raise AssertionError("called")

    def derivative(self, x):
        return rosen_der(x)


def test_an_object_with_a_gradient():
    problem = Problem()
    expected = fastopt.minimize(both, X0, optimizer="adam", maxiter=20)
    assert_same(minimize("adam", problem, jac=problem.derivative), expected)


@compiled_suite_only
def test_within_basinhopping():
    """A global search that calls `minimize` itself, many times."""
    steps = np.random.default_rng(1)
    result = scipy.optimize.basinhopping(
        lambda x: (math.cos(14.5 * x[0] - 0.3) + (x[0] + 0.2) * x[0], np.array([
            -14.5 * math.sin(14.5 * x[0] - 0.3) + 2 * x[0] + 0.2
        ])),
        [1.0],
        niter=30,
        T=0,
        take_step=lambda x: x + steps.uniform(-0.5, 0.5, 1),
        minimizer_kwargs={"method": methods.adam, "jac": True, "options": {"maxiter": 500}},
    )  # fmt: skip
    np.testing.assert_allclose(result.x, -0.195, atol=1e-3)
    np.testing.assert_allclose(result.fun, -1.0009, atol=1e-4)


def test_scipy_is_imported_when_it_is_used(tmp_path):
    code = """
    import sys
    import fastopt
    import fastopt.interop
    print("scipy" in sys.modules, "scipy.sparse" in sys.modules)
    fastopt.minimize
    print("scipy.optimize" in sys.modules, "tqdm" in sys.modules, "torch" in sys.modules)
    """
    assert run(script(code), tmp_path).splitlines() == ["False False", "True False False"]
