"""Adam with the update mixed into its averages: QHAdam."""

from __future__ import annotations

from fastopt.transforms.adam import adam_no_gradient
from fastopt.transforms.base import Transform, factory
from fastopt.transforms.moments import averages, first_moment, second_moment
from fastopt.transforms.roots import root_eps_outside
from fastopt.validation import Hyper, Setting, at, fraction


def qhadam_update(update, param, state, hyper):
    exp_avg, exp_avg_sq = state
    beta1, mix1, unbias1, nu1, now1, nu2, now2, beta2, mix2, unbias2, eps = hyper
    exp_avg = first_moment(exp_avg, update, beta1, mix1)
    exp_avg_sq = second_moment(exp_avg_sq, update, beta2, mix2)
    square = now2 * update * update + nu2 * (unbias2 * exp_avg_sq)
    update = now1 * update + nu1 * (unbias1 * exp_avg)
    return update / root_eps_outside(square, eps), (exp_avg, exp_avg_sq)


@factory
def scale_by_qhadam(
    beta1: Setting = 0.995,
    beta2: Setting = 0.999,
    eps: Setting = 1e-8,
    *,
    nu1: Setting = 0.7,
    nu2: Setting = 1.0,
) -> Transform:
    """Adam with the update itself mixed into both of its averages where they are used.

    With ``m'`` and ``v'`` as in `scale_by_adam`,
    ``u = ((1 - nu1) * u + nu1 * m') / (sqrt((1 - nu2) * u * u + nu2 * v') + eps)``.

    Parameters
    ----------
    beta1, beta2, eps
        As in `scale_by_adam`.
    nu1, nu2 : float or schedule
        Weights of the averages, in [0, 1]: with 1 and 1 it is Adam.

    Notes
    -----
    State: ``exp_avg``, ``exp_avg_sq``.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> from fastopt import transforms as t
    >>> w = np.array([1.0, -1.0])
    >>> opt = fastopt.Optimizer(w, t.chain(t.scale_by_qhadam(), t.scale_by_learning_rate(0.5)))
    >>> opt.step(np.array([4.0, 0.0]))
    >>> w
    array([ 0.5, -1. ])
    """
    adam = averages(beta1, beta2, eps, corrects=True)
    common, first, second = adam["hyper"], fraction("nu1", nu1), fraction("nu2", nu2)

    def hyper(step: int) -> Hyper:
        weight1, weight2 = at(first, step), at(second, step)
        numbers = common(step)
        return *numbers[:3], weight1, 1 - weight1, weight2, 1 - weight2, *numbers[3:]

    return Transform(
        qhadam_update,
        state={"exp_avg": 0.0, "exp_avg_sq": 0.0},
        nonnegative=("exp_avg_sq",),
        hyper=hyper,
        no_gradient=adam_no_gradient,
        settings={**adam["settings"], "nu1": (fraction, first), "nu2": (fraction, second)},
    )
