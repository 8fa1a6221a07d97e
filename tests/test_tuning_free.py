"""Prodigy and DoG: the formulas of the papers and of the authors' code, typed in float64."""

import copy

import numpy as np
import pytest

import fastopt
from fastopt import transforms as t
from tests.refusals import everywhere, refusal
from tests.support import (
    COMPILED,
    DTYPES,
    assert_same_bits,
    assert_same_run,
    compiled_suite_only,
    in_dtypes,
    problem,
)

both_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
SHAPES = [(17,), (3, 5), (), (1,), (0, 2)]
STEPS = 6


def numbers(dtype, steps=STEPS):
    """Parameters, and gradients that keep their signs, so that estimates grow."""
    drawn = [problem(shape, dtype, steps) for shape in SHAPES]
    signs = [np.sign(grads[0]) for _, grads in drawn]
    pairs = list(zip(signs, drawn, strict=True))
    every = [[np.asarray(s * abs(g[k])) for s, (_, g) in pairs] for k in range(steps)]
    return [w for w, _ in drawn], every


def falling(step):
    return 1.0 / (1 + 0.5 * step)


class ProdigyInPrint:
    """Algorithm 4 of arXiv:2306.06101, with the options of the authors' code, on one vector."""

    def __init__(self, w0):
        self.w0 = w0
        self.m, self.v, self.s = (np.zeros_like(w0) for _ in range(3))
        self.numerator, self.d, self.d_max = 0.0, None, None

    def step(
        self,
        k,
        w,
        g,
        *,
        lr=1.0,
        beta1=0.9,
        beta2=0.999,
        eps=1e-8,
        beta3=None,
        d0=1e-6,
        d_coef=1.0,
        growth_rate=np.inf,
        bias_correction=False,
        safeguard_warmup=False,
        weight_decay=0.0,
        decoupled_weight_decay=True,
    ):
        if self.d is None:
            self.d = self.d_max = d0
        if not decoupled_weight_decay:
            g, weight_decay = g + weight_decay * w, 0.0
        beta3 = np.sqrt(beta2) if beta3 is None else beta3
        bias = np.sqrt(1 - beta2 ** (k + 1)) / (1 - beta1 ** (k + 1)) if bias_correction else 1.0
        d = self.d
        dlr = d * lr * bias
        self.numerator = beta3 * self.numerator + d / d0 * np.dot(dlr * g, self.w0 - w)
        self.m = beta1 * self.m + (1 - beta1) * d * g
        self.v = beta2 * self.v + (1 - beta2) * d**2 * g**2
        self.s = beta3 * self.s + d / d0 * (d if safeguard_warmup else dlr) * g
        w = w - dlr * weight_decay * w - dlr * self.m / (np.sqrt(self.v) + d * eps)
        estimate = d_coef * self.numerator / np.abs(self.s).sum()
        if d == d0:
            d = max(d, estimate)
        self.d_max = max(self.d_max, estimate)
        self.d = min(self.d_max, d * growth_rate)
        return w


class DoGInPrint:
    """Equations 2 and 3 of arXiv:2302.12022, with the options of the authors' code."""

    def __init__(self, w0):
        self.w0, self.r, self.squares, self.first = w0, None, 0.0, True

    def step(self, k, w, g, *, lr=1.0, reps_rel=1e-6, eps=1e-8, init_eta=None, weight_decay=0.0):
        g = g + weight_decay * w
        if self.first:
            self.r = 0.0 if init_eta else reps_rel * (1 + np.linalg.norm(w))
        self.r = max(self.r, np.linalg.norm(w - self.w0))
        self.squares += np.dot(g, g)
        eta = init_eta if self.first and init_eta else self.r / np.sqrt(self.squares + eps)
        self.first = False
        return w - lr * eta * g


