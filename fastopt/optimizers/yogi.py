"""Yogi."""

from __future__ import annotations

from fastopt import transforms as t
from fastopt.optimizers.dialects import DIALECTS
from fastopt.optimizers.named import NamedOptimizer
from fastopt.optimizers.settings import Flag, Number, Rate, SettingField, setting
from fastopt.transforms.base import Transform


class Yogi(NamedOptimizer):
    """Adam whose second moment falls as slowly as it rises.

    With gradient ``g``, averages ``m`` and ``v`` and parameter ``w``, step ``t = 1, 2, ...`` is ::

        m = beta1 * m + (1 - beta1) * g
        v = v - (1 - beta2) * sign(v - g * g) * g * g
        w = w - lr * (m / (1 - beta1**t)) / (sqrt(v / (1 - beta2**t)) + eps)

    Parameters
    ----------
    params : array, or list, tuple or dict of arrays, or groups
        What to optimize, updated in place.
    lr : float, schedule or "auto", default 1e-3
        Learning rate, >= 0. The paper takes 1e-2.
    beta1, beta2 : float or schedule, default 0.9 and 0.999
        Weights of the past, in [0, 1).
    eps : float or schedule, default 1e-3
        >= 0.
    bias_correction : bool, default True
        Without it the divisions by ``1 - beta**t`` are left out, as in the paper.
    initial_accumulator : float, default 1e-6
        Where ``v`` starts, >= 0.
    initial_average : float, default 0
        Where ``m`` starts.
    **shared
        Options of every optimizer: see `fastopt.optimizers.shared_options.SharedOptions`.

    Attributes
    ----------
    state : dict
        ``exp_avg``, ``exp_avg_sq``.

    Notes
    -----
    optax starts ``m`` at 1e-6 too, and corrects both averages as if they started at zero.

    References
    ----------
    M. Zaheer et al., "Adaptive methods for nonconvex optimization", NeurIPS 2018, algorithm 2.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> w = np.array([5.0])
    >>> opt = fastopt.Yogi(w, lr=0.1)
    >>> opt.step(2 * w)
    >>> w
    array([4.9000105])
    """

    __slots__ = ()

    usual_lr = 0.3
    dialects = DIALECTS["Yogi"]

    lr: Rate = setting(default=1e-3)
    beta1: Number = setting(default=0.9)
    beta2: Number = setting(default=0.999)
    eps: Number = setting(default=1e-3)
    bias_correction: Flag = setting(default=True, kw_only=True)
    initial_accumulator: SettingField[float, float] = setting(default=1e-6, kw_only=True, fixed=True)
    initial_average: SettingField[float, float] = setting(default=0.0, kw_only=True, fixed=True)

    def make_parts(self) -> list[Transform]:
        """Which transforms these settings ask for, in which order."""
        normalize = t.scale_by_yogi(
            self.beta1,
            self.beta2,
            self.eps,
            bias_correction=self.bias_correction,
            initial_accumulator=self.initial_accumulator,
            initial_average=self.initial_average,
        )
        return [normalize, *self.decay_and_rate()]
