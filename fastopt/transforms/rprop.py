"""Step sizes for each element, from the signs of gradients alone: Rprop."""

from __future__ import annotations

from fastopt.transforms.base import Transform, factory
from fastopt.transforms.sign import sign
from fastopt.validation import (
    Setting,
    above_one,
    below_one,
    nonnegative,
    nonnegative_number,
    per_step,
    positive,
)


def rprop_update(update, param, state, hyper):
    prev, step_size = state
    eta_minus, eta_plus, smallest, largest = hyper
    agreement = sign(update) * sign(prev)
    if agreement > 0.0:
        step_size = eta_plus * step_size
    if agreement < 0.0:
        step_size = eta_minus * step_size
        update = 0.0
    # Comparisons in this direction let NaN through.
    if step_size < smallest:
        step_size = smallest
    if step_size > largest:
        step_size = largest
    return sign(update) * step_size, (update, step_size)


@factory
def step_by_rprop(
    lr: float,
    *,
    eta_minus: Setting = 0.5,
    eta_plus: Setting = 1.2,
    step_size_min: Setting = 1e-6,
    step_size_max: Setting = 50.0,
) -> Transform:
    """Step sizes that grow while the update keeps its sign, and shrink when it changes.

    With ``p`` the last update, ``s = s * eta_plus`` where ``u * p > 0``, and where ``u * p < 0``
    ``s = s * eta_minus`` and ``u = 0``; ``s = min(max(s, step_size_min), step_size_max)``, ``p = u``
    and then ``u = sign(u) * s``. The learning rate is inside: nothing multiplies by it.

    Parameters
    ----------
    lr : float
        Where ``s`` starts, >= 0.
    eta_minus : float or schedule
        In (0, 1).
    eta_plus : float or schedule
        > 1.
    step_size_min, step_size_max : float or schedule
        Limits of ``s``, >= 0 and > 0.

    Notes
    -----
    State: ``prev``, ``step_size``.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> from fastopt import transforms as t
    >>> w = np.array([1.0, -1.0])
    >>> opt = fastopt.Optimizer(w, t.step_by_rprop(0.5))
    >>> opt.step(np.array([4.0, 0.0]))
    >>> w
    array([ 0.5, -1. ])
    """
    named = {
        "eta_minus": (below_one, below_one("eta_minus", eta_minus)),
        "eta_plus": (above_one, above_one("eta_plus", eta_plus)),
        "step_size_min": (nonnegative, nonnegative("step_size_min", step_size_min)),
        "step_size_max": (positive, positive("step_size_max", step_size_max)),
    }
    return Transform(
        rprop_update,
        state={"prev": 0.0, "step_size": nonnegative_number("lr", lr)},
        nonnegative=("step_size",),
        hyper=per_step(lambda *numbers: numbers, *(value for _, value in named.values())),
        settings=named,
    )
