"""Transforms that users write: the same in every executor, or an error that names them."""

import math

import numba
import numpy as np
import pytest

import fastopt
from fastopt import transforms as t
from tests.support import DTYPES, EXECUTORS, assert_same_bits, in_dtypes, problem

everywhere = pytest.mark.parametrize("executor", EXECUTORS)
both_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)

SIZE = 70


def run(transform, dtype, executor, steps=3, size=SIZE):
    """The optimizer of a chain after some steps, with its start and gradients."""
    w, grads = problem(size, dtype, steps)
    opt = fastopt.Optimizer(w.copy(), transform, executor=executor)
    for g in grads:
        opt.step(g)
    return opt, w, grads


# The example of the documentation


def sign_update(update, param, state, hyper):
    (exp_avg,) = state
    beta, mix, one = hyper
    exp_avg = beta * exp_avg + mix * update
    return math.copysign(one, exp_avg), (exp_avg,)


def scale_by_sign(beta=0.9):
    return fastopt.Transform(
        sign_update, state={"exp_avg": 0.0}, hyper=lambda step: (beta, 1 - beta, 1.0)
    )


@everywhere
@both_dtypes
def test_sign_update(executor, dtype):
    chain = fastopt.chain(scale_by_sign(), t.scale_by_learning_rate(0.1))
    opt, w, grads = run(chain, dtype, executor)
    exp_avg = np.zeros_like(w)
    for g in grads:
        exp_avg = dtype(0.9) * exp_avg + dtype(1 - 0.9) * g
        w = w - dtype(0.1) * np.copysign(dtype(1), exp_avg)
    assert_same_bits(opt.params, w)
    assert_same_bits(opt.state["exp_avg"], exp_avg)


# What a transform may be made of: each stands beside the same in NumPy, in the dtype of its arrays

HALF = 0.5
WEIGHTS = (0.25, 3.0)
INFINITY, PI = math.inf, math.pi


def cube(x):
    return HALF * x * x * x


def shrink(x, by=0.125):
    return by * cube(x)


@numba.njit
def compiled_helper(x):
    return 0.3 * x


def literal(update, param, state, hyper):
    return 0.1 * update + 1e-3, state


def global_constant(update, param, state, hyper):
    return HALF * update * WEIGHTS[1], state


def helpers(update, param, state, hyper):
    return shrink(update) + shrink(param, 0.7), state


def jitted_helper(update, param, state, hyper):
    return compiled_helper(update), state


@numba.njit
def jitted(update, param, state, hyper):
    return 0.3 * update, state


def branches(update, param, state, hyper):
    if abs(param) > 0.5 and update != 0.0:
        return -update, state
    return 0.1 * update, state


def loop(update, param, state, hyper):
    total = update
    for _ in range(3):
        total = 0.7 * total + param
    return total, state


def division(update, param, state, hyper):
    return 0.1 / update, state


def root(update, param, state, hyper):
    return math.sqrt(update), state


def named_constants(update, param, state, hyper):
    return min(update, INFINITY) * PI, state


def closure(factor):
    def inner(update):
        return factor * update

    def closure_update(update, param, state, hyper):
        return inner(update) + factor, state

    return closure_update


scope = {}
exec(  # as in a REPL: there is no file with the source
    """
def helper(x):
    return 0.1 * x

def typed_in(update, param, state, hyper):
    return helper(update) + 0.3, state
""",
    scope,
)


def looped(n, u, w):
    for _ in range(3):
        u = n(0.7) * u + w
    return u


SAME = [
    (literal, lambda n, u, w: n(0.1) * u + n(1e-3)),
    (global_constant, lambda n, u, w: n(0.5) * u * n(3.0)),
    (helpers, lambda n, u, w: n(0.125) * (n(0.5) * u * u * u) + n(0.7) * (n(0.5) * w * w * w)),
    (jitted_helper, lambda n, u, w: n(0.3) * u),
    (jitted, lambda n, u, w: n(0.3) * u),
    (branches, lambda n, u, w: np.where((abs(w) > 0.5) & (u != 0), -u, n(0.1) * u)),
    (loop, looped),
    (division, lambda n, u, w: n(0.1) / u),
    (root, lambda n, u, w: np.sqrt(u)),
    (named_constants, lambda n, u, w: u * n(np.pi)),
    (closure(0.3), lambda n, u, w: n(0.3) * u + n(0.3)),
    (closure(0.7), lambda n, u, w: n(0.7) * u + n(0.7)),
    (scope["typed_in"], lambda n, u, w: n(0.1) * u + n(0.3)),
    (lambda update, param, state, hyper: (0.3 * update, state), lambda n, u, w: n(0.3) * u),
]


