"""Normalization by the sum of all squares: AdaGrad."""

from __future__ import annotations

from fastopt.transforms.base import Transform, Update, factory
from fastopt.transforms.roots import Root, positive_eps, root_eps_inside, root_eps_outside
from fastopt.validation import Setting, flag, nonnegative, nonnegative_number, per_step


def _rss(root: Root) -> Update:
    def rss_update(update, param, state, hyper):
        (total,) = state
        (eps,) = hyper
        total = total + update * update
        return update / root(total, eps), (total,)

    return rss_update


def _guarded_rss(root: Root) -> Update:
    def rss_update(update, param, state, hyper):
        (total,) = state
        (eps,) = hyper
        total = total + update * update
        update = update / root(total, eps)
        if total == 0.0:
            update = 0.0
        return update, (total,)

    return rss_update


def rss_no_gradient(update, param, state, hyper):
    """The step without a gradient where the sum may be zero."""
    (eps,) = hyper
    positive_eps(eps)
    return update, state


def positive_rss_no_gradient(update, param, state, hyper):
    """The step without a gradient where the sum is positive, or zero is guarded."""
    return update, state


# By guard_zero and eps_inside_sqrt.
_RSS = {
    (guarded, inside): rss(root_eps_inside if inside else root_eps_outside)
    for guarded, rss in ((False, _rss), (True, _guarded_rss))
    for inside in (False, True)
}


@factory
def scale_by_rss(
    eps: Setting = 1e-10,
    *,
    eps_inside_sqrt: bool = True,
    initial_accumulator: float = 0.0,
    guard_zero: bool = False,
) -> Transform:
    """Divide by the root of the sum of all squares so far.

    ``s = s + u * u``, then ``u = u / sqrt(s + eps)``, or ``u / (sqrt(s) + eps)`` without
    `eps_inside_sqrt`. The sum never forgets, so the steps shrink like ``1 / sqrt(t)``.

    Parameters
    ----------
    eps : float or schedule
        Keeps the division finite, >= 0. With 0 an element whose sum is zero gives 0/0 = NaN, unless
        the sum starts above zero or `guard_zero` is set.
    eps_inside_sqrt : bool
        Where epsilon stands. In torch it stands outside, in Keras and optax inside.
    initial_accumulator : float
        Where ``s`` starts, >= 0.
    guard_zero : bool
        ``u = 0`` where ``s`` is zero, whatever `eps` is, as in optax.

    Notes
    -----
    State: ``sum``.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> from fastopt import chain, transforms as t
    >>> w = np.array([5.0])
    >>> opt = fastopt.Optimizer(w, chain(t.scale_by_rss(), t.scale_by_learning_rate(0.1)))
    >>> for _ in range(2):
    ...     opt.step(np.full(1, 3.0))
    >>> opt.state["sum"], w.round(4)
    (array([18.]), array([4.8293]))
    """
    eps = nonnegative("eps", eps)
    first = nonnegative_number("initial_accumulator", initial_accumulator)
    guarded = flag("guard_zero", guard_zero)
    return Transform(
        _RSS[guarded, flag("eps_inside_sqrt", eps_inside_sqrt)],
        state={"sum": first},
        nonnegative=("sum",),
        hyper=per_step(lambda e: (e,), eps),
        no_gradient=positive_rss_no_gradient if guarded or first > 0.0 else rss_no_gradient,
        settings={"eps": (nonnegative, eps)},
    )
