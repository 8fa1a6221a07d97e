"""Adam with a rectified first phase: RAdam."""

from __future__ import annotations

from fastopt.transforms.adam import adam_no_gradient
from fastopt.transforms.base import Transform, Update, factory
from fastopt.transforms.moments import (
    bias_correction,
    first_moment,
    named_averages,
    rectification,
    second_moment,
)
from fastopt.transforms.roots import Root, root_eps_inside, root_eps_outside
from fastopt.validation import Hyper, Setting, at, flag, number_from


def _radam(root: Root) -> Update:
    def radam_update(update, param, state, hyper):
        exp_avg, exp_avg_sq = state
        beta1, mix1, unbias1, rectified, beta2, mix2, unbias2, eps = hyper
        exp_avg = first_moment(exp_avg, update, beta1, mix1)
        exp_avg_sq = second_moment(exp_avg_sq, update, beta2, mix2)
        update = unbias1 * exp_avg
        if rectified > 0.0:
            update = rectified * update / root(unbias2 * exp_avg_sq, eps)
        return update, (exp_avg, exp_avg_sq)

    return radam_update


_RADAM = {True: _radam(root_eps_inside), False: _radam(root_eps_outside)}


@factory
def scale_by_radam(
    beta1: Setting = 0.9,
    beta2: Setting = 0.999,
    eps: Setting = 1e-8,
    *,
    threshold: float = 5.0,
    eps_inside_sqrt: bool = False,
) -> Transform:
    """Adam that averages only, until its second moment is known well enough to divide by.

    With ``rho = 2 / (1 - beta2) - 1`` and ``rho_t = rho - 2 * t * beta2**t / (1 - beta2**t)`` at step
    ``t = 1, 2, ...``, ``u = m'`` while ``rho_t <= threshold``, then ``u = r * m' / (sqrt(v') + eps)``
    with ``r**2 = (rho_t - 4) * (rho_t - 2) * rho / ((rho - 4) * (rho - 2) * rho_t)``, where ``m'`` and
    ``v'`` are those of `scale_by_adam`.

    Parameters
    ----------
    beta1, beta2, eps, eps_inside_sqrt
        As in `scale_by_adam`. With ``beta2 <= 0.6`` it never divides.
    threshold : float
        >= 4.

    Notes
    -----
    State: ``exp_avg``, ``exp_avg_sq``.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> from fastopt import transforms as t
    >>> w = np.array([1.0, -1.0])
    >>> opt = fastopt.Optimizer(w, t.chain(t.scale_by_radam(), t.scale_by_learning_rate(0.5)))
    >>> opt.step(np.array([4.0, 0.0]))
    >>> w
    array([-1., -1.])
    """
    named = named_averages(beta1, beta2, eps)
    first, second, epsilon = (value for _, value in named.values())
    limit = number_from("threshold", threshold, 4.0)

    def hyper(step: int) -> Hyper:
        b1, b2 = at(first, step), at(second, step)
        rectified = rectification(b2, limit, step)
        unbias1, unbias2 = bias_correction(b1, step), bias_correction(b2, step)
        return b1, 1 - b1, unbias1, rectified, b2, 1 - b2, unbias2, at(epsilon, step)

    return Transform(
        _RADAM[flag("eps_inside_sqrt", eps_inside_sqrt)],
        state={"exp_avg": 0.0, "exp_avg_sq": 0.0},
        nonnegative=("exp_avg_sq",),
        hyper=hyper,
        no_gradient=adam_no_gradient,
        settings=named,
    )
