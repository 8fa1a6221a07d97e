"""Dialects without the libraries: names and defaults, and the algebra of those that are no longer made.

`tests/interop` compares the others with the libraries themselves.
"""

import inspect

import numpy as np
import pytest

import fastopt
from fastopt.optimizers.dialects import DIALECTS
from tests.oracle_parts import MP, exact
from tests.refusals import refusal
from tests.support import assert_same_bits, interpreted_suite_only, problem

STEPS = 4

root = np.frompyfunc(MP.sqrt, 1, 1)

# For each library's defaults, as its documentation has them: the settings here.
DEFAULTS = [
    (fastopt.RMSProp, "torch", {}, {"lr": 1e-2, "beta": 0.99, "eps": 1e-8, "eps_inside_sqrt": False}),
    (fastopt.RMSProp, "keras", {}, {"lr": 1e-3, "beta": 0.9, "eps": 1e-7, "lr_in_momentum": True}),
    (fastopt.RMSProp, "tensorflow1", {"learning_rate": 0.5},
     {"lr": 0.5, "beta": 0.9, "eps": 1e-10, "initial_accumulator": 1.0, "lr_in_momentum": True}),
    (fastopt.RMSProp, "optax", {"learning_rate": 0.5}, {"eps": 1e-8, "lr_in_momentum": True}),
    (fastopt.RMSProp, "timm", {},
     {"lr": 1e-2, "beta": 0.9, "eps": 1e-10, "initial_accumulator": 1.0, "lr_in_momentum": True}),
    (fastopt.RMSProp, "graves", {},
     {"lr": 1e-4, "beta": 0.95, "eps": 1e-4, "momentum": 0.9}
     | {"centered": True, "lr_in_momentum": True}),
    (fastopt.SGD, "torch", {}, {"lr": 1e-3, "momentum": 0.0, "dampening": 0.0, "nesterov": False}),
    (fastopt.SGD, "keras", {}, {"lr": 1e-2, "momentum": 0.0, "lr_in_momentum": True}),
    (fastopt.SGD, "tensorflow1", {"learning_rate": 0.5}, {"lr": 0.5, "momentum": 0.0}),
    (fastopt.SGD, "optax", {"learning_rate": 0.5}, {"lr": 0.5, "momentum": 0.0}),
    (fastopt.AdaGrad, "torch", {}, {"lr": 1e-2, "eps": 1e-10, "eps_inside_sqrt": False}),
    (fastopt.AdaGrad, "keras", {}, {"lr": 1e-3, "eps": 1e-7, "initial_accumulator": 0.1}),
    (fastopt.AdaGrad, "tensorflow1", {"learning_rate": 0.5}, {"eps": 0.0, "initial_accumulator": 0.1}),
    (fastopt.AdaGrad, "optax", {"learning_rate": 0.5},
     {"eps": 1e-7, "initial_accumulator": 0.1, "guard_zero": True}),
    (fastopt.Adam, "torch", {}, {"lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8}),
    (fastopt.Adam, "keras", {}, {"lr": 1e-3, "beta1": 0.9, "beta2": 0.999}),
    (fastopt.Adam, "tensorflow1", {}, {"lr": 1e-3, "beta1": 0.9, "beta2": 0.999}),
    (fastopt.Adam, "optax", {"learning_rate": 0.5}, {"lr": 0.5, "eps": 1e-8}),
    (fastopt.AdamW, "torch", {}, {"weight_decay": 1e-2, "decoupled_weight_decay": True}),
    (fastopt.AdamW, "keras", {}, {"weight_decay": 4e-3, "decoupled_weight_decay": True}),
    (fastopt.AdamW, "optax", {"learning_rate": 0.5}, {"lr": 0.5, "weight_decay": 1e-4}),
    (fastopt.NAdam, "torch", {}, {"lr": 2e-3, "eps": 1e-8, "momentum_decay": 4e-3}),
    (fastopt.NAdam, "keras", {}, {"lr": 1e-3, "eps": 1e-7, "momentum_decay": 1.0}),
    (fastopt.NAdam, "optax", {"learning_rate": 0.5}, {"lr": 0.5, "momentum_decay": None}),
    (fastopt.Lion, "keras", {}, {"lr": 1e-3, "beta1": 0.9, "beta2": 0.99}),
    (fastopt.Lion, "optax", {"learning_rate": 0.5}, {"lr": 0.5, "weight_decay": 1e-3}),
    (fastopt.AdaMax, "torch", {}, {"lr": 2e-3, "eps": 1e-8, "eps_inside_max": True}),
    (fastopt.AdaMax, "keras", {}, {"lr": 1e-3, "eps": 1e-7, "eps_inside_max": False}),
    (fastopt.AdaMax, "optax", {"learning_rate": 0.5}, {"lr": 0.5, "eps": 1e-8}),
    (fastopt.AdaDelta, "torch", {}, {"lr": 1.0, "rho": 0.9, "eps": 1e-6}),
    (fastopt.AdaDelta, "keras", {}, {"lr": 1e-3, "rho": 0.95, "eps": 1e-7}),
    (fastopt.AdaDelta, "optax", {"learning_rate": 0.5}, {"lr": 0.5, "rho": 0.9, "eps": 1e-6}),
    (fastopt.RAdam, "torch", {}, {"lr": 1e-3, "threshold": 5.0}),
    (fastopt.RAdam, "optax", {"learning_rate": 0.5}, {"lr": 0.5, "eps": 1e-8, "threshold": 5.0}),
    (fastopt.AdaBelief, "optax", {"learning_rate": 0.5}, {"eps": 1e-16, "eps_root": 1e-16}),
    (fastopt.Yogi, "optax", {"learning_rate": 0.5}, {"eps": 1e-3, "initial_average": 1e-6}),
    (fastopt.QHAdam, "qhoptim", {}, {"beta1": 0.9, "beta2": 0.999, "nu1": 1.0, "nu2": 1.0}),
    (fastopt.AdEMAMix, "optax", {"learning_rate": 0.5}, {"beta3": 0.9999, "alpha": 5.0}),
    (fastopt.Adan, "optax", {"learning_rate": 0.5},
     {"beta2": 0.92, "eps_root": 1e-8, "look_ahead": 1 - 0.92}),
    (fastopt.Rprop, "torch", {}, {"lr": 1e-2, "step_size_min": 1e-6, "step_size_max": 50}),
    (fastopt.ASGD, "torch", {}, {"lr": 1e-2, "lambd": 1e-4, "alpha": 0.75, "t0": 1e6}),
    (fastopt.LARS, "optax", {"learning_rate": 0.5}, {"lr": 0.5, "trust_coefficient": 1e-3}),
    (fastopt.LAMB, "optax", {"learning_rate": 0.5}, {"lr": 0.5, "eps": 1e-6, "weight_decay": 0.0}),
    (fastopt.Prodigy, "optax", {}, {"lr": 1.0, "d0": 1e-6, "bias_correction": True}),
]  # fmt: skip


@pytest.mark.parametrize(("optimizer", "dialect", "arguments", "expected"), DEFAULTS)
def test_defaults(optimizer, dialect, arguments, expected):
    opt = optimizer.like(dialect, np.ones(3), executor="reference", **arguments)
    assert type(opt) is optimizer
    assert {name: getattr(opt, name) for name in expected} == expected
    # What is not named above has fastopt's own default.
    defaults = {name: p.default for name, p in inspect.signature(optimizer).parameters.items()}
    for name in defaults.keys() - expected.keys() - {"params", "shared", "lr", "eps", "weight_decay"}:
        assert getattr(opt, name) == defaults[name], name


def test_every_dialect_is_in_the_table():
    known = {(name, dialect) for name, dialects in DIALECTS.items() for dialect in dialects}
    assert {(optimizer.__name__, dialect) for optimizer, dialect, _, _ in DEFAULTS} == known


@pytest.mark.parametrize(
    ("optimizer", "dialect", "arguments", "expected"),
    [
        (fastopt.RMSProp, "torch", {"alpha": 0.5}, {"beta": 0.5}),
        (fastopt.RMSProp, "keras", {"rho": 0.5, "epsilon": 0.25}, {"beta": 0.5, "eps": 0.25}),
        (fastopt.RMSProp, "keras", {"clipvalue": 2.0, "global_clipnorm": 3.0},
         {"clip_value": 2.0, "clip_norm": 3.0}),
        (fastopt.RMSProp, "tensorflow1", {"learning_rate": 1.0, "decay": 0.5}, {"beta": 0.5}),
        (fastopt.RMSProp, "optax", {"learning_rate": 1.0, "initial_scale": 0.5, "eps_in_sqrt": False},
         {"initial_accumulator": 0.5, "eps_inside_sqrt": False}),
        (fastopt.RMSProp, "optax", {"learning_rate": 1.0, "nesterov": True}, {"nesterov": False}),
        (fastopt.RMSProp, "timm", {"decoupled_decay": True}, {"decoupled_weight_decay": True}),
        (fastopt.SGD, "keras", {"nesterov": True}, {"nesterov": False}),
        (fastopt.SGD, "tensorflow1", {"learning_rate": 1.0, "momentum": 0.5, "use_nesterov": True},
         {"momentum": 0.5, "nesterov": True}),
        (fastopt.Adam, "torch", {"betas": (0.5, 0.25), "maximize": True},
         {"beta1": 0.5, "beta2": 0.25, "maximize": True}),
        (fastopt.Adam, "optax", {"learning_rate": 1.0, "b1": 0.5, "eps": 0.0, "eps_root": 0.25},
         {"beta1": 0.5, "eps": 0.25, "eps_inside_sqrt": True}),
        (fastopt.AdamW, "torch", {"average_decay": 0.5}, {"average_decay": 0.5}),  # a shared option
        (fastopt.RAdam, "optax", {"learning_rate": 1.0, "eps": 0.0, "eps_root": 0.25, "threshold": 4.0},
         {"eps": 0.25, "eps_inside_sqrt": True, "threshold": 4.0}),
        (fastopt.Adan, "optax", {"learning_rate": 1.0, "b2": 0.25},
         {"beta2": 0.25, "look_ahead": 0.75}),
        (fastopt.Rprop, "torch", {"etas": (0.25, 2.0), "step_sizes": (0.5, 3.0)},
         {"eta_minus": 0.25, "eta_plus": 2.0, "step_size_min": 0.5, "step_size_max": 3.0}),
        (fastopt.QHAdam, "qhoptim", {"nus": (0.5, 0.25), "decouple_weight_decay": True},
         {"nu1": 0.5, "nu2": 0.25, "decoupled_weight_decay": True}),
        (fastopt.LAMB, "optax", {"learning_rate": 1.0, "eps": 0.0, "eps_root": 0.25},
         {"eps": 0.25, "eps_inside_sqrt": True}),
        (fastopt.LARS, "optax", {"learning_rate": 1.0, "momentum": 0.0, "nesterov": True},
         {"momentum": 0.0, "nesterov": False}),
    ],
)  # fmt: skip
def test_names(optimizer, dialect, arguments, expected):
    opt = optimizer.like(dialect, np.ones(3), executor="reference", **arguments)
    assert {name: getattr(opt, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("optimizer", "dialect", "arguments", "error", "words"),
    [
        (fastopt.RMSProp, "jax", {}, ValueError, ["dialect", "torch", "keras", "graves", "'jax'"]),
        (fastopt.Adam, "graves", {}, ValueError, ["dialect", "torch", "Adam", "'graves'"]),
        (fastopt.RMSProp, "torch", {"rho": 0.9}, TypeError, ["RMSProp.like('torch')", "rho", "alpha"]),
        (fastopt.RMSProp, "keras", {"lr": 0.9}, TypeError, ["like('keras')", "lr", "learning_rate"]),
        (fastopt.RMSProp, "graves", {"centered": False}, TypeError, ["like('graves')", "centered"]),
        (fastopt.RMSProp, "optax", {}, TypeError, ["optax's RMSProp needs", "learning_rate"]),
        (fastopt.RMSProp, "torch", {"alpha": 1.0}, ValueError, ["beta", "[0, 1)", "1.0"]),
        (fastopt.Adam, "optax", {"learning_rate": 1.0, "eps_root": 1e-8}, ValueError,
         ["eps must be 0", "eps_root"]),
    ],
)  # fmt: skip
def test_errors(optimizer, dialect, arguments, error, words):
    w = np.ones(3)
    with refusal(error, words):
        optimizer.like(dialect, w, **arguments)
    assert (w == 1).all()


def assert_like(opt, rates, w, grads, formula):
    """Each step within a few ULP of `formula`, started from the same numbers."""
    for rate, g in zip(rates, grads, strict=True):
        opt.lr = rate
        previous = {"params": w.copy()} | {name: state.copy() for name, state in opt.state.items()}
        opt.step(g)
        now = {"params": w, **opt.state}
        expected = formula(rate, exact(g), **{name: exact(value) for name, value in previous.items()})
        assert expected.keys() == now.keys()
        for name, value in now.items():
            unit = np.spacing(np.maximum(abs(value), abs(previous[name])))
            error = float((abs(exact(value) - expected[name]) / unit).max())
            assert error <= 4, (name, error)


def inputs():
    """Gradients that a variance and a momentum can be computed from without cancellation."""
    w, grads = problem(65, np.float64, STEPS)
    grads = [(-1.0) ** t * (1 + abs(g) % 2) for t, g in enumerate(grads)]
    return 3 + abs(w), grads, [0.1, 0.02, 0.0, 0.05]


@interpreted_suite_only  # the chains are those of tests/cases.py
@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.75])
@pytest.mark.parametrize("decay", [{}, {"weight_decay": 0.25}, {"decoupled_decay": True}])
@pytest.mark.parametrize("lr_in_momentum", [None, False])
def test_timm(centered, momentum, decay, lr_in_momentum):
    """RMSpropTF: as in TensorFlow, with decay before everything else."""
    decay = {"weight_decay": 0.25, **decay} if decay else {}
    inside = lr_in_momentum is None  # the default
    w, grads, rates = inputs()
    settings = {"alpha": 0.75, "eps": 0.125, "momentum": momentum, "centered": centered, **decay}
    settings |= {} if inside else {"lr_in_momentum": False}

    def rmsprop_tf(lr, grad, params, square_avg, grad_avg=None, momentum_buffer=None):
        lr, wd = exact(lr), decay.get("weight_decay", 0)
        if decay.get("decoupled_decay"):
            params = params * (1 - lr * wd)
        else:
            grad = grad + wd * params
        square_avg = square_avg + 0.25 * (grad**2 - square_avg)
        states = {"square_avg": square_avg}
        avg = square_avg
        if centered:
            states["grad_avg"] = grad_avg = grad_avg + 0.25 * (grad - grad_avg)
            avg = square_avg - grad_avg**2
        step = grad / root(avg + 0.125)
        if momentum and inside:
            states["momentum_buffer"] = step = momentum * momentum_buffer + lr * step
        elif momentum:
            states["momentum_buffer"] = step = momentum * momentum_buffer + step
        return {"params": params - (step if momentum and inside else lr * step), **states}

    opt = fastopt.RMSProp.like("timm", w, **settings)
    assert_same_bits(opt.state["square_avg"], np.ones_like(w))
    assert_like(opt, rates, w, grads, rmsprop_tf)


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.75])
def test_tensorflow1(centered, momentum):
    """ApplyRMSProp and ApplyCenteredRMSProp of tf.compat.v1.train.RMSPropOptimizer."""
    w, grads, rates = inputs()

    def apply_rms_prop(lr, grad, params, square_avg, grad_avg=None, momentum_buffer=None):
        ms = square_avg + (grad**2 - square_avg) * 0.25
        states = {"square_avg": ms}
        denominator = ms + 0.125
        if centered:
            mg = grad_avg + (grad - grad_avg) * 0.25
            states["grad_avg"] = mg
            denominator = ms - mg**2 + 0.125
        mom = exact(lr) * grad / root(denominator)
        if momentum:
            mom = states["momentum_buffer"] = momentum_buffer * momentum + mom
        return {"params": params - mom, **states}

    settings = {"decay": 0.75, "momentum": momentum, "epsilon": 0.125, "centered": centered}
    opt = fastopt.RMSProp.like("tensorflow1", w, learning_rate=0.1, **settings)
    assert_same_bits(opt.state["square_avg"], np.ones_like(w))
    assert_like(opt, rates, w, grads, apply_rms_prop)


