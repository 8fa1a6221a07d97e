"""ASGD."""

from __future__ import annotations

from fastopt import transforms as t
from fastopt.optimizers.dialects import DIALECTS
from fastopt.optimizers.named import NamedOptimizer
from fastopt.optimizers.settings import Number, setting
from fastopt.optimizers.shared_options import decoupled_decay, derived_rate
from fastopt.transforms.base import Transform, factory
from fastopt.validation import Setting, at, nonnegative


@factory
def scale_by_asgd_rate(lr: Setting, lambd: Setting, alpha: Setting) -> Transform:
    """Multiply by ``-lr / (1 + lambd * lr * t)**alpha``."""
    lr, lambd, alpha = nonnegative("lr", lr), nonnegative("lambd", lambd), nonnegative("alpha", alpha)

    def rate(step: int) -> float:
        base = at(lr, step)
        eta: float = base / (1.0 + at(lambd, step) * base * step) ** at(alpha, step)
        return eta

    return derived_rate(rate, lr)


class ASGD(NamedOptimizer):
    """Gradient descent with a falling rate, and a plain average of the parameters from some step on.

    With gradient ``g``, parameter ``w`` and its average ``a``, step ``t = 0, 1, ...`` is ::

        eta = lr / (1 + lambd * lr * t)**alpha
        w = w - eta * (g + lambd * w)
        a = a + (w - a) / max(1, t - t0)

    Parameters
    ----------
    params : array, or list, tuple or dict of arrays, or groups
        What to optimize, updated in place.
    lr : float or schedule, default 1e-2
        Learning rate, >= 0.
    lambd : float or schedule, default 1e-4
        Decay of the parameters, and of the rate, >= 0.
    alpha : float or schedule, default 0.75
        How the rate falls, >= 0.
    t0 : float or schedule, default 1e6
        From which step on ``a`` averages, >= 0; up to then it is a copy of ``w``.
    **shared
        Options of every optimizer: see `fastopt.optimizers.shared_options.SharedOptions`.

    Attributes
    ----------
    state : dict
        ``ax``: what to evaluate with in the end.

    Notes
    -----
    torch computes the rate of a step at the end of the one before: if ``lr`` is changed there, it acts
    one step later. `average_decay` of every optimizer is an exponential average instead.

    References
    ----------
    B. T. Polyak, A. B. Juditsky, "Acceleration of stochastic approximation by averaging", SIAM J.
    Control Optim. 30(4), 1992.
    W. Xu, "Towards optimal one pass large scale learning with averaged stochastic gradient descent",
    arXiv:1107.2490, section 4 (the rate).

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> w = np.array([5.0])
    >>> opt = fastopt.ASGD(w, lr=0.1, t0=1)
    >>> for _ in range(4):
    ...     opt.step(2 * w)
    >>> w, opt.state["ax"]
    (array([2.04792064]), array([2.30391952]))
    """

    __slots__ = ()

    has_automatic_lr = False
    usual_lr = "curvature"
    dialects = DIALECTS["ASGD"]

    lr: Number = setting(default=1e-2)
    lambd: Number = setting(default=1e-4)
    alpha: Number = setting(default=0.75)
    t0: Number = setting(default=1e6)

    def make_parts(self) -> list[Transform]:
        """Which transforms these settings ask for, in which order."""
        rate = scale_by_asgd_rate(self.lr, self.lambd, self.alpha)
        pull = t.add_decayed_weights(nonnegative("lambd", self.lambd))
        return [pull, *decoupled_decay(self), rate, t.average_evenly(self.t0)]
