"""Adam with a second, slow average: AdEMAMix."""

from __future__ import annotations

import math

from fastopt.transforms.base import Transform, factory
from fastopt.transforms.moments import averages, first_moment, second_moment
from fastopt.transforms.roots import root_eps_outside
from fastopt.validation import Hyper, Setting, at, decay_rate, nonnegative, whole_number


def ademamix_update(update, param, state, hyper):
    exp_avg_fast, exp_avg_slow, exp_avg_sq = state
    beta3, mix3, alpha, beta1, mix1, unbias1, beta2, mix2, unbias2, eps = hyper
    exp_avg_fast = first_moment(exp_avg_fast, update, beta1, mix1)
    exp_avg_slow = first_moment(exp_avg_slow, update, beta3, mix3)
    exp_avg_sq = second_moment(exp_avg_sq, update, beta2, mix2)
    update = unbias1 * exp_avg_fast + alpha * exp_avg_slow
    update = update / root_eps_outside(unbias2 * exp_avg_sq, eps)
    return update, (exp_avg_fast, exp_avg_slow, exp_avg_sq)


def _warmed(first: float, last: float, share: float) -> float:
    """A weight of the past between two, whose half-life grows evenly (AdEMAMix, equation 4)."""
    if share >= 1.0:
        return last
    if first == 0.0 or last == 0.0:  # no half-life: their limit
        return min(first, last)
    a, b = math.log(first), math.log(last)
    return math.exp(a * b / ((1.0 - share) * b + share * a))


@factory
def scale_by_ademamix(
    beta1: Setting = 0.9,
    beta2: Setting = 0.999,
    eps: Setting = 1e-8,
    *,
    beta3: Setting = 0.9999,
    alpha: Setting = 5.0,
    warmup_steps: int = 0,
) -> Transform:
    """Adam with a second, much slower average of the update.

    ``m = beta1 * m + (1 - beta1) * u``, ``s = beta3 * s + (1 - beta3) * u`` and
    ``v = beta2 * v + (1 - beta2) * u * u``, then ``u = (m' + alpha * s) / (sqrt(v') + eps)``, with
    ``m'`` and ``v'`` as in `scale_by_adam`: the slow average is not corrected.

    Parameters
    ----------
    beta1, beta2, eps
        As in `scale_by_adam`.
    beta3 : float or schedule
        Weight of the past in the slow average, in [0, 1).
    alpha : float or schedule
        Weight of the slow average, >= 0.
    warmup_steps : int
        For so many steps `alpha` rises evenly from 0, and the half-life of the slow average from that
        of `beta1`.

    Notes
    -----
    State: ``exp_avg_fast``, ``exp_avg_slow``, ``exp_avg_sq``.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> from fastopt import transforms as t
    >>> w = np.array([1.0, -1.0])
    >>> rule = t.scale_by_ademamix(beta3=0.75)
    >>> opt = fastopt.Optimizer(w, t.chain(rule, t.scale_by_learning_rate(0.5)))
    >>> opt.step(np.array([4.0, 0.0]))
    >>> w
    array([-0.125, -1.   ])
    """
    adam = averages(beta1, beta2, eps, corrects=True)
    common, slow, weight = adam["hyper"], decay_rate("beta3", beta3), nonnegative("alpha", alpha)
    warmup = whole_number("warmup_steps", warmup_steps)

    def hyper(step: int) -> Hyper:
        numbers = common(step)
        b3, share = at(slow, step), 1.0
        if step + 1 < warmup:
            share = (step + 1) / warmup
            b3 = min(_warmed(numbers[0], b3, share), b3)
        return b3, 1 - b3, share * at(weight, step), *numbers

    return Transform(
        ademamix_update,
        state={"exp_avg_fast": 0.0, "exp_avg_slow": 0.0, "exp_avg_sq": 0.0},
        nonnegative=("exp_avg_sq",),
        hyper=hyper,
        settings={**adam["settings"], "beta3": (decay_rate, slow), "alpha": (nonnegative, weight)},
    )
