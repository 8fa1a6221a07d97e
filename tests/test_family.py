"""The worked example J = w^2 from w = 5, and what tells the optimizers apart."""

from functools import partial
from itertools import islice, pairwise

import numpy as np
import pytest

import fastopt
from tests.oracle_parts import MP
from tests.refusals import everywhere

SQUARED = 5.0
RATE = 0.1


def descend(optimizer, steps, executor="serial", **settings):
    """The parameter after each step of minimizing w^2, in float64."""
    w = np.array([SQUARED])
    opt = optimizer(w, lr=RATE, executor=executor, **settings)
    passed = []
    for _ in range(steps):
        opt.step(2 * w)
        passed.append(float(w[0]))
    return passed


def assert_close(actual, figures):
    """Within one ULP of the start for each step; the figures are as typed."""
    for steps, (w, figure) in enumerate(zip(actual, figures, strict=True), 1):
        assert abs(MP.mpf(w) - MP.mpf(figure)) <= steps * np.spacing(SQUARED), (actual, figures)


@everywhere
@pytest.mark.parametrize(
    ("settings", "figures"),
    [
        ({}, ["4", "3.2", "2.56"]),
        ({"momentum": 0.9, "dampening": 0.9}, ["4.9", "4.712", "4.44856"]),
        # m = 10, 17, 19.9: as a sum the same gradients gather ten times as fast
        ({"momentum": 0.9}, ["4", "2.3", "0.31"]),
        # g + 0.9 m = 19, then m = 9 + 6.2 = 15.2 and 6.2 + 13.68
        ({"momentum": 0.9, "nesterov": True}, ["3.1", "1.112"]),
    ],
    ids=["plain", "average", "sum", "nesterov"],
)
def test_gradient_descent(settings, figures, executor):
    assert_close(descend(fastopt.SGD, len(figures), executor, **settings), figures)


def adagrad_in_print():
    w, total = MP.mpf(5), MP.mpf(0)
    while True:
        g = 2 * w
        total += g**2
        w -= MP.mpf("0.1") * g / MP.sqrt(total + MP.mpf("1e-10"))
        yield w


def adam_in_print():
    w, m, v, t = MP.mpf(5), MP.mpf(0), MP.mpf(0), 0
    while True:
        t, g = t + 1, 2 * w
        m = MP.mpf("0.9") * m + MP.mpf("0.1") * g
        v = MP.mpf("0.999") * v + MP.mpf("0.001") * g**2
        corrected = m / (1 - MP.mpf("0.9") ** t), v / (1 - MP.mpf("0.999") ** t)
        w -= MP.mpf("0.1") * corrected[0] / (MP.sqrt(corrected[1]) + MP.mpf("1e-8"))
        yield w


def nadam_in_print(decay="0.004"):
    w, m, v, product, t = MP.mpf(5), MP.mpf(0), MP.mpf(0), MP.mpf(1), 0
    while True:
        t, g = t + 1, 2 * w
        now = MP.mpf("0.9") * (1 - MP.mpf("0.96") ** (t * MP.mpf(decay)) / 2)
        ahead = MP.mpf("0.9") * (1 - MP.mpf("0.96") ** ((t + 1) * MP.mpf(decay)) / 2)
        product *= now
        m = MP.mpf("0.9") * m + MP.mpf("0.1") * g
        v = MP.mpf("0.999") * v + MP.mpf("0.001") * g**2
        u = ahead * m / (1 - product * ahead) + (1 - now) * g / (1 - product)
        w -= MP.mpf("0.1") * u / (MP.sqrt(v / (1 - MP.mpf("0.999") ** t)) + MP.mpf("1e-8"))
        yield w


@everywhere
@pytest.mark.parametrize(
    ("optimizer", "in_print", "settings"),
    [
        (fastopt.AdaGrad, adagrad_in_print, {}),
        (fastopt.Adam, adam_in_print, {}),
        (fastopt.NAdam, nadam_in_print, {}),
        (fastopt.NAdam, partial(nadam_in_print, "1"), {"momentum_decay": 1.0}),
    ],
    ids=["adagrad", "adam", "nadam", "nadam-keras"],
)
def test_against_fifty_digits(optimizer, in_print, settings, executor):
    """Ten steps; 1 - 0.999**t is a small difference, which the host rounds in its thirteenth digit."""
    figures = islice(in_print(), 10)
    for actual, figure in zip(descend(optimizer, 10, executor, **settings), figures, strict=True):
        assert abs(MP.mpf(actual) - figure) < 1e-13


def test_first_steps_have_the_length_of_the_rate():
    """Adam's and AdaGrad's, whatever the gradient is; RMSProp's is longer by 1 / sqrt(1 - beta)."""
    for scale in (1e-3, 1.0, 1e3):
        for optimizer, length in (
            (fastopt.Adam, 1.0),
            (fastopt.AdaGrad, 1.0),
            (fastopt.RMSProp, 10**0.5),
        ):
            w = np.zeros(2)
            optimizer(w, lr=RATE, eps=0.0).step(np.array([scale, -scale]))
            np.testing.assert_allclose(w, [-RATE * length, RATE * length], rtol=1e-12)


