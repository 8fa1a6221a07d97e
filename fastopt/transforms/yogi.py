"""Adam whose second moment changes slowly in both directions: Yogi."""

from __future__ import annotations

from fastopt.transforms.adam import adam_no_gradient
from fastopt.transforms.base import Transform, factory
from fastopt.transforms.moments import averages, first_moment
from fastopt.transforms.roots import root_eps_outside
from fastopt.transforms.sign import sign
from fastopt.validation import Setting, finite_number, flag, nonnegative_number


def yogi_update(update, param, state, hyper):
    exp_avg, exp_avg_sq = state
    beta1, mix1, unbias1, _, mix2, unbias2, eps = hyper
    exp_avg = first_moment(exp_avg, update, beta1, mix1)
    square = update * update
    exp_avg_sq = exp_avg_sq - mix2 * sign(exp_avg_sq - square) * square
    update = unbias1 * exp_avg / root_eps_outside(unbias2 * exp_avg_sq, eps)
    return update, (exp_avg, exp_avg_sq)


def yogi_no_gradient(update, param, state, hyper):
    update, (exp_avg, _) = adam_no_gradient(update, param, state, hyper)
    return update, (exp_avg, state[1])


@factory
def scale_by_yogi(
    beta1: Setting = 0.9,
    beta2: Setting = 0.999,
    eps: Setting = 1e-3,
    *,
    bias_correction: bool = True,
    initial_accumulator: float = 1e-6,
    initial_average: float = 0.0,
) -> Transform:
    """Adam whose second moment changes by no more than the square, whichever is larger.

    ``m = beta1 * m + (1 - beta1) * u``, ``v = v - (1 - beta2) * sign(v - u * u) * u * u``, then
    ``u = m' / (sqrt(v') + eps)`` with ``m' = m / (1 - beta1**t)`` and ``v' = v / (1 - beta2**t)``
    at step ``t = 1, 2, ...``.

    Parameters
    ----------
    beta1, beta2 : float or schedule
        Weights of the past, in [0, 1).
    eps : float or schedule
        >= 0.
    bias_correction : bool
        Without it ``m' = m`` and ``v' = v``.
    initial_accumulator, initial_average : float
        Where ``v``, >= 0, and ``m`` start.

    Notes
    -----
    State: ``exp_avg``, ``exp_avg_sq``.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> from fastopt import transforms as t
    >>> w = np.array([1.0, -1.0])
    >>> opt = fastopt.Optimizer(w, t.chain(t.scale_by_yogi(), t.scale_by_learning_rate(0.5)))
    >>> opt.step(np.array([4.0, 0.0]))
    >>> w
    array([ 0.50014059, -1.        ])
    """
    return Transform(
        yogi_update,
        state={
            "exp_avg": finite_number("initial_average", initial_average),
            "exp_avg_sq": nonnegative_number("initial_accumulator", initial_accumulator),
        },
        nonnegative=("exp_avg_sq",),
        no_gradient=yogi_no_gradient,
        **averages(beta1, beta2, eps, flag("bias_correction", bias_correction)),
    )
