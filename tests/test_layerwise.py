"""Norms of all arrays and of each: the formulas of the papers, beside NumPy in float64."""

import copy

import numpy as np
import pytest

import fastopt
from fastopt import chain
from fastopt import transforms as t
from tests.refusals import everywhere, refusal
from tests.support import COMPILED, DTYPES, assert_same_bits, assert_same_run, in_dtypes, problem

both_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
SHAPES = [(17,), (3, 5), (), (1,)]


def numbers(dtype, steps=3):
    drawn = [problem(shape, dtype, steps) for shape in SHAPES]
    return [w for w, _ in drawn], [[grads[k] for _, grads in drawn] for k in range(steps)]


def norm(array):
    return np.sqrt(np.sum(np.square(array, dtype=np.float64)))


def assert_near(params, expected, dtype):
    rtol = 2e-5 if dtype == np.float32 else 1e-12
    for w, exact in zip(params, expected, strict=True):
        np.testing.assert_allclose(w, exact, rtol=rtol, atol=rtol)


def falling(step):
    return 0.5 / (1 + step)


RULES = {
    "global": (
        lambda: t.clip_by_global_norm(falling),
        lambda step, w, g, all_: g * min(1.0, falling(step) / all_),
    ),
    "trust ratio": (
        lambda: t.scale_by_trust_ratio(falling, eps=0.25),
        lambda step, w, g, all_: g * falling(step) * norm(w) / (norm(g) + 0.25),
    ),
    "adaptive": (
        lambda: t.adaptive_grad_clip(falling, eps=0.5),
        lambda step, w, g, all_: g * min(1.0, falling(step) * max(norm(w), 0.5) / norm(g)),
    ),
}


@pytest.mark.parametrize("name", RULES)
@both_dtypes
@everywhere
def test_formulas(executor, dtype, name):
    make, rule = RULES[name]
    params, grads = numbers(dtype)
    for step_grads in grads:  # a norm of zero has a test of its own
        step_grads[2][...] = step_grads[3][...] = 0.5
    exact = [w.astype(np.float64) for w in params]
    opt = fastopt.Optimizer(
        params, chain(t.scale(3.0), make(), t.scale_by_learning_rate(0.1)), executor=executor
    )
    for step, step_grads in enumerate(grads):
        opt.step(step_grads)
        wide = [3.0 * g.astype(np.float64) for g in step_grads]
        all_ = norm(np.concatenate([g.ravel() for g in wide]))
        exact = [w - 0.1 * rule(step, w, g, all_) for w, g in zip(exact, wide, strict=True)]
    assert_near(params, exact, dtype)


@everywhere
def test_norms_of_zero(executor):
    """The trust ratio leaves the update, an adaptive limit is not zero, and zeros stay."""
    w, g = np.zeros(3), np.array([3.0, 0.0, 4.0])
    fastopt.Optimizer(w, t.scale_by_trust_ratio(), executor=executor).step(g)
    np.testing.assert_array_equal(w, -g)
    fastopt.Optimizer(w, t.scale_by_trust_ratio(), executor=executor).step(np.zeros(3))
    np.testing.assert_array_equal(w, -g)
    w = np.zeros(3)
    fastopt.Optimizer(w, t.adaptive_grad_clip(1.0, eps=0.5), executor=executor).step(g)
    np.testing.assert_allclose(w, -0.1 * g)
    for make in t.clip_by_global_norm, t.adaptive_grad_clip:
        fastopt.Optimizer(w, make(1.0), executor=executor).step(np.zeros(3))
    np.testing.assert_allclose(w, -0.1 * g)


@both_dtypes
def test_in_front_it_is_the_option(dtype):
    params, grads = numbers(dtype)
    rest = t.scale_by_adam(), t.scale_by_learning_rate(0.1)
    one = fastopt.Optimizer(copy.deepcopy(params), chain(t.clip_by_global_norm(0.5), *rest))
    other = fastopt.Optimizer(copy.deepcopy(params), chain(*rest), clip_norm=0.5)
    for step_grads in grads:
        one.step(step_grads)
        other.step(step_grads)
    for w, alike in zip(one.params, other.params, strict=True):
        assert_same_bits(w, alike)


def lamb(w, g, state, t, lr, beta1=0.9, beta2=0.999, eps=1e-6, weight_decay=0.0):
    """Algorithm 2 of arXiv:1904.00962, for one layer, in float64."""
    state["m"] = beta1 * state.get("m", 0.0) + (1 - beta1) * g
    state["v"] = beta2 * state.get("v", 0.0) + (1 - beta2) * g * g
    r = state["m"] / (1 - beta1**t) / (np.sqrt(state["v"] / (1 - beta2**t)) + eps)
    u = r + weight_decay * w
    return w - lr * norm(w) / norm(u) * u


def lars(w, g, state, t, lr, momentum=0.9, trust_coefficient=1e-3, weight_decay=0.0, nesterov=False):
    """Algorithm 1 of arXiv:1708.03888, with the norm of the sum as in optax, for one layer."""
    u = g + weight_decay * w
    scaled = lr * trust_coefficient * norm(w) / norm(u) * u
    m = state["m"] = momentum * state.get("m", 0.0) + scaled
    return w - (scaled + momentum * m if nesterov else m)


