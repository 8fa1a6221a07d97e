"""Between steps: numbers and schedules assigned, states written to, the last step looked at."""

import inspect
import math

import numpy as np
import pytest

import fastopt
from fastopt.optimizers.registry import MODULES
from tests.runs import assert_same, structure

KINDS = tuple(MODULES)
ON = {"weight_decay": 0.1, "clip_value": 1.5, "average_decay": 0.5, "clip_norm": 3.0}

# Every number of every optimizer, with what it is at first and from the second step on.
NUMBERS = {
    "lr": (0.1, 0.2),
    "momentum": (0.5, 0.25),
    "dampening": (0.5, 0.25),
    "beta": (0.9, 0.5),
    "beta1": (0.9, 0.5),
    "beta2": (0.9, 0.5),
    "beta3": (0.9, 0.5),
    "rho": (0.9, 0.5),
    "nu1": (0.7, 0.4),
    "nu2": (0.7, 0.4),
    "look_ahead": (0.7, 0.4),
    "alpha": (0.7, 0.4),
    "lambd": (0.7, 0.4),
    "t0": (1.0, 0.0),
    "eta_minus": (0.5, 0.25),
    "eta_plus": (4.0, 2.0),
    "step_size_min": (0.01, 0.02),
    "step_size_max": (0.035, 0.03),
    "eps_root": (0.1, 0.2),
    "eps": (0.1, 0.2),
    "lr_decay": (0.5, 0.25),
    "momentum_decay": (0.5, 0.25),
    "weight_decay": (0.1, 0.3),
    "clip_value": (1.5, 0.5),
    "average_decay": (0.5, 0.25),
    "clip_norm": (3.0, 0.5),
}


def numbers_of(kind):
    optimizer = getattr(fastopt, kind)
    own = inspect.signature(optimizer).parameters
    free = [name for name in own if not getattr(getattr(optimizer, name, None), "fixed", True)]
    return [name for name in NUMBERS if name in free or name in ON]


EACH = pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind in KINDS for name in numbers_of(kind)]
)


def gradients():
    return [np.random.default_rng(i).normal(size=7).astype(np.float32) for i in range(4)]


def make(kind, **settings):
    own = {name: NUMBERS[name][0] for name in numbers_of(kind)}
    return getattr(fastopt, kind)(structure("array"), **{**own, **settings})


@EACH
def test_an_assignment_is_like_a_schedule(kind, name):
    """And has an effect."""
    first, then = NUMBERS[name]
    scheduled = make(kind, **{name: lambda step: first if step < 2 else then})
    assigned, constant = make(kind), make(kind)
    for step, g in enumerate(gradients()):
        if step == 2:
            setattr(assigned, name, then)
            assert getattr(assigned, name) == then
        for opt in (scheduled, assigned, constant):
            opt.step(g)
    if name == "momentum_decay" or (kind == "NAdam" and name == "beta1"):
        return  # the product of all momenta so far is another one
    assert_same(assigned, scheduled)
    if (kind, name) == ("RAdam", "eps"):
        return  # so few steps do not divide
    with pytest.raises(AssertionError):
        assert_same(assigned, constant)


@EACH
def test_a_schedule_can_be_assigned_and_replaced(kind, name):
    first, then = NUMBERS[name]
    opt, control = make(kind), make(kind)
    for own, values in ((opt, (lambda step: then, first)), (control, (then, first))):
        grads = gradients()
        own.step(grads[0])
        setattr(own, name, values[0])
        own.step(grads[1])
        setattr(own, name, values[1])
        own.step(grads[2])
    assert_same(opt, control)


def test_another_setting_after_a_part_was_switched_off():
    opt, control = make("SGD"), make("SGD", momentum=lambda step: 0.0 if step else 0.5)
    for step, g in enumerate(gradients()):
        if step == 1:
            opt.momentum = 0
        if step == 2:
            opt.lr = control.lr = 0.3
        opt.step(g)
        control.step(g)
    assert_same(opt, control)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_a_bad_clip_norm_is_refused(value):
    opt = make("Adam")
    with pytest.raises(ValueError, match="clip_norm"):
        opt.clip_norm = value
    assert opt.clip_norm == 3.0


@pytest.mark.parametrize(("before", "after"), [(None, 1.0), (1.0, None)])
def test_clipping_is_not_switched(before, after):
    opt = fastopt.Adam(np.ones(3), clip_norm=before)
    with pytest.raises(ValueError, match=r"clip_norm.*new optimizer"):
        opt.clip_norm = after
    assert opt.clip_norm == before


@pytest.mark.parametrize(
    "name", ["executor", "zero_grad", "skip_nonfinite", "step_count", "state", "params"]
)
def test_what_cannot_be_assigned(name):
    opt = make("Adam")
    with pytest.raises(AttributeError):
        setattr(opt, name, getattr(opt, name))


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
    before = w.copy()
    opt.step(np.array([np.inf, 4.0]))
    assert opt.last.skipped
    assert math.isnan(opt.last.norm)
    assert (w.tolist(), opt.step_count) == (before.tolist(), 2)
    plain = fastopt.SGD(w)
    plain.step(np.ones(2))
    assert plain.last is None


@pytest.mark.parametrize("name", ["learning_rate", "beta1", "grad_scale", "lR"])
def test_names_that_are_no_settings(name):
    opt = fastopt.RMSProp(np.ones(3))
    with pytest.raises(AttributeError, match=name):
        setattr(opt, name, 0.5)
