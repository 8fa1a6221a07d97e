"""QHAdam."""

from __future__ import annotations

from fastopt import transforms as t
from fastopt.optimizers.dialects import DIALECTS
from fastopt.optimizers.named import NamedOptimizer
from fastopt.optimizers.settings import Number, Rate, setting
from fastopt.transforms.base import Transform


class QHAdam(NamedOptimizer):
    """Adam with the gradient itself mixed into its averages where they are used.

    With gradient ``g``, parameter ``w``, averages ``m`` and ``v`` as in `Adam`, and both corrected as
    there, ``m'`` and ``v'``, one step is ::

        u = (1 - nu1) * g + nu1 * m'
        w = w - lr * u / (sqrt((1 - nu2) * g * g + nu2 * v') + eps)

    Parameters
    ----------
    params : array, or list, tuple or dict of arrays, or groups
        What to optimize, updated in place.
    lr : float, schedule or "auto", default 1e-3
        Learning rate, >= 0.
    beta1, beta2 : float or schedule, default 0.995 and 0.999
        Weights of the past, in [0, 1).
    eps : float or schedule, default 1e-8
        >= 0.
    nu1, nu2 : float or schedule, default 0.7 and 1
        Weights of the averages, in [0, 1]. With 1 and 1 it is `Adam`.
    **shared
        Options of every optimizer: see `fastopt.optimizers.shared_options.SharedOptions`.

    Attributes
    ----------
    state : dict
        ``exp_avg``, ``exp_avg_sq``.

    Notes
    -----
    The defaults are the authors' advice; their package qhoptim has ``nus=(1, 1)`` and
    ``betas=(0.9, 0.999)``, with which it is Adam.

    References
    ----------
    J. Ma, D. Yarats, "Quasi-hyperbolic momentum and Adam for deep learning", arXiv:1810.06801,
    section 4 and appendix.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> w = np.array([5.0])
    >>> opt = fastopt.QHAdam(w, lr=0.1)
    >>> opt.step(2 * w)
    >>> w
    array([4.9])
    """

    __slots__ = ()

    usual_lr = 0.1
    dialects = DIALECTS["QHAdam"]

    lr: Rate = setting(default=1e-3)
    beta1: Number = setting(default=0.995)
    beta2: Number = setting(default=0.999)
    eps: Number = setting(default=1e-8)
    nu1: Number = setting(default=0.7, kw_only=True)
    nu2: Number = setting(default=1.0, kw_only=True)

    def make_parts(self) -> list[Transform]:
        """Which transforms these settings ask for, in which order."""
        normalize = t.scale_by_qhadam(self.beta1, self.beta2, self.eps, nu1=self.nu1, nu2=self.nu2)
        return [normalize, *self.decay_and_rate()]
