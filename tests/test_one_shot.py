"""One-shot functions: the same bits as the optimizers, and what they refuse."""

import numpy as np
import pytest

import fastopt
from tests.refusals import N, refusal
from tests.support import DTYPES, assert_same_bits, problem

ADAM = {"beta1": 0.8, "beta2": 0.95, "eps": 1e-3}
SHARED = {"weight_decay": 0.1, "bounds": (-1.0, 1.0), "average_decay": 0.9, "clip_norm": 3.0}

CASES = [
    (fastopt.sgd_step, fastopt.SGD, {}),
    (fastopt.sgd_step, fastopt.SGD, {"momentum": 0.9, "dampening": 0.5}),
    (fastopt.sgd_step, fastopt.SGD, {"momentum": 0.9, "nesterov": True, "maximize": True}),
    (fastopt.rmsprop_step, fastopt.RMSProp, {"beta": 0.8}),
    (fastopt.rmsprop_step, fastopt.RMSProp, {"centered": True, "momentum": 0.5, "eps": 1e-3}),
    (fastopt.adagrad_step, fastopt.AdaGrad, {}),
    (fastopt.adagrad_step, fastopt.AdaGrad, {"lr_decay": 0.5, "eps": 1e-3}),
    (fastopt.adam_step, fastopt.Adam, {}),
    (fastopt.adam_step, fastopt.Adam, {**ADAM, "amsgrad": True}),
    (fastopt.adam_step, fastopt.Adam, {**ADAM, "bias_correction": False}),
    (fastopt.adamw_step, fastopt.AdamW, {}),
    (fastopt.adamw_step, fastopt.AdamW, {**ADAM, "amsgrad": True, "weight_decay": 0.3}),
    (fastopt.nadam_step, fastopt.NAdam, {}),
    (fastopt.nadam_step, fastopt.NAdam, {**ADAM, "momentum_decay": 0.5}),
    (fastopt.lion_step, fastopt.Lion, {}),
    (fastopt.adamax_step, fastopt.AdaMax, ADAM),
    (fastopt.adadelta_step, fastopt.AdaDelta, {"rho": 0.8}),
    (fastopt.radam_step, fastopt.RAdam, {**ADAM, "threshold": 4.0}),
    (fastopt.adabelief_step, fastopt.AdaBelief, ADAM),
    (fastopt.yogi_step, fastopt.Yogi, {**ADAM, "initial_accumulator": 0.5}),
    (fastopt.qhadam_step, fastopt.QHAdam, {**ADAM, "nu1": 0.5}),
    (fastopt.ademamix_step, fastopt.AdEMAMix, {**ADAM, "warmup_steps": 3}),
    (fastopt.adan_step, fastopt.Adan, ADAM),
    (fastopt.rprop_step, fastopt.Rprop, {"eta_plus": 1.5}),
    (fastopt.asgd_step, fastopt.ASGD, {"t0": 1.0}),
]
NAMES = [f"{function.__name__}-{'-'.join(settings)}" for function, _, settings in CASES]
FUNCTIONS = {function: optimizer for function, optimizer, _ in CASES}

each_case = pytest.mark.parametrize(("function", "optimizer", "settings"), CASES, ids=NAMES)


def rate(step):
    return 0.1 / (1 + step)


def executor_for(optimizer):
    """How a function hands its arguments on is plain Python; SGD shows that it does to machine code."""
    return {} if optimizer is fastopt.SGD else {"executor": "reference"}


def zeros_for(function, **settings):
    """States by their names, as a function takes them."""
    opt = FUNCTIONS[function](np.zeros(N), executor="reference", **settings)
    return {name: np.zeros(N) for name in opt.state}


# What is scheduled where the learning rate cannot be.
SCHEDULED = {fastopt.Rprop: {"step_size_min": rate}}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shared", [{}, SHARED], ids=["plain", "shared"])
@each_case
def test_equals_the_optimizer(function, optimizer, settings, shared, dtype):
    settings = {
        **SCHEDULED.get(optimizer, {"lr": rate}),
        **settings,
        **shared,
        **executor_for(optimizer),
    }
    w, grads = problem(N, dtype, steps=4)
    opt = optimizer(w.copy(), **settings)
    states = {name: state.copy() for name, state in opt.state.items()}
    for step, grad in enumerate(grads):
        opt.step(grad, grad_scale=2.0)
        function(w, grad, **states, step=step, grad_scale=2.0, **settings)
    assert_same_bits(w, opt.params)
    for name, state in opt.state.items():
        assert_same_bits(states[name], state, name)


@each_case
def test_the_number_of_the_step(function, optimizer, settings):
    """It has an effect, if only on the schedule."""
    settings = {**settings, **executor_for(optimizer)}
    w, (grad,) = problem(N, np.float64, steps=1)
    states = optimizer(w.copy(), **settings).state
    results = []
    for step in (0, 3):
        moved = w.copy()
        buffers = {name: state.copy() for name, state in states.items()}
        function(
            moved, grad, **buffers, step=step, **SCHEDULED.get(optimizer, {"lr": rate}), **settings
        )
        results.append(moved)
    assert np.any(results[0] != results[1])


@each_case
def test_structures_of_arrays(function, optimizer, settings):
    settings = {**settings, **executor_for(optimizer)}
    w, (grad,) = problem(N, np.float64, steps=1)
    opt = optimizer(w.copy(), **settings)
    states = {name: [state[:5].copy(), state[5:].copy()] for name, state in opt.state.items()}
    opt.step(grad)
    halves = [w[:5].copy(), w[5:].copy()]
    function(halves, [grad[:5], grad[5:]], **states, step=0, **settings)
    assert_same_bits(np.concatenate(halves), opt.params)


