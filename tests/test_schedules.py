"""Schedules: values worked out by hand, what they refuse, and that they live in an optimizer."""

import copy
import inspect
import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastopt
from fastopt import schedules, validation
from tests.refusals import refusal
from tests.subprocesses import run

FUNCTIONS = [getattr(schedules, name) for name in schedules.__all__]

SAMPLES = [
    schedules.constant(0.1),
    schedules.exponential(0.1, 0.5, 10, begin=3, staircase=True, end=0.01),
    schedules.cosine(0.1, 7, alpha=0.2),
    schedules.warmup_cosine(0.0, 0.1, 3, 8, 0.01),
    schedules.polynomial(0.1, 0.01, 6, 2.0, begin=2),
    schedules.inverse_time(0.1, 0.5, 3),
    schedules.piecewise([2, 5], [0.1, 0.2, 0.05]),
]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (schedules.constant(0.25), {0: 0.25, 9: 0.25}),
        (schedules.exponential(8.0, 0.5), {0: 8.0, 1: 4.0, 3: 1.0}),
        (schedules.exponential(8.0, 0.25, 2), {0: 8.0, 1: 4.0, 2: 2.0}),
        (schedules.exponential(8.0, 0.5, 2, staircase=True), {1: 8.0, 2: 4.0, 3: 4.0, 4: 2.0}),
        (schedules.exponential(8.0, 0.5, begin=2), {0: 8.0, 2: 8.0, 3: 4.0}),
        (schedules.exponential(8.0, 0.5, end=3.0), {0: 8.0, 1: 4.0, 2: 3.0, 99: 3.0}),
        (schedules.exponential(1.0, 2.0, end=3.0), {0: 1.0, 1: 2.0, 2: 3.0, 10**6: 3.0}),
        (schedules.exponential(1.0, 2.0), {10**6: math.inf}),
        (schedules.cosine(4.0, 2), {0: 4.0, 1: 2.0, 2: 0.0, 3: 0.0}),
        (schedules.cosine(4.0, 3, alpha=0.5), {1: 3.5, 2: 2.5, 3: 2.0, 9: 2.0}),
        (schedules.warmup_cosine(1.0, 3.0, 2, 4), {0: 1.0, 1: 2.0, 2: 3.0, 3: 1.5, 4: 0.0, 5: 0.0}),
        (schedules.warmup_cosine(1.0, 3.0, 0, 2, 1.0), {0: 3.0, 1: 2.0, 2: 1.0, 9: 1.0}),
        (schedules.polynomial(1.0, 2.0, 4), {0: 1.0, 1: 1.25, 4: 2.0, 5: 2.0}),
        (schedules.polynomial(4.0, 0.0, 2, 2.0, begin=1), {0: 4.0, 1: 4.0, 2: 1.0, 3: 0.0}),
        (schedules.inverse_time(6.0, 2.0, 4), {0: 6.0, 2: 3.0, 4: 2.0}),
        (schedules.piecewise([1, 3], [5.0, 6.0, 7.0]), {0: 5.0, 1: 6.0, 2: 6.0, 3: 7.0, 9: 7.0}),
        (schedules.piecewise([], [5.0]), {0: 5.0, 9: 5.0}),
    ],
    ids=repr,
)
def test_values(schedule, expected):
    for step, value in expected.items():
        rate = schedule(step)
        assert type(rate) is float
        assert rate == pytest.approx(value, rel=1e-15, abs=1e-15), step


def test_there_is_a_sample_of_each():
    assert [repr(s).partition("(")[0] for s in SAMPLES] == [
        "constant", "exponential", "cosine", "warmup_cosine", "polynomial", "inverse_time", "piecewise",
    ]  # fmt: skip
    assert len(FUNCTIONS) == len(SAMPLES)


@pytest.mark.parametrize("schedule", SAMPLES, ids=repr)
def test_copies_are_equal(schedule):
    for same in (
        eval(repr(schedule), vars(schedules)),
        pickle.loads(pickle.dumps(schedule)),
        copy.deepcopy(schedule),
    ):
        assert same == schedule
        assert hash(same) == hash(schedule)
        assert [same(step) for step in range(20)] == [schedule(step) for step in range(20)]
    assert sum(other == schedule for other in SAMPLES) == 1


# Arguments that are fine, to be spoilt one at a time.
GOOD = {
    "constant": {"value": 0.1},
    "exponential": {"init": 0.1, "rate": 0.5, "steps": 2, "begin": 0, "staircase": False, "end": 0.1},
    "cosine": {"init": 0.1, "steps": 2, "alpha": 0.0},
    "warmup_cosine": {"init": 0.0, "peak": 0.1, "warmup_steps": 1, "steps": 2, "end": 0.0},
    "polynomial": {"init": 0.1, "end": 0.0, "steps": 2, "power": 1.0, "begin": 0},
    "inverse_time": {"init": 0.1, "rate": 0.5, "steps": 2},
    "piecewise": {"boundaries": [1, 2], "values": [0.1, 0.2, 0.3]},
}
FLOATS = {"value", "init", "rate", "end", "alpha", "peak", "power"}
WHOLE = {"steps", "warmup_steps", "begin"}