def test_steps_of_adagrad_shrink():
    """Under a steady gradient they are lr / sqrt(t), where those of RMSProp become lr."""
    lengths = {}
    for optimizer in (fastopt.AdaGrad, fastopt.RMSProp):
        w, passed = np.zeros(1), []
        opt = optimizer(w, lr=RATE, eps=0.0)
        for _ in range(400):
            previous = w[0]
            opt.step(np.array([3.0]))
            passed.append(previous - w[0])
        lengths[optimizer] = np.array(passed)
    t = np.arange(1, 401)
    np.testing.assert_allclose(lengths[fastopt.AdaGrad], RATE / np.sqrt(t), rtol=1e-9)
    np.testing.assert_allclose(lengths[fastopt.RMSProp][200:], RATE, rtol=1e-9)


def test_amsgrad_remembers_the_largest_square():
    """After one large gradient among small ones Adam's steps grow again, AMSGrad's do not."""
    gradients = [100.0] + [1.0] * 30
    lengths = {}
    for amsgrad in (False, True):
        w = np.zeros(1)
        opt = fastopt.Adam(w, lr=RATE, beta1=0.0, beta2=0.5, bias_correction=False, amsgrad=amsgrad)
        for g in gradients:
            previous = w[0]
            opt.step(np.array([g]))
        lengths[amsgrad] = previous - w[0]
    np.testing.assert_allclose(lengths[False], RATE, rtol=1e-3)
    np.testing.assert_allclose(lengths[True], RATE / (100 * 0.5**0.5), rtol=1e-3)


def test_scheduled_momentum_of_nadam():
    """The product of momenta follows a schedule of beta1, and counts right for any step."""
    betas = [0.9, 0.5, 0.7, 0.6]
    w = np.array([SQUARED])
    settings = {"lr": RATE, "momentum_decay": None, "eps": 0.0}
    opt = fastopt.NAdam(w, beta1=lambda t: betas[t], **settings)
    for _ in range(3):
        opt.step(np.ones(1))
    # Of a steady gradient of 1 the root of the corrected square is 1, the average m as below.
    expected, m, product = SQUARED, 0.0, 1.0
    for now, ahead in pairwise(betas):
        m, product = now * m + (1 - now), product * now
        expected -= RATE * (ahead * m / (1 - product * ahead) + (1 - now) / (1 - product))
    np.testing.assert_allclose(w, expected, rtol=1e-13)


@pytest.mark.parametrize(
    ("optimizer", "settings", "names"),
    [
        (fastopt.SGD, {}, []),
        (fastopt.SGD, {"momentum": 0.5}, ["momentum_buffer"]),
        (fastopt.AdaGrad, {}, ["sum"]),
        (fastopt.Adam, {}, ["exp_avg", "exp_avg_sq"]),
        (fastopt.AdamW, {"amsgrad": True}, ["exp_avg", "exp_avg_sq", "max_exp_avg_sq"]),
        (fastopt.NAdam, {}, ["exp_avg", "exp_avg_sq"]),
        (fastopt.Lion, {}, ["exp_avg"]),
        (fastopt.AdaMax, {}, ["exp_avg", "exp_inf"]),
        (fastopt.AdaDelta, {}, ["square_avg", "acc_delta"]),
        (fastopt.RAdam, {}, ["exp_avg", "exp_avg_sq"]),
        (fastopt.AdaBelief, {}, ["exp_avg", "exp_avg_var"]),
        (fastopt.Yogi, {}, ["exp_avg", "exp_avg_sq"]),
        (fastopt.QHAdam, {}, ["exp_avg", "exp_avg_sq"]),
        (fastopt.AdEMAMix, {}, ["exp_avg_fast", "exp_avg_slow", "exp_avg_sq"]),
        (fastopt.Adan, {}, ["exp_avg", "exp_avg_diff", "exp_avg_sq", "previous_grad"]),
        (fastopt.Rprop, {}, ["prev", "step_size"]),
        (fastopt.ASGD, {}, ["ax"]),
        (fastopt.LARS, {}, ["momentum_buffer"]),
        (fastopt.LAMB, {}, ["exp_avg", "exp_avg_sq"]),
        (fastopt.Prodigy, {}, ["exp_avg", "exp_avg_sq", "s", "initial_param"]),
        (fastopt.DoG, {"schedule_free": 0.9}, ["initial_param", "z"]),
    ],
)
def test_names_of_states(optimizer, settings, names):
    assert list(optimizer(np.ones(3), **settings).state) == names


def test_the_average_of_asgd_is_one_of_parameters_within_the_bounds():
    w = np.array([5.0])
    opt = fastopt.ASGD(w, lr=1.0, lambd=0.0, t0=0.0, bounds=(0.0, None))
    for g in (6.0, 1.0, -2.0):  # to -1, which is 0; to -1 again; to 2
        opt.step(np.array([g]))
    assert (w[0], opt.state["ax"][0]) == (2.0, 1.0)