PAPERS = {
    "lamb": (fastopt.LAMB, lamb, {"lr": 0.05}),
    "lamb, decay": (fastopt.LAMB, lamb, {"lr": falling, "weight_decay": 0.1, "beta1": 0.5, "eps": 0.1}),
    "lars": (fastopt.LARS, lars, {"lr": 2.0, "trust_coefficient": 0.1}),
    "lars, decay": (
        fastopt.LARS,
        lars,
        {
            "lr": falling,
            "trust_coefficient": 0.5,
            "weight_decay": 0.1,
            "momentum": 0.5,
            "nesterov": True,
        },
    ),
}


@pytest.mark.parametrize(("paper", "dtype"), in_dtypes(PAPERS, ["lamb, decay", "lars, decay"]))
@everywhere
def test_papers(executor, dtype, paper):
    kind, rule, settings = paper
    params, grads = numbers(dtype)
    for step_grads in grads:
        step_grads[2][...] = step_grads[3][...] = 0.5
    exact, states = [w.astype(np.float64) for w in params], [{} for _ in params]
    opt = kind(params, **settings, executor=executor)
    lr = settings["lr"]
    for step, step_grads in enumerate(grads):
        opt.step(step_grads)
        now = {**settings, "lr": lr(step) if callable(lr) else lr}
        wide = (g.astype(np.float64) for g in step_grads)
        exact = [
            rule(w, g, state, step + 1, **now) for w, g, state in zip(exact, wide, states, strict=True)
        ]
    assert_near(params, exact, dtype)


@pytest.mark.parametrize("kind", [fastopt.LAMB, fastopt.LARS])
def test_groups_options_and_assignment(kind):
    """Settings of groups and all options have an effect; every array is a layer."""
    params, grads = numbers(np.float64)
    groups = [{"params": params[0]}, {"params": params[1], "lr": 0.5}]
    how = {"weight_decay": 0.01, "clip_value": 1.0, "executor": "reference"}
    opt = kind(groups, lr=0.1, average_decay=0.5, clip_norm=2.0, **how)
    alone = kind(params[1].copy(), lr=0.5, **how)
    opt.step(grads[0][:2])
    factor = min(1.0, 2.0 / norm(np.concatenate([g.ravel() for g in grads[0][:2]])))
    alone.step(factor * grads[0][1])
    np.testing.assert_allclose(params[1], alone.params, rtol=1e-12)
    opt.groups[1].lr = 0.25
    assert opt.groups[1].lr == 0.25
    opt.step(grads[1][:2])
    how["weight_decay"] = 0.1
    coupled = kind(params[2], decoupled_weight_decay=kind is fastopt.LARS, **how)
    coupled.step(np.array(0.5))


def test_lars_without_momentum():
    w = np.array([3.0, 4.0])
    fastopt.LARS(w, lr=1.0, momentum=0.0, trust_coefficient=0.1).step(np.array([0.0, 8.0]))
    np.testing.assert_allclose(w, [3.0, 3.5])
    with refusal(ValueError, ["nesterov", "momentum"]):
        fastopt.LARS(w, momentum=0.0, nesterov=True)


@pytest.mark.parametrize("kind", [fastopt.LAMB, fastopt.LARS])
@pytest.mark.parametrize("format_", ["8bit", np.float16])
def test_low_precision_and_threads(kind, format_):
    size = 20_000 if COMPILED else 300
    w, grads = problem(size, np.float32, 2)
    runs = []
    for executor, threads in (("serial", 1), ("parallel", 2), ("parallel", 3)):
        opt = kind(w.copy(), lr=0.1, state_dtype=format_, executor=executor)
        with fastopt.threads(threads):
            for g in grads:
                opt.step(g)
        runs.append(opt)
    for other in runs[1:]:
        assert_same_run(other, runs[0])


@pytest.mark.parametrize(
    ("make", "arguments", "words"),
    [
        (t.clip_by_global_norm, (0.0,), ["limit", "> 0"]),
        (t.scale_by_trust_ratio, (-1.0,), ["coefficient", "> 0"]),
        (t.scale_by_trust_ratio, (1.0, -1.0), ["eps", ">= 0"]),
        (t.adaptive_grad_clip, (0.0,), ["clipping", "> 0"]),
        (t.adaptive_grad_clip, (0.1, 0.0), ["eps", "> 0"]),
    ],
)
def test_bad_settings(make, arguments, words):
    with refusal(ValueError, words):
        make(*arguments)
    with refusal(ValueError, ["eps", "round to zero"]):
        fastopt.Optimizer(np.ones(2, np.float32), t.adaptive_grad_clip(1.0, eps=1e-60))
    for coefficient in 0.0, lambda step: -1.0:
        with refusal(ValueError, ["trust_coefficient", "> 0"]):
            fastopt.LARS(np.ones(2), trust_coefficient=coefficient)
