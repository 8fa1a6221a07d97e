"""Signs, and steps of one length whatever the gradient is: Lion."""

from __future__ import annotations

from fastopt.transforms.base import Transform, factory
from fastopt.transforms.moments import first_moment
from fastopt.validation import Setting, decay_rate, per_step


def sign(x):
    """1, -1, or `x` itself if it is zero or NaN."""
    if x > 0.0:
        x = 1.0
    elif x < 0.0:
        x = -1.0
    return x


def lion_update(update, param, state, hyper):
    (exp_avg,) = state
    beta1, mix1, beta2, mix2 = hyper
    direction = sign(first_moment(exp_avg, update, beta1, mix1))
    return direction, (first_moment(exp_avg, update, beta2, mix2),)


@factory
def scale_by_lion(beta1: Setting = 0.9, beta2: Setting = 0.99) -> Transform:
    """The sign of the update mixed with a moving average of it.

    ``u' = sign(beta1 * m + (1 - beta1) * u)``, then ``m = beta2 * m + (1 - beta2) * u``.

    Parameters
    ----------
    beta1, beta2 : float or schedule
        Weights of the past in the direction and in the average, in [0, 1).

    Notes
    -----
    State: ``exp_avg``. The sign of zero is zero.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> from fastopt import transforms as t
    >>> w = np.array([1.0, -1.0])
    >>> opt = fastopt.Optimizer(w, t.chain(t.scale_by_lion(0.9, 0.99), t.scale_by_learning_rate(0.5)))
    >>> opt.step(np.array([4.0, 0.0]))
    >>> w
    array([ 0.5, -1. ])
    """
    named = {
        "beta1": (decay_rate, decay_rate("beta1", beta1)),
        "beta2": (decay_rate, decay_rate("beta2", beta2)),
    }
    return Transform(
        lion_update,
        state={"exp_avg": 0.0},
        hyper=per_step(lambda b1, b2: (b1, 1.0 - b1, b2, 1.0 - b2), *(v for _, v in named.values())),
        settings=named,
    )
