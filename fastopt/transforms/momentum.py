"""Momentum."""

from __future__ import annotations

from fastopt.transforms.base import Transform, factory
from fastopt.transforms.moments import first_moment
from fastopt.validation import Setting, flag, fraction, per_step


def trace_update(update, param, state, hyper):
    (momentum_buffer,) = state
    momentum, mix = hyper
    momentum_buffer = first_moment(momentum_buffer, update, momentum, mix)
    return momentum_buffer, (momentum_buffer,)


def nesterov_update(update, param, state, hyper):
    (momentum_buffer,) = state
    momentum, mix = hyper
    momentum_buffer = first_moment(momentum_buffer, update, momentum, mix)
    return update + momentum * momentum_buffer, (momentum_buffer,)


@factory
def trace(momentum: Setting, dampening: Setting = 0.0, *, nesterov: bool = False) -> Transform:
    """Accumulate updates in a momentum that starts from zero.

    ``m = momentum * m + (1 - dampening) * u``, then ``u = m``, or with `nesterov`
    ``u = u + momentum * m``.

    Parameters
    ----------
    momentum : float or schedule
        In [0, 1].
    dampening : float or schedule, optional
        In [0, 1]. With ``dampening = momentum`` the buffer is an exponentially weighted average.
    nesterov : bool, optional
        Use Nesterov's momentum.

    Notes
    -----
    State: ``momentum_buffer``. torch's SGD leaves `dampening` out of the very first step.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> from fastopt import chain, transforms as t
    >>> w = np.zeros(1)
    >>> opt = fastopt.Optimizer(w, chain(t.trace(0.9), t.scale_by_learning_rate(0.1)))
    >>> for _ in range(2):
    ...     opt.step(np.ones(1))
    >>> opt.state["momentum_buffer"], w
    (array([1.9]), array([-0.29]))
    """
    settings = fraction("momentum", momentum), fraction("dampening", dampening)
    update = nesterov_update if flag("nesterov", nesterov) else trace_update
    hyper = per_step(lambda rate, damping: (rate, 1.0 - damping), *settings)
    return Transform(
        update,
        state={"momentum_buffer": 0.0},
        hyper=hyper,
        no_gradient=update,
        settings={"momentum": (fraction, settings[0])},
    )
