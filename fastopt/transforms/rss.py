"""Normalisation by the sum of all squares: AdaGrad."""

from __future__ import annotations

from typing import Any

from fastopt.transforms.base import Transform, Update, factory
from fastopt.transforms.roots import positive_eps, root_eps_inside, root_eps_outside
from fastopt.validation import Setting, flag, nonnegative, nonnegative_number, per_step


def _rss(root: Any) -> Update:
    def rss_update(update, param, state, hyper):
        (total,) = state
        (eps,) = hyper
        total = total + update * update
        return update / root(total, eps), (total,)

    return rss_update


def rss_idle(update, param, state, hyper):
    (eps,) = hyper
    positive_eps(eps)
    return update, state


_RSS = {True: _rss(root_eps_inside), False: _rss(root_eps_outside)}


@factory
def scale_by_rss(
    eps: Setting = 1e-10, *, eps_inside_sqrt: bool = True, initial_accumulator: float = 0.0
) -> Transform:
    """Divide by the root of the sum of all squares so far.

    ``s = s + u * u``, then ``u = u / sqrt(s + eps)``, or ``u / (sqrt(s) + eps)`` without
    `eps_inside_sqrt`. The sum never forgets, so the steps shrink like ``1 / sqrt(t)``.

    Parameters
    ----------
    eps : float or schedule
        Keeps the division finite, >= 0.
    eps_inside_sqrt : bool
        Where epsilon stands. In torch it stands outside, in Keras and optax inside.
    initial_accumulator : float
        Where ``s`` starts, >= 0.

    Notes
    -----
    State: ``sum``.
    """
    return Transform(
        _RSS[flag("eps_inside_sqrt", eps_inside_sqrt)],
        state={"sum": nonnegative_number("initial_accumulator", initial_accumulator)},
        nonnegative=("sum",),
        hyper=per_step(lambda e: (e,), nonnegative("eps", eps)),
        idle=rss_idle,
    )