def test_graves():
    """Equations 38 to 45 of arXiv:1308.0850, with the signs of the movement as in print."""
    w, grads, rates = inputs()

    def equations(lr, epsilon, params, square_avg, grad_avg, momentum_buffer):
        n = 0.75 * square_avg + 0.25 * epsilon**2
        g = 0.75 * grad_avg + 0.25 * epsilon
        delta = 0.5 * -momentum_buffer - exact(lr) * epsilon / root(n - g**2 + 0.125)
        states = {"square_avg": n, "grad_avg": g, "momentum_buffer": -delta}
        return {"params": params + delta, **states}

    opt = fastopt.RMSProp.like("graves", w, beta=0.75, momentum=0.5, eps=0.125)
    assert not any(state.any() for state in opt.state.values())
    assert_like(opt, rates, w, grads, equations)


def test_the_first_step_of_torch_is_not_dampened():
    w = np.zeros(1)
    opt = fastopt.SGD.like("torch", w, lr=1.0, momentum=0.5, dampening=0.75)
    passed = []
    for _ in range(3):
        opt.step(np.ones(1))
        passed.append(-w[0])
    # m = 1, 0.5 + 0.25, 0.375 + 0.25
    np.testing.assert_array_equal(passed, [1.0, 1.75, 2.375])


@pytest.mark.parametrize("dialect", ["keras", "tensorflow1"])
def test_epsilon_beside_the_uncorrected_root(dialect):
    """alpha_t = alpha sqrt(1 - beta2^t) / (1 - beta1^t), theta -= alpha_t m / (sqrt(v) + epsilon)."""
    w, grads, rates = inputs()
    names = {"keras": ("beta_1", "beta_2"), "tensorflow1": ("beta1", "beta2")}[dialect]
    settings = {**dict(zip(names, (0.5, 0.75), strict=True)), "epsilon": 0.125, "learning_rate": 1.0}
    opt = fastopt.Adam.like(dialect, w, **settings)

    def adam(lr, g, params, exp_avg, exp_avg_sq):
        t = exact(opt.step_count)
        m, v = 0.5 * exp_avg + 0.5 * g, 0.75 * exp_avg_sq + 0.25 * g**2
        alpha = exact(lr) * (1 - exact(0.75) ** t) ** 0.5 / (1 - exact(0.5) ** t)
        return {"params": params - alpha * m / (root(v) + 0.125), "exp_avg": m, "exp_avg_sq": v}

    assert_like(opt, rates, w, [abs(g) for g in grads], adam)
