"""Adam with the largest recent gradient in the place of the root of squares: AdaMax."""

from __future__ import annotations

from fastopt.transforms.base import Transform, factory
from fastopt.transforms.moments import bias_correction, first_moment, infinity_norm, named_averages
from fastopt.validation import Hyper, Setting, at, flag


def adamax_update(update, param, state, hyper):
    exp_avg, exp_inf = state
    beta1, mix1, unbias1, beta2, eps = hyper
    exp_avg = first_moment(exp_avg, update, beta1, mix1)
    exp_inf = infinity_norm(exp_inf, abs(update) + eps, beta2)
    return unbias1 * exp_avg / exp_inf, (exp_avg, exp_inf)


def adamax_outside_update(update, param, state, hyper):
    exp_avg, exp_inf = state
    beta1, mix1, unbias1, beta2, eps = hyper
    exp_avg = first_moment(exp_avg, update, beta1, mix1)
    exp_inf = infinity_norm(exp_inf, abs(update), beta2)
    return unbias1 * exp_avg / (exp_inf + eps), (exp_avg, exp_inf)


@factory
def scale_by_adamax(
    beta1: Setting = 0.9,
    beta2: Setting = 0.999,
    eps: Setting = 1e-8,
    *,
    eps_inside_max: bool = True,
) -> Transform:
    """Divide a moving average of the update by the largest recent one, which fades.

    ``m = beta1 * m + (1 - beta1) * u``, ``n = max(beta2 * n, abs(u) + eps)``, then
    ``u = m / (1 - beta1**t) / n`` at step ``t = 1, 2, ...``.

    Parameters
    ----------
    beta1, beta2 : float or schedule
        Weights of the past, in [0, 1).
    eps : float or schedule
        >= 0.
    eps_inside_max : bool
        Without it ``n = max(beta2 * n, abs(u))``, and ``n + eps`` divides, as in Keras.

    Notes
    -----
    State: ``exp_avg``, ``exp_inf``.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> from fastopt import transforms as t
    >>> w = np.array([1.0, -1.0])
    >>> opt = fastopt.Optimizer(w, t.chain(t.scale_by_adamax(), t.scale_by_learning_rate(0.5)))
    >>> opt.step(np.array([4.0, 0.0]))
    >>> w
    array([ 0.5, -1. ])
    """
    named = named_averages(beta1, beta2, eps)
    first, second, epsilon = (value for _, value in named.values())

    def hyper(step: int) -> Hyper:
        b1 = at(first, step)
        return b1, 1 - b1, bias_correction(b1, step), at(second, step), at(epsilon, step)

    return Transform(
        adamax_update if flag("eps_inside_max", eps_inside_max) else adamax_outside_update,
        state={"exp_avg": 0.0, "exp_inf": 0.0},
        nonnegative=("exp_inf",),
        hyper=hyper,
        settings=named,
    )
