"""An optimizer between steps: its groups, its live states, what it says of the last step."""

import math

import numpy as np
import pytest

import fastopt


def test_groups():
    opt = fastopt.SGD([{"params": np.ones(2)}, {"params": np.ones(2), "lr": 0.5}], lr=0.25)
    opt.lr = 0.125  # of all that have none of their own
    assert [group.lr for group in opt.groups] == [0.125, 0.5]
    opt.groups[0].lr = lambda step: 1.0
    opt.groups[1].lr = 2.0
    opt.step([np.ones(2), np.ones(2)])
    assert [group.params.tolist() for group in opt.groups] == [[0.0, 0.0], [-1.0, -1.0]]
    for name in ("rho", "initial_accumulator", "bounds", "params"):
        with pytest.raises(AttributeError, match=name):
            setattr(opt.groups[0], name, 1.0)
    with pytest.raises(AttributeError, match="rho"):
        opt.groups[0].rho  # noqa: B018


def test_the_state_is_live():
    w = np.zeros(3)
    opt = fastopt.SGD(w, lr=1.0, momentum=0.5)
    opt.state["momentum_buffer"][:] = 4.0
    opt.step(np.zeros(3))
    assert w.tolist() == [-2.0] * 3
    assert opt.state["momentum_buffer"].tolist() == [2.0] * 3
    with pytest.raises(TypeError, match="cannot be changed: write into the arrays"):
        opt.state["momentum_buffer"] = np.zeros(3)


def test_the_last_step():
    w = np.zeros(2)
    opt = fastopt.SGD(w, lr=1.0, clip_norm=1.0, skip_nonfinite=True)
    assert opt.last is None
    opt.step(np.array([3.0, 4.0]))
    assert opt.last == (5.0, False)
    opt.step(np.array([3.0, 4.0]), grad_scale=10.0)
    assert opt.last == (0.5, False)
    start = w.copy()
    opt.step(np.array([np.inf, 4.0]))
    assert opt.last.skipped
    assert math.isnan(opt.last.norm)
    assert (w.tolist(), opt.step_count) == (start.tolist(), 2)
    plain = fastopt.SGD(w)
    plain.step(np.ones(2))
    assert plain.last is None


@pytest.mark.parametrize("name", ["learning_rate", "beta1", "grad_scale", "lR"])
def test_names_that_are_no_settings(name):
    opt = fastopt.RMSProp(np.ones(3))
    with pytest.raises(AttributeError, match=name):
        setattr(opt, name, 0.5)
