"""On a device an optimizer runs the code that it was made with too."""

import numpy as np

import fastopt
from tests.device import skip_without_device, to_device, to_host

skip_without_device()

FACTOR = 1.0


def helper(x):
    return FACTOR * x


def scaled(update, param, state, hyper):
    return helper(update), state


def make():
    return fastopt.Optimizer(to_device(np.zeros(2, np.float32)), fastopt.Transform(scaled))


def stepped(opt, dtype=np.float32):
    previous = to_host(opt.params)[0]
    opt.step(to_device(np.ones(2, dtype)))
    return previous - to_host(opt.params)[0]


def test_changes_reach_new_optimizers_only(monkeypatch):
    old = make()
    assert stepped(old) == 1.0
    monkeypatch.setitem(globals(), "FACTOR", 3.0)
    new = make()
    assert stepped(new) == 3.0
    for dtype in np.float16, np.float32:  # the first is compiled now
        assert stepped(old, dtype) == 1.0
        assert stepped(new, dtype) == 3.0
