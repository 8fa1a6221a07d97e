"""Plain factors: constants, the learning rate, and limits on the size of the update."""

from __future__ import annotations

from collections.abc import Callable

from fastopt.transforms.base import Transform, factory
from fastopt.validation import Setting, finite, nonnegative, per_step, positive


def scale_update(update, param, state, hyper):
    (factor,) = hyper
    return factor * update, state


@factory
def scale(factor: Setting) -> Transform:
    """Multiply the update: ``u = factor * u``.

    Parameters
    ----------
    factor : float or schedule
        Finite. With -1 the optimizer climbs instead of descending.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> from fastopt import transforms as t
    >>> w = np.zeros(2)
    >>> fastopt.Optimizer(w, t.scale(0.5)).step(np.array([1.0, -4.0]))
    >>> w
    array([-0.5,  2. ])
    """
    return _scale("factor", finite, factor)


@factory
def scale_by_learning_rate(lr: Setting) -> Transform:
    """Multiply the update by the learning rate: ``u = lr * u``.

    Parameters
    ----------
    lr : float or schedule
        >= 0.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> from fastopt import transforms as t
    >>> w = np.zeros(1)
    >>> opt = fastopt.Optimizer(w, t.scale_by_learning_rate(lambda step: 0.1 / (1 + step)))
    >>> for _ in range(2):
    ...     opt.step(np.ones(1))
    >>> w
    array([-0.15])
    """
    return _scale("lr", nonnegative, lr)


def _scale(name: str, rule: Callable[..., Setting], factor: Setting) -> Transform:
    factor = rule(name, factor)
    hyper = per_step(lambda f: (f,), factor)
    return Transform(
        scale_update, hyper=hyper, no_gradient=scale_update, settings={name: (rule, factor)}
    )


def clip_update(update, param, state, hyper):
    low, high = hyper
    # Comparisons in this direction let NaN through, as numpy.clip does.
    if update > high:
        update = high
    if update < low:
        update = low
    return update, state


def clip_no_gradient(update, param, state, hyper):
    return update, state


@factory
def clip_by_value(limit: Setting) -> Transform:
    """Limit each element of the update: ``u = min(max(u, -limit), limit)``; NaN stays NaN.

    Parameters
    ----------
    limit : float or schedule
        > 0.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> from fastopt import transforms as t
    >>> w = np.zeros(3)
    >>> fastopt.Optimizer(w, t.clip_by_value(1.0)).step(np.array([0.5, -3.0, 7.0]))
    >>> w
    array([-0.5,  1. , -1. ])
    """
    limit = positive("clip_value", limit)
    hyper = per_step(lambda x: (-x, x), limit)
    named = {"clip_value": (positive, limit)}
    return Transform(clip_update, hyper=hyper, no_gradient=clip_no_gradient, settings=named)
