"""Oracles: the optimizers' formulas, typed from their definitions and without the package.

An oracle is a function ``(w, g, state, t, **settings) -> (w, state)`` on whole arrays, with new
arrays as its result; ``t`` counts from 0 and ``state`` is empty before the first step. The dtype of
the arrays decides how it computes: float32 and float64 round after every operation, in the order that
the package promises, so that results can be compared to the last bit; arrays of mpmath numbers
(`oracle_parts.exact`) are good for 50 digits. The result may hold states that the settings do not
need.
"""

import numpy as np

from tests.oracle_parts import Arithmetic, gathered, incoming, outgoing, root, sign
from tests.oracles_adam import (  # noqa: F401  # every optimizer's oracle is found here, by its name
    adabelief,
    adam,
    adamax,
    adamw,
    adan,
    ademamix,
    nadam,
    qhadam,
    radam,
    yogi,
)


def sgd(
    w,
    g,
    state,
    t,
    *,
    lr=1e-2,
    momentum=None,
    dampening=0.0,
    nesterov=False,
    lr_in_momentum=False,
    **shared,
):
    """``m = momentum m + (1 - dampening) g``, ``w = w - lr m``; without momentum ``w = w - lr g``."""
    a = Arithmetic(w.dtype)
    settings = {"lr": lr, "momentum": momentum, "dampening": dampening, "nesterov": nesterov}
    return gathered(
        a, w, incoming(a, w, g, **shared), state, **settings, lr_in_momentum=lr_in_momentum, **shared
    )


def rmsprop(
    w,
    g,
    state,
    t,
    *,
    lr=1e-3,
    beta=0.9,
    eps=1e-8,
    eps_inside_sqrt=True,
    centered=False,
    momentum=None,
    nesterov=False,
    lr_in_momentum=False,
    bias_correction=False,
    initial_accumulator=0.0,
    **shared,
):
    """``v = beta v + (1 - beta) g^2``, ``w = w - lr g / sqrt(v + eps)``, and all variants."""
    a = Arithmetic(w.dtype)
    past, present = a.average(beta)
    g = incoming(a, w, g, **shared)

    v = state.get("square_avg", a.full(w, initial_accumulator))
    v = past * v + present * g * g
    new = {"square_avg": v}
    unbias = a.unbias(beta, t) if bias_correction else a.rounded(1.0)
    square = unbias * v
    if centered:
        mean = past * state.get("grad_avg", a.full(w, 0.0)) + present * g
        new["grad_avg"] = mean
        mean = unbias * mean
        square = square - mean * mean
        square = np.where(square < 0, a.rounded(0.0), square)
    u = g / root(a, square, eps, eps_inside_sqrt)
    settings = {"lr": lr, "momentum": momentum, "nesterov": nesterov, "lr_in_momentum": lr_in_momentum}
    w, buffer = gathered(a, w, u, state, **settings, **shared)
    return w, new | buffer


def adagrad(
    w,
    g,
    state,
    t,
    *,
    lr=1e-2,
    eps=1e-10,
    eps_inside_sqrt=True,
    lr_decay=0.0,
    initial_accumulator=0.0,
    guard_zero=False,
    **shared,
):
    """``s = s + g^2``, ``w = w - lr / (1 + t lr_decay) g / sqrt(s + eps)``, guarded: w if s = 0."""
    a = Arithmetic(w.dtype)
    g = incoming(a, w, g, **shared)
    s = state.get("sum", a.full(w, initial_accumulator)) + g * g
    rate = a.host(lr) / (1 + t * a.host(lr_decay))
    guarded = (s == 0) & guard_zero
    u = g / root(a, np.where(guarded, a.full(w, 1.0), s), eps, eps_inside_sqrt)
    return outgoing(a, w, np.where(guarded, a.full(w, 0.0), u), rate, **shared), {"sum": s}


def lion(w, g, state, t, *, lr=1e-4, beta1=0.9, beta2=0.99, decoupled_weight_decay=True, **shared):
    """Algorithm 2 of arXiv:2302.06675: the direction first, then the average."""
    a = Arithmetic(w.dtype)
    shared["decoupled_weight_decay"] = decoupled_weight_decay
    g = incoming(a, w, g, **shared)
    m = state.get("exp_avg", a.full(w, 0.0))
    past, present = a.average(beta1)
    direction = sign(a, past * m + present * g)
    past, present = a.average(beta2)
    return outgoing(a, w, direction, lr, **shared), {"exp_avg": past * m + present * g}


def adadelta(w, g, state, t, *, lr=1.0, rho=0.9, eps=1e-6, **shared):
    """Algorithm 1 of arXiv:1212.5701, times a learning rate."""
    a = Arithmetic(w.dtype)
    g = incoming(a, w, g, **shared)
    past, present = a.average(rho)
    squares = past * state.get("square_avg", a.full(w, 0.0)) + present * g * g
    deltas = state.get("acc_delta", a.full(w, 0.0))
    d = a.sqrt(deltas + a.rounded(eps)) / a.sqrt(squares + a.rounded(eps)) * g
    deltas = past * deltas + present * d * d
    return outgoing(a, w, d, lr, **shared), {"square_avg": squares, "acc_delta": deltas}


def rprop(
    w,
    g,
    state,
    t,
    *,
    lr=1e-2,
    eta_minus=0.5,
    eta_plus=1.2,
    step_size_min=1e-6,
    step_size_max=50.0,
    **shared,
):
    """iRprop-, algorithm 4 of Igel and Huesken 2000; decoupled decay takes lr w."""
    a = Arithmetic(w.dtype)
    g = incoming(a, w, g, **shared)
    s = state.get("step_size", a.full(w, lr))
    agreement = np.sign(g) * np.sign(state.get("prev", a.full(w, 0.0)))
    s = np.where(agreement > 0, a.rounded(eta_plus) * s, s)
    s = np.where(agreement < 0, a.rounded(eta_minus) * s, s)
    s = np.clip(s, a.rounded(step_size_min), a.rounded(step_size_max))
    g = np.where(agreement < 0, a.rounded(0.0), g)
    u = sign(a, g) * s
    if shared.get("weight_decay") and shared.get("decoupled_weight_decay"):
        u = u + a.rounded(a.host(shared["weight_decay"]) * a.host(lr)) * w
    return w - u, {"prev": g, "step_size": s}


def asgd(w, g, state, t, *, lr=1e-2, lambd=1e-4, alpha=0.75, t0=1e6, **shared):
    """The rate of arXiv:1107.2490, and Polyak and Juditsky's average from step t0 on."""
    a = Arithmetic(w.dtype)
    g = incoming(a, w, g, **shared)
    u = g + a.rounded(lambd) * w
    rate = a.host(lr) / (1 + a.host(lambd) * a.host(lr) * t) ** a.host(alpha)
    w = outgoing(a, w, u, rate, **shared)
    if t - t0 <= 1:
        return w, {"ax": w}
    mean = state["ax"]
    return w, {"ax": mean + a.rounded(1 / (a.host(t) - a.host(t0))) * (w - mean)}
