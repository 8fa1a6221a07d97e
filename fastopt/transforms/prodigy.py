"""Adam at a rate that is estimated from the distance to the start: Prodigy."""

from __future__ import annotations

from fastopt.transforms.base import Transform, factory
from fastopt.transforms.moments import bias_correction as corrected
from fastopt.transforms.moments import first_moment, second_moment
from fastopt.transforms.roots import root_eps_outside
from fastopt.transforms.states import START_FROM_PARAM
from fastopt.validation import (
    Hyper,
    Setting,
    above_one,
    at,
    decay_rate,
    flag,
    nonnegative,
    positive,
)


# All states are divided by the distance d of their time, `s` by its square: so they have the size of
# gradients, which 16 bits can hold, where the paper's start at 1e-6 and 1e-12 of it. When d grows they
# shrink, by the betas of that step.
def prodigy_update(update, param, state, hyper):
    exp_avg, exp_avg_sq, s, initial_param = state
    beta1, mix1, beta2, mix2, beta3, weight, eps, rate, decay = hyper
    exp_avg = first_moment(exp_avg, update, beta1, mix1)
    exp_avg_sq = second_moment(exp_avg_sq, update, beta2, mix2)
    s = beta3 * s + weight * update
    update = rate * (exp_avg / root_eps_outside(exp_avg_sq, eps)) + decay * param
    return update, (exp_avg, exp_avg_sq, s, initial_param)


def progress(update, param, state, hyper):
    """``rate * g * (w0 - w)``: how far the parameter is from its start, along the gradient."""
    return hyper[7] * update * (state[3] - param)


def size_of_gradients(update, param, state, hyper):
    return abs(state[2])


def prodigy_distance(hyper, sums, carried):
    beta1, beta2, beta3, weight, eps, d0, d_coef, rate, growth_rate, decay = hyper
    distance, largest, numerator = carried
    previous = distance
    if distance == 0.0:  # the first step
        previous = distance = largest = d0
    elif sums[1] > 0.0:
        estimate = d_coef * numerator / sums[1]
        if distance == d0:
            distance = max(distance, estimate)
        largest = max(largest, estimate)
        distance = min(largest, distance * growth_rate) if growth_rate > 0.0 else largest
    shrunk = previous / distance
    squared = shrunk * shrunk
    numerator = beta3 * squared * numerator + sums[0]
    moments = beta1 * shrunk, 1.0 - beta1, beta2 * squared, 1.0 - beta2, beta3 * squared, weight, eps
    return (*moments, distance * rate, distance * rate * decay), (distance, largest, numerator)


@factory
def scale_by_prodigy(
    lr: Setting = 1.0,
    beta1: Setting = 0.9,
    beta2: Setting = 0.999,
    eps: Setting = 1e-8,
    *,
    beta3: Setting | None = None,
    d0: Setting = 1e-6,
    d_coef: Setting = 1.0,
    growth_rate: Setting | None = None,
    bias_correction: bool = False,
    safeguard_warmup: bool = False,
    weight_decay: Setting = 0.0,
) -> Transform:
    """Adam's direction, times a learning rate that is estimated from the distance to the start.

    `Prodigy` has the formulas. Learning rate and decoupled decay are part of it, since the estimate
    needs the rate.

    Parameters
    ----------
    lr, beta1, beta2, eps, beta3, d0, d_coef, growth_rate, bias_correction, safeguard_warmup
        As in `Prodigy`.
    weight_decay : float or schedule
        >= 0, decoupled.

    Notes
    -----
    State: ``exp_avg``, ``exp_avg_sq``, ``s`` and ``initial_param``.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> from fastopt import transforms as t
    >>> w = np.array([5.0, -3.0])
    >>> opt = fastopt.Optimizer(w, t.scale_by_prodigy())
    >>> for _ in range(200):
    ...     opt.step(2 * w)
    >>> bool((abs(w) < 1.0).all())
    True
    """
    named = {
        "lr": (nonnegative, nonnegative("lr", lr)),
        "beta1": (decay_rate, decay_rate("beta1", beta1)),
        "beta2": (decay_rate, decay_rate("beta2", beta2)),
        "eps": (positive, positive("eps", eps)),
        "d0": (positive, positive("d0", d0)),
        "d_coef": (positive, positive("d_coef", d_coef)),
        "weight_decay": (nonnegative, nonnegative("weight_decay", weight_decay)),
    }
    if beta3 is not None:
        named["beta3"] = decay_rate, decay_rate("beta3", beta3)
    if growth_rate is not None:
        named["growth_rate"] = above_one, above_one("growth_rate", growth_rate)
    corrects, guards = (
        flag("bias_correction", bias_correction),
        flag("safeguard_warmup", safeguard_warmup),
    )

    def hyper(step: int) -> Hyper:
        now = {name: at(value, step) for name, (_, value) in named.items()}
        b1, b2, rate = now["beta1"], now["beta2"], now["lr"]
        if corrects:
            rate = rate * corrected(b1, step) / corrected(b2, step) ** 0.5
        b3 = now.get("beta3", b2**0.5)
        growth = now.get("growth_rate", 0.0)
        weight = 1.0 if guards else rate
        return (
            b1,
            b2,
            b3,
            weight,
            now["eps"],
            now["d0"],
            now["d_coef"],
            rate,
            growth,
            now["weight_decay"],
        )

    varies = corrects or any(callable(value) for _, value in named.values())
    return Transform(
        prodigy_update,
        state={"exp_avg": 0.0, "exp_avg_sq": 0.0, "s": 0.0, "initial_param": START_FROM_PARAM},
        nonnegative=("exp_avg_sq",),
        hyper=hyper if varies else hyper(0),
        settings=named,
        sums={"progress": progress, "gradients": size_of_gradients},
        from_sums=prodigy_distance,
        carried={"distance": 0.0, "largest": 0.0, "numerator": 0.0},
    )
