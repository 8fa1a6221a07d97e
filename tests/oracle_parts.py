"""What the oracles are made of: numbers of every precision, and what stands around a formula."""

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


def incoming(
    a, w, g, *, maximize=False, clip_value=None, weight_decay=0.0, decoupled_weight_decay=False
):
    """What all optimizers do to the gradient before their own part."""
    if maximize:
        g = -g
    if clip_value is not None:
        limit = a.rounded(clip_value)
        g = np.where(g > limit, limit, np.where(g < -limit, -limit, g))
    if weight_decay and not decoupled_weight_decay:
        g = g + a.rounded(weight_decay) * w
    return g


def outgoing(a, w, u, lr, *, weight_decay=0.0, decoupled_weight_decay=False, **_):
    """What all optimizers do to their own part: decoupled decay, and the learning rate."""
    if weight_decay and decoupled_weight_decay:
        u = u + a.rounded(weight_decay) * w
    return w - a.rounded(lr) * u


def gathered(
    a,
    w,
    u,
    state,
    *,
    lr,
    momentum,
    dampening=0.0,
    nesterov=False,
    lr_in_momentum=False,
    weight_decay=0.0,
    decoupled_weight_decay=False,
    **_,
):
    """The same with momentum in between."""
    friction, rate = a.rounded(momentum or 0.0), a.rounded(lr)
    new = {}
    if lr_in_momentum:
        u = rate * u
    if momentum is not None:
        b = friction * state.get("momentum_buffer", a.full(w, 0.0))
        b = b + a.rounded(1 - a.host(dampening)) * u
        new["momentum_buffer"] = b
        u = u + friction * b if nesterov else b
    if weight_decay and decoupled_weight_decay:
        decay = a.host(weight_decay) * (a.host(lr) if lr_in_momentum else 1)
        u = u + a.rounded(decay) * w
    if not lr_in_momentum:
        u = rate * u
    return w - u, new


def root(a, square, eps, inside):
    """The denominator, with epsilon in one of its two places."""
    small = a.rounded(eps)
    return a.sqrt(square + small) if inside else a.sqrt(square) + small


def sign(a, x):
    """-1, 0 or 1, and NaN of NaN."""
    one = a.rounded(1.0)
    return np.where(x > 0, one, np.where(x < 0, -one, x))


def inside(dtype, limit, inwards):
    """The first number of the dtype that a limit lets through."""
    near = np.asarray(limit, dtype)
    outside = near.astype(float) < limit if inwards > 0 else near.astype(float) > limit
    return np.where(outside, np.nextafter(near, dtype.type(inwards)), near)


def whole_step(
    oracle, w, g, state, t, *, factor=1.0, bounds=(None, None), average_decay=None, **settings
):
    """A step with what stands around it: a factor before it, bounds and the average behind it."""
    a = Arithmetic(w.dtype)
    new, states = oracle(w, a.rounded(factor) * g, state, t, **settings)
    low, high = bounds
    if low is not None:
        low = inside(w.dtype, low, np.inf)
        new = np.where(new < low, low, new)
    if high is not None:
        high = inside(w.dtype, high, -np.inf)
        new = np.where(new > high, high, new)
    if average_decay is not None:
        past, present = a.average(average_decay)
        states = {**states, "average": past * state.get("average", w) + present * new}
    return new, states


def worked_example(steps):
    """J = w^2 from w = 5 with lr = 0.1, beta = 0.9, eps = 1e-8, in 50 digits and in plain sight."""
    w, v = MP.mpf(5), MP.mpf(0)
    lr, beta, eps = MP.mpf("0.1"), MP.mpf("0.9"), MP.mpf("1e-8")
    for _ in range(steps):
        g = 2 * w
        v = beta * v + (1 - beta) * g**2
        w = w - lr * g / MP.sqrt(v + eps)
    return w
