"""Weight decay."""

from __future__ import annotations

from fastopt.transforms.base import Transform, factory
from fastopt.validation import Setting, nonnegative, per_step


def decay_update(update, param, state, hyper):
    (weight_decay,) = hyper
    return update + weight_decay * param, state


@factory
def add_decayed_weights(weight_decay: Setting, lr: Setting = 1.0) -> Transform:
    """Pull the parameters towards zero: ``u = u + weight_decay * lr * w``.

    Before the normalization this is the classic L2 penalty (torch's ``weight_decay`` of RMSprop
    and Adam); between normalization and learning rate it is decoupled decay (AdamW). Behind the
    learning rate, where nothing multiplies by it any more, pass it as `lr`.

    Parameters
    ----------
    weight_decay : float or schedule
        >= 0.
    lr : float or schedule, optional
        A factor, >= 0.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> from fastopt import chain, transforms as t
    >>> w = np.array([1.0, -2.0])
    >>> opt = fastopt.Optimizer(w, chain(t.add_decayed_weights(0.1), t.scale_by_learning_rate(0.5)))
    >>> opt.step(np.zeros(2))
    >>> w
    array([ 0.95, -1.9 ])
    """
    settings = nonnegative("weight_decay", weight_decay), nonnegative("lr", lr)
    hyper = per_step(lambda decay, rate: (decay * rate,), *settings)
    named = {"weight_decay": (nonnegative, settings[0])} if settings[1] == 1.0 else {}
    return Transform(decay_update, hyper=hyper, no_gradient=decay_update, settings=named)