CASES = {
    "prodigy": (fastopt.Prodigy, ProdigyInPrint, {}),
    "prodigy, large start": (fastopt.Prodigy, ProdigyInPrint, {"d0": 0.01, "weight_decay": 0.1}),
    "prodigy, everything": (
        fastopt.Prodigy,
        ProdigyInPrint,
        {
            "lr": falling,
            "beta1": 0.8,
            "beta2": 0.9,
            "beta3": 0.7,
            "eps": 1e-3,
            "d0": 1e-3,
            "d_coef": 2.0,
            "growth_rate": 1.1,
            "bias_correction": True,
            "safeguard_warmup": True,
            "weight_decay": 0.1,
            "decoupled_weight_decay": False,
        },
    ),
    "dog": (fastopt.DoG, DoGInPrint, {}),
    "dog, everything": (
        fastopt.DoG,
        DoGInPrint,
        {"lr": falling, "reps_rel": 0.01, "eps": 1.0, "weight_decay": 0.1},
    ),
    "dog, first rate": (fastopt.DoG, DoGInPrint, {"init_eta": 1e-3, "lr": 0.5}),
}


def flat(arrays):
    return np.concatenate([np.ravel(array).astype(np.float64) for array in arrays])


def assert_near(actual, expected, dtype, rough=False):
    """In float32 the distance to the start is rough where steps are a few ULP of the parameter."""
    rtol = (0.03 if rough else 1e-4) if dtype == np.float32 else 1e-11
    atol = rtol * abs(expected).max() + 1e-15
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol)


# Compiled, float32 has the bits of the reference by tests/test_stats.py too, where it is rough here.
@pytest.mark.parametrize(
    ("case", "dtype"), in_dtypes(CASES, ["prodigy, everything", "dog, everything"])
)
@everywhere
def test_in_print(executor, dtype, case):
    kind, rule, settings = case
    params, grads = numbers(dtype)
    w = flat(params)
    oracle, opt = rule(w), kind(params, **settings, executor=executor)
    moved = []
    for k, step_grads in enumerate(grads):
        opt.step(step_grads)
        now = {name: value(k) if callable(value) else value for name, value in settings.items()}
        previous, w = w, oracle.step(k, w, flat(step_grads), **now)
        moved.append(w - previous)
        assert_near(flat(params) - flat(numbers(dtype)[0]), np.sum(moved, axis=0), dtype, not settings)
    if rule is ProdigyInPrint:
        assert oracle.d > 1.04 * now.get("d0", 1e-6)  # it has grown, and so the states shrank


@both_dtypes
def test_layerwise(dtype):
    """L-DoG is DoG for each array."""
    params, grads = numbers(dtype)
    others = copy.deepcopy(params)
    together = fastopt.DoG(params, reps_rel=0.01, layerwise=True, weight_decay=0.1)
    apart = [fastopt.DoG(w, reps_rel=0.01, weight_decay=0.1) for w in others]
    for step_grads in grads:
        together.step(step_grads)
        for opt, g in zip(apart, step_grads, strict=True):
            opt.step(g)
    for w, other in zip(params, others, strict=True):
        assert_same_bits(w, other)


@pytest.mark.parametrize("kind", [fastopt.Prodigy, fastopt.DoG])
def test_groups_are_one_vector(kind):
    """Groups with other rates and decay have one estimate."""
    params, grads = numbers(np.float64)
    groups = [{"params": params[0], "weight_decay": 0.1}, {"params": params[1:], "lr": 0.5}]
    opt = kind(groups, decoupled_weight_decay=False)
    start = w = flat(params)
    first = np.arange(start.size) < 17
    settings = {"lr": np.where(first, 1.0, 0.5), "weight_decay": np.where(first, 0.1, 0.0)}
    settings |= {"decoupled_weight_decay": False} if kind is fastopt.Prodigy else {}
    oracle = (ProdigyInPrint if kind is fastopt.Prodigy else DoGInPrint)(start)
    for k, g in enumerate(grads):
        opt.step([g[0], g[1:]])
        w = oracle.step(k, w, flat(g), **settings)
        assert_near(flat(params) - start, w - start, np.float64)
    opt.groups[1].lr = 0.25
    opt.step([grads[0][0], grads[0][1:]])


def test_nothing_moves_without_gradients():
    """Sums of zero: no division by them, and the estimate waits."""
    for kind in fastopt.Prodigy, fastopt.DoG:
        w = np.array([3.0, 4.0])
        opt, late = kind(w), kind(w.copy())
        opt.step(np.zeros(2))
        np.testing.assert_array_equal(w, [3.0, 4.0])
        opt.step(np.ones(2))
        late.step(np.ones(2))
        np.testing.assert_allclose(w, late.params, rtol=1e-5)