def bad_arguments():
    for name, good in GOOD.items():
        for argument in good:
            if argument in FLOATS:
                yield name, argument, "0.1", TypeError
                yield name, argument, True, TypeError
                yield name, argument, math.nan, ValueError
                yield name, argument, math.inf, ValueError
            if argument in WHOLE:
                yield name, argument, 1.0, TypeError
                yield name, argument, True, TypeError
                yield name, argument, -1, ValueError
    yield "exponential", "rate", 0.0, ValueError
    yield "exponential", "staircase", 1, TypeError
    yield "inverse_time", "rate", -0.1, ValueError
    yield "polynomial", "power", 0.0, ValueError
    for name in ("exponential", "cosine", "polynomial", "inverse_time"):
        yield name, "steps", 0, ValueError
    yield "warmup_cosine", "steps", 1, ValueError
    yield "warmup_cosine", "warmup_steps", 2, ValueError
    yield "piecewise", "boundaries", 3, TypeError
    yield "piecewise", "boundaries", [1, 2.0], TypeError
    yield "piecewise", "boundaries", [2, 1], ValueError
    yield "piecewise", "boundaries", [2, 2], ValueError
    yield "piecewise", "boundaries", [-1, 2], ValueError
    yield "piecewise", "values", 0.1, TypeError
    yield "piecewise", "values", [0.1, "0.2", 0.3], TypeError
    yield "piecewise", "values", [0.1, 0.2], ValueError
    yield "piecewise", "values", [0.1, 0.2, math.nan], ValueError


@pytest.mark.parametrize(("name", "argument", "value", "error"), [*bad_arguments()])
def test_bad_arguments(name, argument, value, error):
    with refusal(error, [argument]):
        getattr(schedules, name)(**{**GOOD[name], argument: value})


def test_all_arguments_were_tried():
    """And those that are fine are accepted."""
    for function in FUNCTIONS:
        assert list(inspect.signature(function).parameters) == list(GOOD[function.__name__])
        function(**GOOD[function.__name__])


rates = st.floats(1e-6, 1.0)


@given(start=rates, end=rates, steps=st.integers(1, 1000), step=st.integers(0, 2000))
def test_between_their_ends(start, end, steps, step):
    low, high = min(start, end), max(start, end)
    for schedule in (
        schedules.polynomial(start, end, steps, 1.7),
        schedules.warmup_cosine(start, end, steps // 2, steps, start),
        schedules.cosine(start, steps, alpha=end / start),
    ):
        assert low * (1 - 1e-9) <= schedule(step) <= high * (1 + 1e-9)


@pytest.mark.parametrize("schedule", SAMPLES, ids=repr)
def test_in_an_optimizer(schedule):
    """Each step takes the value of its own number, and a copy of the optimizer continues alike."""
    w, expected = np.ones(3), np.ones(3)
    opt = fastopt.SGD(w, lr=schedule)
    for step in range(12):
        opt.step(w.copy())
        expected -= schedule(step) * expected
        np.testing.assert_array_equal(w, expected)
    assert repr(schedule) in repr(opt)
    other = pickle.loads(pickle.dumps(opt))
    assert other.lr == schedule
    opt.step(np.ones(3))
    other.step(np.ones(3))
    np.testing.assert_array_equal(other.params, w)


def test_a_value_that_the_setting_refuses():
    w = np.ones(3)
    opt = fastopt.SGD(w, lr=schedules.polynomial(1.0, -1.0, 2))
    opt.step(np.ones(3))
    opt.step(np.ones(3))
    with refusal(ValueError, ["lr", "schedule", "step 2", ">= 0", "-1.0"]):
        opt.step(np.ones(3))
    np.testing.assert_array_equal(w, np.zeros(3))
    assert opt.step_count == 2


def test_a_number_that_only_a_device_knows():
    """It is passed on: nothing can be said of it here. Settings beside it are floats."""

    class Unknown(validation.DeviceScalar):
        def if_above(self, limit, then, otherwise):
            raise AssertionError("not asked")

    number = Unknown()
    setting = validation.decay_rate("beta", lambda step: step)
    assert validation.at(setting, number) is number
    assert number.operand(np.float32(0.5)) == 0.5
    with refusal(ValueError, ["beta", "schedule", "[0, 1)"]):
        validation.at(setting, 1)


def test_need_no_numba(tmp_path):
    used = "import sys, fastopt; fastopt.schedules.constant(1.0)(0); print('numba' in sys.modules)"
    assert run(used, tmp_path) == "False"
