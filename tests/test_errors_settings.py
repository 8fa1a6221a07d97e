"""Bad hyperparameters and options: refused when given, assigned or scheduled, with nothing changed."""

import numpy as np
import pytest

import fastopt
from tests.refusals import assert_goes_on, everywhere, gradient, make, params, refusal
from tests.support import assert_same_run

BAD_VALUES = {
    "lr": ([-0.1], ">= 0"),
    "beta": ([-0.1, 1.0, 1.5], "[0, 1)"),
    "eps": ([-1e-8], ">= 0"),
    "momentum": ([-0.1, 1.1], "[0, 1]"),
    "weight_decay": ([-0.1], ">= 0"),
    "clip_value": ([0.0, -1.0], "> 0"),
}
NOT_FINITE = [np.nan, np.inf, -np.inf]
NOT_NUMBERS = ["0.1", None, True, 1j, [0.1], np.ones(2)]

BAD_SETTINGS = [
    *(
        pytest.param(name, value, ValueError, [name, rule, repr(value)], id=f"{name}={value}")
        for name, (values, rule) in BAD_VALUES.items()
        for value in [*values, *NOT_FINITE]
    ),
    *(
        pytest.param(name, value, TypeError, [name, "number", rule, repr(value)], id=f"{name}={value}")
        for name, (_, rule) in BAD_VALUES.items()
        for value in NOT_NUMBERS
        if not (name == "clip_value" and value is None)  # means that there is none
    ),
]
bad_settings = pytest.mark.parametrize(("name", "value", "error", "words"), BAD_SETTINGS)

FLAGS = ("eps_inside_sqrt", "centered", "nesterov", "lr_in_momentum", "bias_correction")
FLAGS += ("maximize", "decoupled_weight_decay")

# All parts are on, so that every setting can be assigned.
ALL = {"weight_decay": 0.1, "clip_value": 1.0}


@bad_settings
def test_bad_setting_of_a_new_optimizer(name, value, error, words):
    w = params()
    with refusal(error, words):
        fastopt.RMSProp(w, **{name: value})
    assert w.tobytes() == params().tobytes()


@bad_settings
def test_bad_setting_assigned(name, value, error, words):
    opt = make(**ALL)
    with refusal(error, words):
        setattr(opt, name, value)
    assert getattr(opt, name) == getattr(make(**ALL), name)
    assert_goes_on(opt, **ALL)


@bad_settings
def test_bad_value_of_a_schedule(name, value, error, words):
    """At the second step: the first one was good."""
    values = {**ALL, "lr": 0.1, "beta": 0.9, "eps": 1e-8, "momentum": 0.5}
    bad = [values[name], value, values[name]]
    opt = make(**ALL | {name: lambda step: bad[step]})
    with refusal(error, [*words, "schedule", "step 1"]):
        opt.step(gradient())
    bad[1] = values[name]
    assert_goes_on(opt, **ALL)


@bad_settings
def test_bad_schedule_assigned(name, value, error, words):
    opt = make(**ALL)
    with refusal(error, [*words, "schedule", "step 1"]):
        setattr(opt, name, lambda step: value)
    assert_goes_on(opt, **ALL)


@pytest.mark.parametrize("value", [-1.0, *NOT_FINITE])
def test_bad_initial_accumulator(value):
    with refusal(ValueError, ["initial_accumulator", ">= 0", repr(value)]):
        make(initial_accumulator=value)


@pytest.mark.parametrize("value", [*NOT_NUMBERS, lambda step: 0.0])
def test_initial_accumulator_is_a_number(value):
    with refusal(TypeError, ["initial_accumulator", ">= 0", repr(value)]):
        make(initial_accumulator=value)


@pytest.mark.parametrize("value", [1, 0, None, "yes", np.True_, 1.0])
@pytest.mark.parametrize("name", FLAGS)
def test_flags_are_true_or_false(name, value):
    with refusal(TypeError, [name, "True or False", repr(value)]):
        make(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [("lr", 1e39), ("eps", 1e39), ("weight_decay", 1e39), ("clip_value", 1e39)],
)
def test_settings_that_overflow_in_the_dtype(name, value):
    with refusal(ValueError, ["finite in float32", "1e+39"]):
        make(**{name: value})
    fastopt.RMSProp(params().astype(np.float64), **{name: value})


def test_nesterov_needs_momentum():
    with refusal(ValueError, ["nesterov", "momentum > 0", "momentum=0"]):
        fastopt.RMSProp(params(), nesterov=True)


@pytest.mark.parametrize("name", ["alpha", "rho", "learning_rate", "weight_deacy"])
def test_unknown_arguments(name):
    with refusal(TypeError, [name, "RMSProp", "lr", "beta", "weight_decay", "executor"]):
        make(**{name: 0.1})


@pytest.mark.parametrize("value", ["quick", "cuda0", ""])
def test_unknown_executor(value):
    with refusal(ValueError, ["executor", "auto", "serial", "parallel", "reference", repr(value)]):
        make(executor=value)


@pytest.mark.parametrize("value", [None, 1, ["serial"]])
def test_executor_is_a_name(value):
    with refusal(TypeError, ["executor", "auto", "serial", "parallel", "reference", repr(value)]):
        make(executor=value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("centered", False),
        ("eps_inside_sqrt", False),
        ("nesterov", True),
        ("maximize", True),
        ("lr_in_momentum", True),
        ("decoupled_weight_decay", True),
        ("clip_value", None),
    ],
)
def test_assignment_of_what_decides_the_parts(name, value):
    opt = make(**ALL)
    with refusal(ValueError, [name, repr(value), "new optimizer"]):
        setattr(opt, name, value)
    assert_goes_on(opt, **ALL)


@pytest.mark.parametrize(("name", "value"), [("weight_decay", 0.1), ("clip_value", 1.0)])
def test_assignment_of_what_is_off(name, value):
    opt = make()
    with refusal(ValueError, [name, repr(value), "new optimizer"]):
        setattr(opt, name, value)
    assert_goes_on(opt)


def test_initial_accumulator_cannot_be_assigned():
    with pytest.raises(AttributeError, match="initial_accumulator"):
        make().initial_accumulator = 0.5


@pytest.mark.parametrize("zero", [0, 0.0, np.float64(0.0), np.float32(0.0)])
def test_any_zero_switches_a_part_off(zero):
    opt, control = make(**ALL), make(**ALL)
    opt.momentum, control.momentum = zero, 0.0
    opt.step(gradient())
    control.step(gradient())
    assert_same_run(opt, control)


@everywhere
def test_zero_eps_is_allowed(executor):
    """0/0 is NaN where all gradients were zero; elsewhere the step is finite."""
    w = np.ones(4, np.float32)
    opt = fastopt.RMSProp(w, lr=0.1, eps=0.0, executor=executor)
    opt.step(np.array([0.0, 1.0, 0.0, -2.0], np.float32))
    assert np.isnan(w).tolist() == [True, False, True, False]
