"""Numbers and schedules assigned between steps."""

import contextlib
import copy
import inspect
import math

import numpy as np
import pytest

import fastopt
from fastopt.optimizers.registry import MODULES
from fastopt.optimizers.settings import settings_of
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


# What is the same code for all optimizers; LARS has sums, whose numbers are found otherwise.
SHARED = {"clip_value", "average_decay", "clip_norm"}
SHARED_OF = {"RMSProp", "LARS"}


def numbers_of(kind):
    optimizer = getattr(fastopt, kind)
    names = inspect.signature(optimizer).parameters
    free = [name for name in names if not getattr(getattr(optimizer, name, None), "fixed", True)]
    return [name for name in NUMBERS if name in free or name in ON]


def gradients():
    return [np.random.default_rng(i).normal(size=7).astype(np.float32) for i in range(4)]


def make(kind, **settings):
    numbers = {name: NUMBERS[name][0] for name in numbers_of(kind)}
    # Plain Python hands them to the code of any chain: two of the optimizers are compiled.
    how = {} if kind in SHARED_OF else {"executor": "reference"}
    return getattr(fastopt, kind)(structure("array"), **{**numbers, **how, **settings})


@pytest.mark.parametrize(
    ("kind", "name"),
    [(k, n) for k in KINDS for n in numbers_of(k) if n not in SHARED or k in SHARED_OF],
)
def test_numbers_and_schedules_are_assigned(kind, name):
    """They act from the next step on, as a schedule from the beginning does."""
    first, then = NUMBERS[name]
    scheduled = make(kind, **{name: lambda step: first if step < 2 else then})
    assigned, assigned_schedule, constant = make(kind), make(kind), make(kind)
    for step, g in enumerate(gradients()):
        if step == 2:
            setattr(assigned, name, then)
            assert getattr(assigned, name) == then
            setattr(assigned_schedule, name, lambda step: then)
        if step == 3:
            setattr(assigned_schedule, name, then)
        for opt in (scheduled, assigned, assigned_schedule, constant):
            opt.step(g)
    assert_same(assigned, assigned_schedule)
    if name == "momentum_decay" or (kind == "NAdam" and name == "beta1"):
        return  # the product of all momenta so far is another one
    assert_same(assigned, scheduled)
    if (kind, name) in (("RAdam", "eps"), ("DoG", "eps")):
        return  # so few steps do not divide; it is small beside squares
    with pytest.raises(AssertionError):
        assert_same(assigned, constant)


FLAGS = [
    (kind, name)
    for kind in KINDS
    for name, field in settings_of(getattr(fastopt, kind)).items()
    if isinstance(field.default, bool) and not field.fixed
]


@pytest.mark.parametrize(("kind", "name"), FLAGS)
def test_flags_act_as_from_the_beginning_or_are_refused(kind, name):
    numbers = {number: NUMBERS[number][0] for number in numbers_of(kind)}

    def of_two_arrays(**flags):
        arrays = [np.linspace(1, 2, 3), np.linspace(-4, 3, 4)]
        return getattr(fastopt, kind)(arrays, executor="reference", **numbers, **flags)

    opt = of_two_arrays()
    value = not getattr(opt, name)
    with contextlib.suppress(ValueError):
        setattr(opt, name, value)
    control = of_two_arrays(**{name: getattr(opt, name)})
    for g in gradients():
        for each in opt, control:
            each.step([g[:3].astype(float), g[3:].astype(float)])
    for one, other in zip(opt.params, control.params, strict=True):
        assert one.tobytes() == other.tobytes()


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


@pytest.mark.parametrize(("old", "new"), [(None, 1.0), (1.0, None)])
def test_clipping_is_not_switched(old, new):
    opt = fastopt.Adam(np.ones(3), clip_norm=old)
    with pytest.raises(ValueError, match=r"clip_norm.*new optimizer"):
        opt.clip_norm = new
    assert opt.clip_norm == old


@pytest.mark.parametrize(
    "name", ["executor", "zero_grad", "skip_nonfinite", "step_count", "state", "params"]
)
def test_what_cannot_be_assigned(name):
    opt = make("Adam")
    with pytest.raises(AttributeError):
        setattr(opt, name, getattr(opt, name))


class Local(fastopt.NamedOptimizer):
    """Its function is made anew whenever the settings change."""

    lr: fastopt.Number = fastopt.setting(default=0.1)
    keep: fastopt.Number = fastopt.setting(default=0.5)
    power: fastopt.Number = fastopt.setting(default=2.0)

    def make_parts(self):
        power = self.power

        def kept(update, param, state, hyper):
            m = hyper[0] * state[0] + update * power
            return m, (m,)

        return [fastopt.Transform(kept, state={"m": 0.0}, hyper=(self.keep,)), *self.decay_and_rate()]


def test_functions_that_are_defined_in_make_parts():
    w, expected = np.ones(3), np.ones(3)
    opt = Local([{"params": [w]}])
    opt.step([[np.ones(3)]])
    opt.groups[0].lr = 0.25
    opt.keep = 0.25
    opt.load_state_dict(copy.deepcopy(opt.state_dict()))
    opt.step([[np.ones(3)]])
    expected -= 0.1 * 2.0
    expected -= 0.25 * (0.25 * 2.0 + 2.0)
    np.testing.assert_allclose(w, expected, rtol=1e-15)
    settings = repr(opt)
    with pytest.raises(ValueError, match=r"power = 3.0 .* functions of 'kept' use"):
        opt.power = 3.0
    with pytest.raises(ValueError, match="which transforms the optimizer is made of"):
        opt.average_decay = 0.5
    assert repr(opt) == settings
