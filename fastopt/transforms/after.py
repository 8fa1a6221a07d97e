"""What happens to the new parameter in the same pass: bounds, an average, a copy."""

from __future__ import annotations

import math

from fastopt.transforms.base import ONCE, Transform, Update, factory
from fastopt.transforms.moments import first_moment
from fastopt.transforms.states import START_FROM_PARAM
from fastopt.validation import Setting, decay_rate, finite, is_number_or_schedule, per_step


def raise_update(new, param, state, hyper):
    (low,) = hyper
    # Written so that NaN passes through.
    if new < low:
        new = low
    return new, state


def raise_to_array_update(new, param, state, hyper):
    (low,) = state
    if new < low:
        new = low
    return new, ()


def lower_update(new, param, state, hyper):
    (high,) = hyper
    if new > high:
        new = high
    return new, state


def lower_to_array_update(new, param, state, hyper):
    (high,) = state
    if new > high:
        new = high
    return new, ()


@factory
def at_least(low: object) -> Transform:
    """Raise new parameters to `low` where they are below it.

    Parameters
    ----------
    low : float, schedule, array or structure of arrays like the parameters
        Numbers must be finite; they are rounded inwards to the parameters' format.
        Arrays are read in the same pass.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> from fastopt import chain, transforms as t
    >>> w = np.array([0.1, 5.0])
    >>> fastopt.Optimizer(w, chain(t.scale_by_learning_rate(1.0), t.at_least(0.0))).step(np.ones(2))
    >>> w
    array([0., 4.])
    """
    return _limit("low", low, raise_update, raise_to_array_update, math.inf)


@factory
def at_most(high: object) -> Transform:
    """Lower new parameters to `high` where they are above it.

    Parameters
    ----------
    high : float, schedule, array or structure of arrays like the parameters
        Numbers must be finite; they are rounded inwards to the parameters' format.
        Arrays are read in the same pass.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> from fastopt import chain, transforms as t
    >>> w = np.array([0.5, 5.0])
    >>> upper = np.array([2.0, 4.5])
    >>> fastopt.Optimizer(w, chain(t.scale(-1.0), t.at_most(upper))).step(np.ones(2))
    >>> w
    array([1.5, 4.5])
    """
    return _limit("high", high, lower_update, lower_to_array_update, -math.inf)


def _limit(name: str, limit: object, by_number: Update, by_array: Update, inwards: float) -> Transform:
    """A limit that is a number, or an array that is read in the same pass."""
    if not is_number_or_schedule(limit):
        return Transform(by_array, inputs={name: limit}, after=True, no_gradient=ONCE)
    hyper = per_step(lambda x: (x,), finite(name, limit))
    return Transform(by_number, hyper=hyper, after=True, no_gradient=ONCE, round_towards=inwards)


def average_update(new, param, state, hyper):
    (average,) = state
    decay, mix = hyper
    return new, (first_moment(average, new, decay, mix),)


def first_state(param, state):
    return state[0]


@factory
def average_params(decay: Setting) -> Transform:
    """Keep an exponentially weighted average of the parameters.

    ``a = decay * a + (1 - decay) * w``, in the state ``average``, which starts as a copy of the
    parameters.

    Parameters
    ----------
    decay : float or schedule
        The weight of the past, in [0, 1).

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> from fastopt import chain, transforms as t
    >>> w = np.array([1.0])
    >>> opt = fastopt.Optimizer(w, chain(t.scale_by_learning_rate(1.0), t.average_params(0.9)))
    >>> opt.step(np.ones(1))
    >>> w, opt.state["average"]
    (array([0.]), array([0.9]))
    """
    decay = decay_rate("average_decay", decay)
    return Transform(
        average_update,
        state={"average": START_FROM_PARAM},
        hyper=per_step(lambda d: (d, 1.0 - d), decay),
        after=True,
        no_gradient=average_update,
        settings={"average_decay": (decay_rate, decay)},
        averaged=first_state,
    )


def copy_update(new, param, state, hyper):
    return new, (new,)


@factory
def copy_params(target: object) -> Transform:
    """Write the new parameters to `target` too.

    Parameters
    ----------
    target : array or structure of arrays like the parameters
        float16, bfloat16, float32 or float64, shaped alike.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> from fastopt import chain, transforms as t
    >>> w, half = np.array([1.0, 2.0], np.float32), np.zeros(2, np.float16)
    >>> opt = fastopt.Optimizer(w, chain(t.scale_by_learning_rate(1.0), t.copy_params(half)))
    >>> opt.step(np.ones(2, np.float32))
    >>> half
    array([0., 1.], dtype=float16)
    """
    return Transform(copy_update, outputs={"copy_to": target}, after=True, no_gradient=copy_update)
