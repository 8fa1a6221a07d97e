"""Schedules: how often they are called, and what they give far out."""

import math
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest

import fastopt
from fastopt import schedules
from fastopt.steps.stepper import stepper_of
from fastopt.transforms.adam import nadam_numbers
from tests.refusals import refusal


class Counted:
    """A schedule that remembers at which steps it was asked."""

    def __init__(self, value=0.1):
        self.value, self.steps = value, []

    def __call__(self, step):
        self.steps.append(step)
        return self.value

    def taken(self):
        """What came since the last time."""
        steps, self.steps = sorted(self.steps), []
        return steps


OPTIMIZERS = [
    (fastopt.SGD, {"lr_in_momentum": True, "momentum": 0.5, "decoupled_weight_decay": True}),
    (fastopt.RMSProp, {"bias_correction": True}),
    (fastopt.AdaGrad, {"lr_decay": 0.1}),
    (fastopt.Adam, {}),
    (fastopt.AdamW, {"bounds": (-1, 1)}),
    (fastopt.NAdam, {}),
]


@pytest.mark.parametrize(
    ("optimizer", "settings", "executor"),
    [*((*case, "reference") for case in OPTIMIZERS), (*OPTIMIZERS[0], "serial")],
)
def test_a_schedule_is_called_once_for_each_step_number(optimizer, settings, executor):
    lr, decay = Counted(), Counted()
    single, double = np.ones(3, np.float32), np.ones(2)
    groups = [{"params": [single, double]}, {"params": single + 1, "weight_decay": decay}]
    opt = optimizer(groups, lr=lr, weight_decay=decay, executor=executor, **settings)
    assert (lr.taken(), decay.taken()) == ([0], [0])
    every = [[np.ones(3, np.float32), np.ones(2)], np.ones(3, np.float32)]
    opt.step(every)
    assert (lr.taken(), decay.taken()) == ([0], [0])
    opt.step([[None, np.ones(2)], np.ones(3, np.float32)])
    assert (lr.taken(), decay.taken()) == ([1], [1])
    opt.step(every, grad_scale=1.0)
    assert (lr.taken(), decay.taken()) == ([1, 2], [1, 2])  # one array lags behind
    opt.step(every, grad_scale=2.0)
    assert (lr.taken(), decay.taken()) == ([2, 3], [2, 3])


def test_one_schedule_in_several_settings():
    one = Counted(0.5)
    opt = fastopt.RMSProp(np.ones(3), lr=one, beta=one, momentum=one, weight_decay=one, clip_value=one)
    assert one.taken() == [0]
    for step in range(3):
        opt.step(np.ones(3))
        assert one.taken() == [step]


def test_limit_of_the_norm():
    limit = Counted(1.0)
    opt = fastopt.SGD([np.ones(3), np.ones(2)], clip_norm=limit)
    assert limit.taken() == [0]
    for step in range(3):
        opt.step([np.ones(3), None if step else np.ones(2)])
        assert limit.taken() == [step]


def test_momenta_of_nadam():
    beta = Counted(0.9)
    opt = fastopt.NAdam([np.ones(3), np.ones(2, np.float32)], beta1=beta)
    assert beta.taken() == [0, 1]  # it looks one step ahead
    for step in range(3):
        opt.step([np.ones(3), np.ones(2, np.float32)])
        assert beta.taken() == [step, step + 1]


def test_hyperparameters_of_a_custom_transform():
    calls = []

    def hyper(step):
        calls.append(step)
        return (0.1,)

    def own_update(update, param, state, hyper):
        return hyper[0] * update, state

    transform = fastopt.Transform(own_update, hyper=hyper)
    opt = fastopt.Optimizer([np.ones(3), np.ones(2, np.float32)], transform)
    opt.step([np.ones(3), np.ones(2, np.float32)])
    assert calls == [0, 0]


def test_a_value_is_not_kept():
    values = iter([0.5, 1.0, 2.0, 3.0])
    w = np.zeros(1)
    opt = fastopt.SGD(w, lr=lambda step: next(values))
    opt.step(np.ones(1))
    assert w == [-1.0]
    opt.step(np.ones(1), grad_scale=0.5)
    assert w == [-5.0]


def test_assignment_calls_once():
    opt = fastopt.SGD([np.ones(3), np.ones(2, np.float32)], lr=0.1)
    opt.step([np.ones(3), np.ones(2, np.float32)])
    opt.lr = later = Counted()
    assert later.taken() == [1]


def test_a_schedule_that_steps_another_optimizer():
    inner = fastopt.SGD(np.ones(1), lr=lambda step: 1.0 / (1 + step))

    def lr(step):
        inner.step(np.ones(1))
        return 0.1

    opt = fastopt.SGD(np.ones(3), lr=lr)
    opt.step(np.ones(3))
    assert inner.step_count == 2
    assert inner.params[0] == pytest.approx(1 - 1 - 1 / 2)


# NAdam's product of momenta


