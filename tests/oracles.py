"""Oracles: the optimizers' formulas, typed from their definitions and without the package.

An oracle is a function ``(w, g, state, t, **settings) -> (w, state)`` on whole arrays, with new
arrays as its result; ``t`` counts from 0 and ``state`` is empty before the first step. The dtype of
the arrays decides how it computes: float32 and float64 round after every operation, in the order that
the package promises, so that results can be compared to the last bit; arrays of mpmath
numbers (`exact`) are good for 50 digits. The result may hold states that the settings do not need.
"""

import mpmath
import numpy as np

MP = mpmath.MPContext()
MP.dps = 50

exact = np.frompyfunc(MP.mpf, 1, 1)
_exact_sqrt = np.frompyfunc(MP.sqrt, 1, 1)


class Arithmetic:
    """Numbers for arrays of one dtype: step-wide ones are computed by `host`, then rounded once."""

    def __init__(self, dtype):
        self.is_exact = dtype.hasobject
        self.host = MP.mpf if self.is_exact else float
        self.rounded = MP.mpf if self.is_exact else dtype.type

    def sqrt(self, x):
        return _exact_sqrt(x) if self.is_exact else np.sqrt(x)

    def full(self, like, value):
        return np.full(like.shape, self.rounded(value), like.dtype)

    def average(self, beta):
        """The weights of past and present in a moving average."""
        beta = self.host(beta)
        return self.rounded(beta), self.rounded(1 - beta)

    def unbias(self, beta, t):
        """The factor that makes up for an average's start at zero."""
        return self.rounded(1 / (1 - self.host(beta) ** (t + 1)))


def incoming(a, w, g, *, maximize, clip_value, weight_decay, decoupled_weight_decay):
    """What all optimizers do to the gradient before their own part."""
    if maximize:
        g = -g
    if clip_value is not None:
        limit = a.rounded(clip_value)
        g = np.where(g > limit, limit, np.where(g < -limit, -limit, g))
    if weight_decay and not decoupled_weight_decay:
        g = g + a.rounded(weight_decay) * w
    return g


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
    maximize=False,
    clip_value=None,
    weight_decay=0.0,
    decoupled_weight_decay=False,
):
    """``v = beta v + (1 - beta) g^2``, ``w = w - lr g / sqrt(v + eps)``, and all variants."""
    a = Arithmetic(w.dtype)
    past, present = a.average(beta)
    rate, small, friction = a.rounded(lr), a.rounded(eps), a.rounded(momentum or 0.0)
    g = incoming(
        a,
        w,
        g,
        maximize=maximize,
        clip_value=clip_value,
        weight_decay=weight_decay,
        decoupled_weight_decay=decoupled_weight_decay,
    )

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
    u = g / (a.sqrt(square + small) if eps_inside_sqrt else a.sqrt(square) + small)

    if lr_in_momentum:
        u = rate * u
    if momentum is not None:
        b = friction * state.get("momentum_buffer", a.full(w, 0.0)) + u
        new["momentum_buffer"] = b
        u = u + friction * b if nesterov else b
    if weight_decay and decoupled_weight_decay:
        decay = a.host(weight_decay) * (a.host(lr) if lr_in_momentum else 1)
        u = u + a.rounded(decay) * w
    if not lr_in_momentum:
        u = rate * u
    return w - u, new


def worked_example(steps):
    """J = w^2 from w = 5 with lr = 0.1, beta = 0.9, eps = 1e-8, in 50 digits and in plain sight."""
    w, v = MP.mpf(5), MP.mpf(0)
    lr, beta, eps = MP.mpf("0.1"), MP.mpf("0.9"), MP.mpf("1e-8")
    for _ in range(steps):
        g = 2 * w
        v = beta * v + (1 - beta) * g**2
        w = w - lr * g / MP.sqrt(v + eps)
    return w
