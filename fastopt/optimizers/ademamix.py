"""AdEMAMix."""

from __future__ import annotations

from fastopt import transforms as t
from fastopt.optimizers.dialects import DIALECTS
from fastopt.optimizers.named import NamedOptimizer
from fastopt.optimizers.settings import Flag, Number, Rate, SettingField, setting
from fastopt.transforms.base import Transform


class AdEMAMix(NamedOptimizer):
    """Adam with a second, much slower average of the gradient.

    With gradient ``g``, averages ``m``, ``s`` and ``v`` and parameter ``w``, step ``t = 1, ...`` is ::

        m = beta1 * m + (1 - beta1) * g
        s = beta3 * s + (1 - beta3) * g
        v = beta2 * v + (1 - beta2) * g * g
        u = (m / (1 - beta1**t) + alpha * s) / (sqrt(v / (1 - beta2**t)) + eps)
        w = w - lr * (u + weight_decay * w)

    Parameters
    ----------
    params : array, or list, tuple or dict of arrays, or groups
        What to optimize, updated in place.
    lr : float, schedule or "auto", default 1e-3
        Learning rate, >= 0.
    beta1, beta2 : float or schedule, default 0.9 and 0.999
        Weights of the past, in [0, 1).
    eps : float or schedule, default 1e-8
        >= 0.
    beta3 : float or schedule, default 0.9999
        Weight of the past in the slow average, in [0, 1).
    alpha : float or schedule, default 5
        Weight of the slow average, >= 0.
    warmup_steps : int, default 0
        For so many steps ``alpha`` rises evenly from 0, and the half-life of the slow average from that
        of ``beta1``. The paper takes all steps of a run.
    decoupled_weight_decay : bool, default True
        With False the decay is added to the gradient.
    **shared
        Options of every optimizer: see `fastopt.optimizers.shared_options.SharedOptions`.

    Attributes
    ----------
    state : dict
        ``exp_avg_fast``, ``exp_avg_slow``, ``exp_avg_sq``.

    Notes
    -----
    optax takes schedules for ``b3`` and ``alpha`` in the place of the warm-up.

    References
    ----------
    M. Pagliardini, P. Ablin, D. Grangier, "The AdEMAMix optimizer: better, faster, older",
    arXiv:2409.03137, algorithm 1 and equations 4 and 5.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> w = np.array([5.0])
    >>> opt = fastopt.AdEMAMix(w, lr=0.1, warmup_steps=100)
    >>> opt.step(2 * w)
    >>> w
    array([4.8999545])
    """

    __slots__ = ()

    usual_lr = 0.1
    dialects = DIALECTS["AdEMAMix"]

    lr: Rate = setting(default=1e-3)
    beta1: Number = setting(default=0.9)
    beta2: Number = setting(default=0.999)
    eps: Number = setting(default=1e-8)
    beta3: Number = setting(default=0.9999, kw_only=True)
    alpha: Number = setting(default=5.0, kw_only=True)
    warmup_steps: SettingField[int, int] = setting(default=0, kw_only=True, fixed=True)
    decoupled_weight_decay: Flag = setting(default=True, kw_only=True)

    def make_parts(self) -> list[Transform]:
        """Which transforms these settings ask for, in which order."""
        normalize = t.scale_by_ademamix(
            self.beta1,
            self.beta2,
            self.eps,
            beta3=self.beta3,
            alpha=self.alpha,
            warmup_steps=self.warmup_steps,
        )
        return [normalize, *self.decay_and_rate()]