# Compiled, a third is in float64, which is what constants are in anyway.
NAMED = {f"{update.__name__}{i}": (update, formula) for i, (update, formula) in enumerate(SAME)}


@everywhere
@pytest.mark.parametrize(("same", "dtype"), in_dtypes(NAMED, [*NAMED][::3]))
def test_what_a_transform_may_be_made_of(same, dtype, executor):
    update, formula = same
    opt, w, (g,) = run(fastopt.Transform(update), dtype, executor, steps=1)
    with np.errstate(all="ignore"):
        expected = w - formula(dtype, g, w)
    assert expected.dtype == dtype
    np.testing.assert_array_equal(opt.params, expected, strict=True)


NAMES = "exp", "tanh", "log1p", "sin", "cos", "atan", "fabs"
FUNCTIONS = {name: getattr(math, name) for name in NAMES}


@everywhere
@pytest.mark.parametrize(("function", "dtype"), in_dtypes(FUNCTIONS, NAMES[:2]))
def test_math_stays_in_the_dtype(function, dtype, executor):
    """Libraries differ by a few last bits here; float64 in a float32 loop would be an error."""

    def math_update(update, param, state, hyper):
        return function(update), state

    opt, _, _ = run(fastopt.Transform(math_update), dtype, executor, steps=0)
    opt.params[:] = 0.0
    g = np.linspace(-0.9, 2.0, SIZE).astype(dtype)
    opt.step(g)
    expected = np.array([function(x) for x in g.tolist()])
    np.testing.assert_allclose(-opt.params, expected, rtol=8 * np.finfo(dtype).eps)


@everywhere
def test_math_through_its_module(executor):
    def tanh_update(update, param, state, hyper):
        return PI * math.tanh(update) + math.pow(param, 2.0), state

    opt, w, (g,) = run(fastopt.Transform(tanh_update), np.float32, executor, steps=1)
    expected = w - (np.pi * np.tanh(g.astype(float)) + w.astype(float) ** 2)
    np.testing.assert_allclose(opt.params, expected, rtol=1e-5, atol=1e-6)


# Hyperparameters, states, and chains


@everywhere
@both_dtypes
def test_hyper_changes_with_the_step(executor, dtype):
    def product(update, param, state, hyper):
        a, b = hyper
        return a * update + b, state

    transform = fastopt.Transform(product, hyper=lambda step: (0.1 / (step + 1), step))
    opt, w, grads = run(transform, dtype, executor)
    for step, g in enumerate(grads):
        w = w - (dtype(0.1 / (step + 1)) * g + dtype(step))
    assert_same_bits(opt.params, w)


@everywhere
def test_states_have_their_initial_values(executor):
    def count(update, param, state, hyper):
        first, second = state
        return first, (first + 1.0, second * 2.0)

    opt, w, _ = run(fastopt.Transform(count, {"a": 0.0, "b": 0.5}), np.float32, executor)
    assert_same_bits(opt.params, w - np.float32(0) - np.float32(1) - np.float32(2))
    assert set(opt.state["a"]) == {3.0}
    assert set(opt.state["b"]) == {4.0}


@everywhere
@both_dtypes
def test_projection_after_the_update(executor, dtype):
    def project(new, param, state, hyper):
        low, high = hyper
        return min(max(new, low), high), state

    bounds = fastopt.Transform(project, hyper=(-0.5, 0.75), after=True)
    opt, w, grads = run(fastopt.chain(t.scale(0.3), bounds), dtype, executor)
    for g in grads:
        w = np.clip(w - dtype(0.3) * g, dtype(-0.5), dtype(0.75))
    assert_same_bits(opt.params, w)


