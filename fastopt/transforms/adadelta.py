"""Steps in the units of the parameter: AdaDelta."""

from __future__ import annotations

from fastopt.transforms.base import Transform, factory
from fastopt.transforms.moments import second_moment
from fastopt.transforms.roots import positive_eps, root_eps_inside
from fastopt.validation import Setting, decay_rate, nonnegative, per_step


def adadelta_update(update, param, state, hyper):
    square_avg, acc_delta = state
    rho, mix, eps = hyper
    square_avg = second_moment(square_avg, update, rho, mix)
    update = root_eps_inside(acc_delta, eps) / root_eps_inside(square_avg, eps) * update
    return update, (square_avg, second_moment(acc_delta, update, rho, mix))


def adadelta_no_gradient(update, param, state, hyper):
    rho, _, eps = hyper
    positive_eps(eps)
    square_avg, acc_delta = state
    return update, (rho * square_avg, rho * acc_delta)


@factory
def scale_by_adadelta(rho: Setting = 0.9, eps: Setting = 1e-6) -> Transform:
    """Divide by the root of a moving average of squares, and multiply by that of the results.

    ``v = rho * v + (1 - rho) * u * u``, ``d = sqrt(a + eps) / sqrt(v + eps) * u`` and
    ``a = rho * a + (1 - rho) * d * d``, then ``u = d``.

    Parameters
    ----------
    rho : float or schedule
        Weight of the past, in [0, 1).
    eps : float or schedule
        >= 0. The first steps are as long as its root: with 0 nothing ever moves.

    Notes
    -----
    State: ``square_avg``, ``acc_delta``.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> from fastopt import transforms as t
    >>> w = np.array([1.0, -1.0])
    >>> opt = fastopt.Optimizer(w, t.scale_by_adadelta(rho=0.75, eps=1.0))
    >>> opt.step(np.array([4.0, 0.0]))
    >>> w
    array([-0.78885438, -1.        ])
    """
    settings = decay_rate("rho", rho), nonnegative("eps", eps)
    return Transform(
        adadelta_update,
        state={"square_avg": 0.0, "acc_delta": 0.0},
        nonnegative=("square_avg", "acc_delta"),
        hyper=per_step(lambda r, e: (r, 1.0 - r, e), *settings),
        no_gradient=adadelta_no_gradient,
        settings={"rho": (decay_rate, settings[0]), "eps": (nonnegative, settings[1])},
    )
