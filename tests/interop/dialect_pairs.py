"""A step of a dialect beside the library's own, from the same parameters and states."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

import fastopt

STEPS = 20
SIZE = 37
# Libraries multiply and add in another order, fuse operations, and average as m + (1 - b) * (g - m).
ULPS = {np.float32: 4, np.float64: 8}

# Rprop's rate is where its step sizes start; torch's ASGD follows a rate that changes a step later.
STEADY = (fastopt.Rprop, fastopt.ASGD)


@dataclass
class Peer:
    """A library's optimizer at work on one array."""

    step: Callable[[np.ndarray, float], None]  # gradient and learning rate
    param: Callable[[], np.ndarray]
    states: Callable[[], dict[str, np.ndarray]]


def close(name, ours, reference, scale, precision, times=1):
    """Within the budget, measured in ULP of the numbers that were added."""
    size = np.maximum(np.maximum(np.abs(ours), np.abs(reference)), scale)
    unit = np.spacing(size.astype(precision)).astype(np.float64)
    worst = float(np.max(np.abs(ours - reference) / unit, initial=0.0))
    assert worst <= times * ULPS[precision], f"{name} differs by {worst:.1f} ULP"


def compare(optimizer_class, dialect, make_peer, draw, dtype, seed, precision=None):
    """Run both side by side for one random setting."""
    precision = precision or dtype
    rng = np.random.default_rng(seed)
    peer_settings = draw(rng)
    start = rng.standard_normal(SIZE).astype(dtype)
    rates = 10.0 ** rng.uniform(-3, -1, STEPS)
    if optimizer_class in STEADY:
        rates[:] = rates[0]
    rate_name = "lr" if dialect in ("torch", "timm") else "learning_rate"
    peer = make_peer(start.copy(), {**peer_settings, rate_name: float(rates[0])}, rates)
    param = start.copy()
    arguments = {**peer_settings, rate_name: float(rates[0])}
    # Compiled, every combination of flags would be another kernel, whose bits are these.
    ours = optimizer_class.like(dialect, param, **arguments, executor="reference")
    for step, rate in enumerate(rates):
        # Nothing here cancels, else rounding would be magnified: the gradient is larger than the decay
        # that is added to it and of steady size, and its sign is constant except where a variance is
        # centered; momentum, which then cancels, counts into the scale.
        centered = peer_settings.get("centered") or optimizer_class is fastopt.AdaBelief
        sign = (-1.0) ** step if centered else 1.0
        grad = (sign * rng.uniform(1, 3, SIZE)).astype(dtype)
        param[...] = peer.param()
        for name, array in peer.states().items():
            ours.state[name][...] = array
        old_states = {name: array.copy() for name, array in ours.state.items()}
        old = param.copy()
        if optimizer_class not in STEADY:
            ours.lr = float(rate)
        ours.step(grad)
        peer.step(grad, float(rate))
        for name, expected in peer.states().items():
            # A buffer of momentum is as exact as the steps that went into it, an average of parameters
            # as those.
            scale = np.abs(old_states[name])
            if name == "ax":
                scale += np.abs(old) + np.abs(param - old)
            budget = 2 if name == "acc_delta" else 1  # a square: its errors are those of steps, twice
            close(name, ours.state[name], expected, scale, precision, budget)
        moved = np.abs(param - old) + np.abs(old)
        factor = 1.0 if getattr(ours, "lr_in_momentum", False) else rate
        moved += factor * np.abs(old_states.get("momentum_buffer", 0.0))
        close("param", param, peer.param(), moved, precision)


def weight_decay(rng):
    return float(rng.choice([0.0, 10.0 ** rng.uniform(-3, -1)]))


def flag(rng):
    return bool(rng.integers(2))


def beta(rng, low=0.5):
    return float(rng.uniform(low, 0.999))


def momentum(rng):
    return float(rng.choice([0.0, rng.uniform(0.1, 0.95)]))


def eps(rng):
    return float(10.0 ** rng.uniform(-10, -3))