@pytest.mark.parametrize("kind", [fastopt.Prodigy, fastopt.DoG])
@pytest.mark.parametrize(
    ("dtype", "settings"),
    [
        (np.float16, {"stochastic_rounding": True}),
        (np.float32, {"state_dtype": np.float16}),
        (np.float32, {"state_dtype": "8bit"}),
    ],
)
def test_low_precision_and_threads(kind, dtype, settings):
    """States of 16 and 8 bits hold what the estimate needs, with the same bits on any threads."""
    size = 20_000 if COMPILED else 300
    start = np.linspace(-2, 2, size)
    runs = []
    for executor, threads in (("serial", 1), ("parallel", 2), ("parallel", 3)):
        opt = kind(start.astype(dtype), executor=executor, **settings)
        with fastopt.threads(threads):
            for _ in range(60 if COMPILED else 12):
                opt.step(opt.params.copy())
        runs.append(opt)
    for other in runs[1:]:
        assert_same_run(other, runs[0])
    exact = kind(start.copy())
    for _ in range(runs[0].step_count):
        exact.step(exact.params.copy())
    actual, expected = (np.linalg.norm(np.asarray(o.params, float)) for o in (runs[0], exact))
    assert actual < 1.1 * expected  # with DoG in float16 much less: rounding errors are distance too


@compiled_suite_only
def test_convergence_without_a_rate():
    """A hundredfold scale of the problem changes nothing that a rate would have to be tuned for."""
    for scale in 0.01, 1.0, 100.0:
        for kind, settings, steps in ((fastopt.Prodigy, {}, 300), (fastopt.DoG, {}, 600)):
            w = np.array([5.0, -3.0, 1.0]) * scale
            opt = kind(w, **settings)
            for _ in range(steps):
                opt.step(2 * w)
            assert np.linalg.norm(w) < 0.1 * np.linalg.norm([5.0, 3.0, 1.0]) * scale, (scale, kind)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: fastopt.Prodigy(np.ones(2), eps=0.0), ["eps", "> 0", "0.0"]),
        (lambda: fastopt.Prodigy(np.ones(2), d0=0.0), ["d0", "> 0"]),
        (lambda: fastopt.Prodigy(np.ones(2), beta3=1.0), ["beta3", "[0, 1)", "1.0"]),
        (lambda: fastopt.Prodigy(np.ones(2), growth_rate=1.0), ["growth_rate", "> 1"]),
        (lambda: fastopt.Prodigy(np.ones(2), lr=lambda step: -1.0), ["lr", ">= 0", "-1.0"]),
        (lambda: fastopt.Prodigy(np.ones(2), d_coef=-1.0), ["d_coef", "> 0"]),
        (lambda: fastopt.DoG(np.ones(2), reps_rel=0.0), ["reps_rel", "> 0"]),
        (lambda: fastopt.DoG(np.ones(2), init_eta=0.0), ["init_eta", "> 0"]),
        (lambda: fastopt.DoG(np.ones(2), eps=0.0), ["eps", "> 0"]),
        (lambda: fastopt.Prodigy(np.ones(2), sparse="lazy"), ["sparse", "scale_by_prodigy"]),
        (lambda: fastopt.DoG(np.ones(2), sparse="exact"), ["sparse", "scale_by_dog"]),
        (lambda: fastopt.LAMB(np.ones(2), sparse="lazy"), ["sparse", "scale_by_trust_ratio"]),
        (
            lambda: fastopt.one_shot(fastopt.Prodigy)(
                np.ones(2),
                np.ones(2),
                **{name: np.ones(2) for name in ("exp_avg", "exp_avg_sq", "s", "initial_param")},
            ),
            ["prodigy_step", "carry", "keep an optimizer"],
        ),
    ],
)
def test_refusals(call, words):
    with refusal(ValueError, words):
        call()


def test_in_a_custom_chain():
    w, (g,) = problem(17, np.float64, 1)
    chained = fastopt.Optimizer(w.copy(), t.scale_by_prodigy(0.5, weight_decay=0.1))
    named = fastopt.Prodigy(w.copy(), lr=0.5, weight_decay=0.1)
    for opt in chained, named:
        opt.step(g)
    assert_same_bits(chained.params, named.params)