def plain_product(beta1, decay, step):
    """The factors one after the other."""
    result = 1.0
    for t in range(step + 1):
        result *= beta1 * (1.0 - 0.5 * 0.96 ** ((t + 1) * decay))
    return result


@pytest.mark.parametrize(("beta1", "decay"), [(0.9, 4e-3), (0.99, 1.0), (0.5, 0.0), (0.0, 4e-3)])
@pytest.mark.parametrize("scheduled", [False, True])
def test_numbers_of_nadam_are_those_of_the_plain_product(beta1, decay, scheduled):
    first = (lambda step: beta1) if scheduled else beta1
    part = fastopt.transforms.scale_by_nadam(first, momentum_decay=decay)
    for step in (0, 1, 7, 400, 5000, 3, 401, 10_000_000):
        now, ahead = (beta1 * (1.0 - 0.5 * 0.96 ** ((t + 1) * decay)) for t in (step, step + 1))
        product = plain_product(beta1, decay, min(step, 20_000))
        expected = nadam_numbers(step, beta1, 0.999, 1e-8, now, ahead, product)
        assert part.hyper_at(step) == expected


def test_momenta_are_asked_for_once():
    """However many arrays lag behind, by however much."""
    beta = Counted(0.9)
    params = [np.ones(1) for _ in range(4)]
    opt = fastopt.NAdam(params, beta1=beta)
    asked = 0
    for step in range(60):
        beta.taken()
        opt.step([None if (step + i) % (i + 2) == 0 else np.ones(1) for i in range(4)])
        asked = max(asked, len(beta.taken()))
    assert asked <= 2 * len(params)


def test_resuming_late_asks_for_few_momenta():
    beta = Counted(0.9)
    opt = fastopt.NAdam(np.ones(1), beta1=beta)
    stepper_of(opt)().go_to(10**7)
    assert len(beta.taken()) < 1000


# Far out

NUMBERS = (0.0, -0.0, 1.0, -1.0, 5e-324, 1e-300, 1e300, 1.7e308, -1.7e308)
STEPS = (0, 1, 2, 1023, 1024, 1075, 10**6, 10**9, 10**12)
POSITIVE = (5e-324, 1e-300, 0.5, 1.0, 1 + 1e-9, 2.0, 1e300, 1.7e308)
FORMS = SimpleNamespace(
    exponential=[(schedules.exponential, (a, b, n)) for a, b, n in product(NUMBERS, POSITIVE, (1, 7))],
    cosine=[
        (lambda a, b, n: schedules.cosine(a, n, alpha=b), (a, b, n))
        for a, b, n in product(NUMBERS, NUMBERS, (1, 2**62))
    ],
    polynomial=[
        (schedules.polynomial, (a, b, n, p))
        for a, b, n, p in product(NUMBERS, NUMBERS, (1, 10**9), (5e-324, 1.0, 1e300))
    ],
    warmup=[
        (schedules.warmup_cosine, (a, b, n, n + 5, a))
        for a, b, n in product(NUMBERS, NUMBERS, (0, 3, 2**62))
    ],
    inverse=[(schedules.inverse_time, (a, abs(b), n)) for a, b, n in product(NUMBERS, NUMBERS, (1, 7))],
)


@pytest.mark.parametrize("name", vars(FORMS))
def test_schedules_are_never_nan(name):
    built = 0
    for make, arguments in getattr(FORMS, name):
        try:
            schedule = make(*arguments)
        except ValueError:  # see below for what is refused
            continue
        built += 1
        values = [schedule(step) for step in STEPS]
        assert not any(map(math.isnan, values)), arguments
        if name != "exponential":  # which may grow beyond all floats
            assert all(map(math.isfinite, values)), arguments
    assert built > len(getattr(FORMS, name)) / 2


def test_zero_times_whatever_is_zero():
    grows = schedules.exponential(0.0, 2.0)
    assert [grows(step) for step in STEPS] == [0.0] * len(STEPS)
    assert schedules.exponential(1.0, 2.0)(1024) == math.inf
    assert schedules.exponential(-1.0, 2.0, end=-8.0)(5000) <= -8.0
    opt = fastopt.SGD(np.ones(1), lr=schedules.exponential(1.0, 2.0))
    stepper_of(opt)().go_to(1023)
    with refusal(ValueError, ["lr", "1024", "inf"]):
        stepper_of(opt)().go_to(1024)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: schedules.polynomial(1.7e308, -1.7e308, 5), "init - end"),
        (lambda: schedules.warmup_cosine(-1.7e308, 1.7e308, 1, 5), "peak - init"),
        (lambda: schedules.warmup_cosine(1.7e308, 1.7e308, 1, 5, -1.7e308), "peak - end"),
        (lambda: schedules.cosine(1e300, 5, alpha=1e300), "init * alpha"),
    ],
)
def test_what_could_only_overflow(make, name):
    with refusal(ValueError, [name, "finite", "inf"]):
        make()