@everywhere
def test_two_transforms_after_the_update_see_the_old_parameter(executor):
    def halfway(new, param, state, hyper):
        return 0.5 * (new + param), state

    def average(new, param, state, hyper):
        (mean,) = state
        mean = 0.75 * mean + 0.25 * new
        return new, (mean,)

    after = (
        fastopt.Transform(halfway, after=True),
        fastopt.Transform(average, {"average": 0.0}, after=True),
    )
    opt, w, grads = run(fastopt.chain(*after), np.float64, executor)
    mean = np.zeros_like(w)
    for g in grads:
        w = 0.5 * ((w - g) + w)
        mean = 0.75 * mean + 0.25 * w
    assert_same_bits(opt.params, w)
    assert_same_bits(opt.state["average"], mean)


def test_transforms_after_the_update_stand_at_the_end():
    after = fastopt.Transform(literal, after=True)
    with pytest.raises(ValueError, match="after=True must stand at the end"):
        fastopt.chain(after, t.scale(0.1))


@everywhere
def test_an_empty_chain_is_gradient_descent(executor):
    opt, w, (g,) = run(fastopt.chain(), np.float32, executor, steps=1)
    assert_same_bits(opt.params, w - g)


@everywhere
def test_chains_in_chains_are_their_parts(executor):
    parts = t.clip_by_value(0.5), t.scale_by_rms(0.8), t.trace(0.7), t.scale_by_learning_rate(0.1)
    flat, _, _ = run(fastopt.chain(*parts), np.float32, executor)
    inner = fastopt.chain(fastopt.chain(), fastopt.chain(*parts[:1]), fastopt.chain(*parts[1:3]))
    nested, _, _ = run(fastopt.chain(inner, parts[3]), np.float32, executor)
    assert list(nested.chain) == list(parts)
    assert_same_bits(nested.params, flat.params)


@everywhere
def test_states_of_one_name_get_numbers(executor):
    parts = t.trace(0.5), t.trace(0.25), t.trace(0.125)
    opt, w, (g, h) = run(fastopt.chain(*parts), np.float64, executor, steps=2)
    assert list(opt.state) == ["momentum_buffer", "momentum_buffer_1", "momentum_buffer_2"]
    first = 0.5 * g + h
    second = 0.25 * g + first
    assert_same_bits(opt.state["momentum_buffer"], first)
    assert_same_bits(opt.state["momentum_buffer_1"], second)
    assert_same_bits(opt.state["momentum_buffer_2"], 0.125 * g + second)
    assert_same_bits(opt.params, w - g - (0.125 * g + second))


def test_one_transform_in_two_optimizers_keeps_its_numbers():
    slow, w, (g,) = run(t.scale(0.1), np.float64, "serial", steps=1)
    fast, _, _ = run(t.scale(0.7), np.float64, "serial", steps=1)
    slow.step(g)
    assert_same_bits(slow.params, w - 0.1 * g - 0.1 * g)
    assert_same_bits(fast.params, w - 0.7 * g)


def test_source_is_the_fused_loop():
    opt, _, _ = run(fastopt.chain(t.trace(0.9), t.scale(0.1)), np.float32, "serial")
    assert "def kernel(" in opt.source
    assert opt.source.index("# trace_update") < opt.source.index("# scale_update")


def test_attributes_and_representations():
    chain = fastopt.chain(t.clip_by_value(0.5), t.scale_by_learning_rate(0.1))
    assert repr(chain) == "chain(clip_by_value(limit=0.5), scale_by_learning_rate(lr=0.1))"
    opt = fastopt.Optimizer(np.zeros(3), chain, executor="serial")
    assert repr(opt) == f"Optimizer(<3 elements>, {chain!r}, executor='serial', step_count=0)"
    assert opt.chain is chain
    assert opt.executor == "serial"
    named = fastopt.RMSProp([np.zeros(2), np.zeros(3)], lr=0.5)
    assert repr(named) == "RMSProp(<5 elements>, lr=0.5, step_count=0)"
    assert repr(t.scale_by_rms(0.5, eps_inside_sqrt=False)) == (
        "scale_by_rms(beta=0.5, eps_inside_sqrt=False)"
    )
    assert repr(t.scale(lambda step: 0.1)).startswith("scale(factor=<schedule ")
    assert repr(fastopt.Transform(scaled, hyper=(0.5,))) == "scaled(0.5)"
    assert repr(fastopt.Transform(scaled, hyper=lambda step: (0.5,))) == "scaled(per step)"


def scaled(update, param, state, hyper):
    return hyper[0] * update, state