NEEDED = [
    (fastopt.sgd_step, {"momentum": 0.5}, "momentum_buffer"),
    (fastopt.rmsprop_step, {"centered": True}, "grad_avg"),
    (fastopt.rmsprop_step, {"momentum": 0.5}, "momentum_buffer"),
    (fastopt.adam_step, {"amsgrad": True}, "max_exp_avg_sq"),
    (fastopt.adamw_step, {"amsgrad": True}, "max_exp_avg_sq"),
    *((function, {"average_decay": 0.5}, "average") for function in FUNCTIONS),
]


@pytest.mark.parametrize(("function", "settings", "missing"), NEEDED)
def test_without_a_state(function, settings, missing):
    w, (grad,) = problem(N, np.float64, steps=1)
    previous = w.copy()
    states = zeros_for(function, **settings)
    del states[missing]
    with refusal(ValueError, ["need", "state", missing]):
        function(w, grad, **states, step=0, **settings, **executor_for(FUNCTIONS[function]))
    assert_same_bits(w, previous)
    assert not any(state.any() for state in states.values())


@pytest.mark.parametrize(("function", "settings", "needless"), NEEDED)
def test_with_a_state_too_many(function, settings, needless):
    w, (grad,) = problem(N, np.float64, steps=1)
    previous = w.copy()
    states = zeros_for(function)
    with refusal(ValueError, ["state", needless]):
        function(w, grad, **states, **{needless: np.zeros(N)}, **executor_for(FUNCTIONS[function]))
    assert_same_bits(w, previous)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"lr": -1.0}, ValueError, ["lr", ">= 0", "-1.0"]),
        ({"gamma": 0.9}, TypeError, ["gamma", "lr"]),
        ({"step": -1}, ValueError, ["step", ">= 0", "-1"]),
        ({"step": 1.0}, TypeError, ["step", "whole number", "1.0"]),
        ({"grad_scale": 0.0}, ValueError, ["grad_scale", "> 0", "0.0"]),
    ],
)
def test_bad_settings(function, settings, error, words):
    w, (grad,) = problem(N, np.float64, steps=1)
    previous = w.copy()
    states = zeros_for(function)
    with refusal(error, words):
        function(w, grad, **{"step": 0, **states, **settings, **executor_for(FUNCTIONS[function])})
    assert_same_bits(w, previous)
    assert not any(state.any() for state in states.values())


@pytest.mark.parametrize("function", [fastopt.adam_step, fastopt.adamw_step, fastopt.nadam_step])
def test_a_step_that_depends_on_its_number_needs_it(function):
    w, (grad,) = problem(N, np.float64, steps=1)
    previous, states = w.copy(), {name: np.zeros(N) for name in ("exp_avg", "exp_avg_sq")}
    with refusal(TypeError, [function.__name__, "needs step"]):
        function(w, grad, **states)
    assert_same_bits(w, previous)
    assert not any(state.any() for state in states.values())


@pytest.mark.parametrize(
    "settings", [{"lr": rate}, {"bias_correction": True}, {"clip_norm": lambda step: 1.0 + step}]
)
def test_so_do_settings_that_make_it_depend(settings):
    w, (grad,) = problem(N, np.float64, steps=1)
    with refusal(TypeError, ["rmsprop_step", "needs step"]):
        fastopt.rmsprop_step(w, grad, square_avg=np.zeros(N), **settings)
    fastopt.rmsprop_step(w, grad, square_avg=np.zeros(N))  # without them it does not


def test_stochastic_rounding_depends_on_the_step():
    w, grad = np.ones(N, np.float16), np.ones(N, np.float16)
    with refusal(TypeError, ["sgd_step", "needs step"]):
        fastopt.sgd_step(w, grad, stochastic_rounding=True)


def test_what_is_returned():
    w = np.zeros(2)
    assert fastopt.sgd_step(w, np.array([3.0, 4.0])) is None
    assert fastopt.sgd_step(w, np.array([3.0, 4.0]), clip_norm=1.0) == (5.0, False)
    previous = w.copy()
    last = fastopt.sgd_step(w, np.array([np.nan, 4.0]), skip_nonfinite=True)
    assert last.skipped
    assert np.isnan(last.norm)
    assert_same_bits(w, previous)


def test_states_are_given_by_name():
    w, (grad,) = problem(N, np.float64, steps=1)
    with pytest.raises(TypeError, match="positional"):
        fastopt.rmsprop_step(w, grad, np.zeros(N))


def test_of_what_there_is_a_function():
    assert fastopt.one_shot(fastopt.Adam).__name__ == "adam_step"
    assert fastopt.one_shot(fastopt.Adam).__doc__.startswith("One step of `Adam`")
    for wrong in (fastopt.Optimizer, fastopt.adam_step, "adam"):
        with refusal(TypeError, ["optimizer", "class"]):
            fastopt.one_shot(wrong)


def half(update, param, state, hyper):
    return hyper[0] * update, state


def square(update, param, state, hyper):
    return update * update


def one_more(hyper, sums, carried):
    return (0.5,), (carried[0] + 1.0,)


class Counting(fastopt.NamedOptimizer):
    def make_parts(self):
        carried = {"n": 0.0}
        return [fastopt.Transform(half, sums={"s": square}, from_sums=one_more, carried=carried)]


def test_numbers_that_are_carried_need_an_optimizer():
    w = np.ones(3)
    with refusal(ValueError, ["counting_step", "carry"]):
        fastopt.one_shot(Counting)(w, np.ones(3), step=0)
    assert w.tolist() == [1.0, 1.0, 1.0]
