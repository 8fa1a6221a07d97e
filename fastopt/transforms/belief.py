"""Adam that divides by the distance from its average: AdaBelief."""

from __future__ import annotations

from fastopt.transforms.base import Transform, factory
from fastopt.transforms.moments import averages, first_moment, second_moment
from fastopt.transforms.roots import root_eps_outside
from fastopt.validation import Hyper, Setting, at, nonnegative


def belief_update(update, param, state, hyper):
    exp_avg, exp_avg_var = state
    beta1, mix1, unbias1, beta2, mix2, unbias2, eps, eps_root = hyper
    exp_avg = first_moment(exp_avg, update, beta1, mix1)
    exp_avg_var = second_moment(exp_avg_var, update - exp_avg, beta2, mix2) + eps_root
    update = unbias1 * exp_avg / root_eps_outside(unbias2 * exp_avg_var, eps)
    return update, (exp_avg, exp_avg_var)


@factory
def scale_by_belief(
    beta1: Setting = 0.9, beta2: Setting = 0.999, eps: Setting = 1e-16, eps_root: Setting = 1e-16
) -> Transform:
    """Divide a moving average of the update by its root mean square distance from the update.

    ``m = beta1 * m + (1 - beta1) * u``, ``s = beta2 * s + (1 - beta2) * (u - m)**2 + eps_root``, then
    ``u = m' / (sqrt(s') + eps)`` with ``m' = m / (1 - beta1**t)`` and ``s' = s / (1 - beta2**t)``
    at step ``t = 1, 2, ...``.

    Parameters
    ----------
    beta1, beta2 : float or schedule
        Weights of the past, in [0, 1).
    eps, eps_root : float or schedule
        >= 0. What is added to ``s`` at every step gathers there, to ``eps_root / (1 - beta2)``.

    Notes
    -----
    State: ``exp_avg``, ``exp_avg_var``.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> from fastopt import transforms as t
    >>> w = np.array([1.0, -1.0])
    >>> opt = fastopt.Optimizer(w, t.chain(t.scale_by_belief(0.5, 0.75), t.scale_by_learning_rate(0.5)))
    >>> opt.step(np.array([4.0, 0.0]))
    >>> w
    array([ 0., -1.])
    """
    adam = averages(beta1, beta2, eps, corrects=True)
    common, gathered = adam["hyper"], nonnegative("eps_root", eps_root)

    def hyper(step: int) -> Hyper:
        return *common(step), at(gathered, step)

    return Transform(
        belief_update,
        state={"exp_avg": 0.0, "exp_avg_var": 0.0},
        nonnegative=("exp_avg_var",),
        hyper=hyper,
        settings={**adam["settings"], "eps_root": (nonnegative, gathered)},
    )
