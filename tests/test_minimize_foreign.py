"""SciPy's habits: its spellings are accepted by `fastopt.minimize`, or answered with the right name."""

from typing import get_type_hints

import numpy as np
import pytest
import scipy.optimize
from scipy.optimize import OptimizeResult, rosen_der

import fastopt
import fastopt.interop.scipy
from tests.minimizing import X0, both, sphere
from tests.refusals import refusal
from tests.support import compiled_suite_only, interpreted_suite_only


@pytest.mark.parametrize("maxiter", [7.0, np.float64(7), np.int32(7)])
def test_maxiter_may_be_a_float(maxiter):
    assert fastopt.minimize(both, X0, maxiter=maxiter).nit == 7


@compiled_suite_only
def test_without_maxiter_there_is_the_default():
    one, other = (fastopt.minimize(sphere, X0, **arguments) for arguments in ({}, {"maxiter": None}))
    assert one.x.tobytes() == other.x.tobytes()
    assert one.nit == other.nit <= 5000


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adagrad"])
def test_maxiter_may_be_infinite(optimizer):
    result = fastopt.minimize(sphere, X0, maxiter=np.inf, optimizer=optimizer, gtol=1e-3)
    assert result.success
    assert abs(result.x).max() < 1e-3


@pytest.mark.parametrize("maxiter", [2.5, np.nan, -np.inf, "7", True])
def test_other_limits_are_refused(maxiter):
    with refusal(TypeError, ["maxiter", "whole number"]):
        fastopt.minimize(both, X0, maxiter=maxiter)


def test_tol_stands_for_gtol_and_ftol():
    one = fastopt.minimize(both, X0, optimizer="adam", tol=1e-3)
    assert one.nit == fastopt.minimize(both, X0, optimizer="adam", gtol=1e-3, ftol=1e-3).nit
    other = fastopt.minimize(both, X0, optimizer="adam", tol=1e-3, gtol=None)
    assert other.nit == fastopt.minimize(both, X0, optimizer="adam", gtol=None, ftol=1e-3).nit
    with refusal(ValueError, ["gtol", ">= 0"]):
        fastopt.minimize(both, X0, tol=-1.0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"method": "L-BFGS-B"}, ["method", 'optimizer="adam"']),
        ({"options": {"maxiter": 3}}, ["options", "maxiter=100"]),
        ({"constraints": [{"type": "eq"}]}, ["constraints", "bounds"]),
        ({"hess": rosen_der}, ["hess", "second derivatives"]),
        ({"hessp": np.eye(3)}, ["hessp", "second derivatives"]),
        ({"disp": True}, ["disp", "progress=True"]),
        ({"maxfun": 10}, ["maxfun", "maxiter"]),
        ({"maxfev": 10}, ["maxfev", "maxiter"]),
    ],
)
def test_arguments_of_scipy_name_what_to_use(arguments, words):
    with refusal(TypeError, ["minimize has no argument", *words]):
        fastopt.minimize(both, X0, **arguments)


def test_arguments_that_ask_for_nothing_are_accepted():
    arguments = {"method": None, "options": {}, "constraints": (), "hess": None, "disp": False}
    assert fastopt.minimize(both, X0, maxiter=3, **arguments).nit == 3


def test_history_has_the_value_of_every_iteration():
    values = []
    result = fastopt.minimize(
        both,
        X0,
        maxiter=20,
        history=True,
        callback=lambda intermediate_result: values.append(intermediate_result.fun),
    )
    assert result.history.tolist() == [both(X0)[0], *values]
    assert result.fun == result.history.min()
    assert "history" not in fastopt.minimize(both, X0, maxiter=2)
    with refusal(TypeError, ["history", "True or False"]):
        fastopt.minimize(both, X0, history="yes")


def test_history_is_an_option_of_the_methods():
    result = scipy.optimize.minimize(
        both,
        X0,
        jac=True,
        method=fastopt.interop.scipy.rmsprop,
        options={"maxiter": 5, "history": True},
    )
    assert result.history.shape == (6,)


@interpreted_suite_only
def test_the_result_has_a_type(tmp_path):
    """Its fields are known to type checkers, and it is SciPy's to everybody else."""
    api = pytest.importorskip("mypy.api")
    code = "import fastopt\nreveal_type(fastopt.minimize(abs, 1.0).nit)\n"
    path = tmp_path / "caller.py"
    path.write_text(code)
    out, _, status = api.run(["--follow-imports=silent", "--ignore-missing-imports", str(path)])
    assert (status, 'Revealed type is "int"' in out) == (0, True), out
    assert get_type_hints(fastopt.minimize)["return"] is OptimizeResult
