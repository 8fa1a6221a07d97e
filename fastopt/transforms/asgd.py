"""A plain average of the parameters, from some step on: ASGD."""

from __future__ import annotations

from fastopt.transforms.after import first_state
from fastopt.transforms.base import Transform, factory
from fastopt.validation import Hyper, Setting, at, if_above, nonnegative


def even_average_update(new, param, state, hyper):
    (ax,) = state
    (mu,) = hyper
    ax = ax + mu * (new - ax)
    if mu == 1.0:
        ax = new
    return new, (ax,)


@factory
def average_evenly(start: Setting = 0.0) -> Transform:
    """Average the parameters of all steps from `start` on, with equal weights.

    ``a = a + (w - a) / max(1, t - start)`` at step ``t = 0, 1, ...``: up to then it is a copy of the
    parameters.

    Parameters
    ----------
    start : float or schedule
        >= 0.

    Notes
    -----
    State: ``ax``.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> from fastopt import transforms as t
    >>> w = np.array([1.0, -1.0])
    >>> opt = fastopt.Optimizer(w, t.chain(t.scale_by_learning_rate(0.5), t.average_evenly()))
    >>> opt.step(np.array([4.0, 0.0]))
    >>> w
    array([-1., -1.])
    """
    first = nonnegative("t0", start)

    def hyper(step: int) -> Hyper:
        averaged = step - at(first, step)
        return (if_above(averaged, 1.0, lambda: 1.0 / averaged, 1.0),)

    return Transform(
        even_average_update, state={"ax": 0.0}, hyper=hyper, after=True, averaged=first_state
    )
