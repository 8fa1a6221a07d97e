"""A rate from distance and gradients: DoG."""

from __future__ import annotations

import math

from fastopt.transforms.base import Transform, factory
from fastopt.transforms.layerwise import param_square, update_square
from fastopt.transforms.states import START_FROM_PARAM
from fastopt.validation import Setting, flag, per_step, positive


def dog_update(update, param, state, hyper):
    (rate,) = hyper
    return rate * update, state


def distance_square(update, param, state, hyper):
    (initial_param,) = state
    return (param - initial_param) * (param - initial_param)


def distance_over_gradients(hyper, sums, carried):
    reps_rel, eps, init_eta = hyper
    distance, total = carried
    is_first = total == 0.0
    total = total + sums[1]
    distance = max(distance, math.sqrt(sums[0]))
    if is_first and init_eta > 0.0:
        return (init_eta,), (distance, total)
    if distance == 0.0 and init_eta == 0.0:
        distance = reps_rel * (1.0 + math.sqrt(sums[2]))
    return (distance / math.sqrt(total + eps),), (distance, total)


@factory
def scale_by_dog(
    reps_rel: Setting = 1e-6,
    eps: Setting = 1e-8,
    *,
    init_eta: Setting | None = None,
    layerwise: bool = False,
) -> Transform:
    """Multiply the update by the largest distance so far over the root of all squares so far.

    ``u = max |w - w0| / sqrt(sum |u|**2 + eps) * u`` with the maximum and the sum over all steps, this
    one included. The distance starts from ``reps_rel * (1 + |w0|)``.

    Parameters
    ----------
    reps_rel : float or schedule
        > 0. Only the value of the first step matters.
    eps : float or schedule
        > 0.
    init_eta : float or schedule, optional
        The factor of the first step, > 0, instead of what `reps_rel` says.
    layerwise : bool
        Norms of each array instead of all together: L-DoG.

    Notes
    -----
    State: ``initial_param``.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> from fastopt import transforms as t
    >>> w = np.array([3.0, 4.0])
    >>> opt = fastopt.Optimizer(w, t.scale_by_dog(reps_rel=0.1))
    >>> opt.step(2 * w)  # 0.1 * (1 + 5) / 10 times the gradient
    >>> w
    array([2.64, 3.52])
    """
    named = {
        "reps_rel": (positive, positive("reps_rel", reps_rel)),
        "eps": (positive, positive("eps", eps)),
    }
    if init_eta is not None:
        named["init_eta"] = positive, positive("init_eta", init_eta)
    values = [value for _, value in named.values()]
    return Transform(
        dog_update,
        state={"initial_param": START_FROM_PARAM},
        hyper=per_step(lambda start, small, first=0.0: (start, small, first), *values),
        settings=named,
        sums={"distance": distance_square, "update": update_square, "param": param_square},
        from_sums=distance_over_gradients,
        carried={"distance": 0.0, "squares": 0.0},
        per_array=flag("layerwise", layerwise),
    )
