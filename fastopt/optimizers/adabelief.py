"""AdaBelief."""

from __future__ import annotations

from fastopt import transforms as t
from fastopt.optimizers.dialects import DIALECTS
from fastopt.optimizers.named import NamedOptimizer
from fastopt.optimizers.settings import Number, Rate, setting
from fastopt.transforms.base import Transform


class AdaBelief(NamedOptimizer):
    """Adam that divides by how far gradients are from their average, not by how large they are.

    With gradient ``g``, averages ``m`` and ``s`` and parameter ``w``, step ``t = 1, 2, ...`` is ::

        m = beta1 * m + (1 - beta1) * g
        s = beta2 * s + (1 - beta2) * (g - m)**2 + eps_root
        w = w - lr * (m / (1 - beta1**t)) / (sqrt(s / (1 - beta2**t)) + eps)

    Parameters
    ----------
    params : array, or list, tuple or dict of arrays, or groups
        What to optimize, updated in place.
    lr : float, schedule or "auto", default 1e-3
        Learning rate, >= 0.
    beta1, beta2 : float or schedule, default 0.9 and 0.999
        Weights of the past, in [0, 1).
    eps : float or schedule, default 1e-16
        >= 0.
    eps_root : float or schedule, default 1e-16
        Added to ``s`` at every step, >= 0.
    **shared
        Options of every optimizer: see `fastopt.optimizers.shared_options.SharedOptions`.

    Attributes
    ----------
    state : dict
        ``exp_avg``, ``exp_avg_var``.

    Notes
    -----
    The paper has one epsilon in both places. Its authors' code decays the weights decoupled and
    rectifies as `RAdam` does, if not told otherwise; optax does neither.

    References
    ----------
    J. Zhuang et al., "AdaBelief optimizer: adapting stepsizes by the belief in observed gradients",
    arXiv:2010.07468, algorithm 2.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> w = np.array([5.0])
    >>> opt = fastopt.AdaBelief(w, lr=0.1)
    >>> opt.step(2 * w)
    >>> w
    array([4.88888889])
    """

    __slots__ = ()

    usual_lr = 0.1
    dialects = DIALECTS["AdaBelief"]

    lr: Rate = setting(default=1e-3)
    beta1: Number = setting(default=0.9)
    beta2: Number = setting(default=0.999)
    eps: Number = setting(default=1e-16)
    eps_root: Number = setting(default=1e-16, kw_only=True)

    def make_parts(self) -> list[Transform]:
        """Which transforms these settings ask for, in which order."""
        normalize = t.scale_by_belief(self.beta1, self.beta2, self.eps, self.eps_root)
        return [normalize, *self.decay_and_rate()]
