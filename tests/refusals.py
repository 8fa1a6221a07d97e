"""What the tests of errors need: an optimizer with all states, and what it must be like afterwards."""

import contextlib

import numpy as np
import pytest

import fastopt
from tests.support import EXECUTORS, assert_same_run, problem

N = 12

everywhere = pytest.mark.parametrize("executor", EXECUTORS)


def params():
    return problem(N, np.float32)[0]


def gradient():
    return problem(N, np.float32)[1][0]


def make(w=None, **settings):
    """RMSProp with three states, after one step."""
    w = params() if w is None else w
    opt = fastopt.RMSProp(w, **{"lr": 0.1, "centered": True, "momentum": 0.5, **settings})
    opt.step(gradient())
    return opt


@contextlib.contextmanager
def refusal(error, words):
    """An error of exactly this type that says all this."""
    with pytest.raises(error) as caught:
        yield
    assert caught.type is error, caught.value
    for word in words:
        assert word in str(caught.value), str(caught.value)


def assert_goes_on(opt, **settings):
    """`opt` is as if nothing had happened, now and after a good step."""
    control = make(**settings)
    assert_same_run(opt, control)
    control.step(gradient())
    opt.step(gradient())
    assert_same_run(opt, control)
