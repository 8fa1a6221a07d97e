"""Adan."""

from __future__ import annotations

from fastopt import transforms as t
from fastopt.optimizers.dialects import DIALECTS
from fastopt.optimizers.named import NamedOptimizer
from fastopt.optimizers.settings import Flag, Number, OptionalNumber, Rate, setting
from fastopt.optimizers.shared_options import decoupled_decay, derived_rate
from fastopt.transforms.base import Transform, factory
from fastopt.validation import Setting, at, flag, nonnegative


@factory
def scale_by_proximal_rate(lr: Setting, weight_decay: Setting) -> Transform:
    """Multiply by ``-lr / (1 + lr * weight_decay)``."""
    lr, strength = nonnegative("lr", lr), nonnegative("weight_decay", weight_decay)

    def rate(step: int) -> float:
        eta = at(lr, step)
        return eta / (1.0 + eta * at(strength, step))

    return derived_rate(rate, lr)


class Adan(NamedOptimizer):
    """Nesterov's momentum, looking ahead by the change of the gradient since the last step.

    With gradient ``g``, its change ``c`` (0 in the first step), averages ``m``, ``d`` and ``n`` and
    parameter ``w``, step ``t = 1, 2, ...`` is ::

        m = beta1 * m + (1 - beta1) * g
        d = beta2 * d + (1 - beta2) * c
        n = beta3 * n + (1 - beta3) * (g + look_ahead * c)**2
        u = (m' + look_ahead * d') / (sqrt(n' + eps_root) + eps)        x' = x / (1 - beta**t) of each
        w = w - lr * (u + weight_decay * w)

    Parameters
    ----------
    params : array, or list, tuple or dict of arrays, or groups
        What to optimize, updated in place.
    lr : float, schedule or "auto", default 1e-3
        Learning rate, >= 0.
    beta1, beta2, beta3 : float or schedule, default 0.98, 0.92 and 0.99
        Weights of the past, in [0, 1). The paper's are one minus these.
    eps : float or schedule, default 1e-8
        >= 0.
    eps_root : float or schedule, default 0
        >= 0.
    look_ahead : float or schedule, optional
        Weight of the change, in [0, 1]; by default ``beta2``, which is the paper's.
    bias_correction : bool, default True
        Without it ``x' = x``, as in the paper's algorithm; its authors' code corrects.
    proximal : bool, default False
        With decoupled decay ``w = (w - lr * u) / (1 + lr * weight_decay)`` instead, as in the paper.
    decoupled_weight_decay : bool, default True
        With False the decay is added to the gradient.
    **shared
        Options of every optimizer: see `fastopt.optimizers.shared_options.SharedOptions`.

    Attributes
    ----------
    state : dict
        ``exp_avg``, ``exp_avg_diff``, ``exp_avg_sq``, ``previous_grad``.

    Notes
    -----
    optax weighs the change by ``1 - b2``, 0.08 where the paper and its authors' code have 0.92, and has
    both epsilons. The change is that between the gradients that the rule gets: after clipping, coupled
    decay and `grad_scale`.

    References
    ----------
    X. Xie et al., "Adan: adaptive Nesterov momentum algorithm for faster optimizing deep models",
    arXiv:2208.06677, algorithm 1.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> w = np.array([5.0])
    >>> opt = fastopt.Adan(w, lr=0.1)
    >>> opt.step(2 * w)
    >>> w
    array([4.9])
    """

    __slots__ = ()

    usual_lr = 0.1
    dialects = DIALECTS["Adan"]

    lr: Rate = setting(default=1e-3)
    beta1: Number = setting(default=0.98)
    beta2: Number = setting(default=0.92)
    beta3: Number = setting(default=0.99)
    eps: Number = setting(default=1e-8)
    eps_root: Number = setting(default=0.0, kw_only=True)
    look_ahead: OptionalNumber = setting(default=None, kw_only=True)
    bias_correction: Flag = setting(default=True, kw_only=True)
    proximal: Flag = setting(default=False, kw_only=True)
    decoupled_weight_decay: Flag = setting(default=True, kw_only=True)

    def make_parts(self) -> list[Transform]:
        """Which transforms these settings ask for, in which order."""
        normalize = t.scale_by_adan(
            self.beta1,
            self.beta2,
            self.beta3,
            self.eps,
            eps_root=self.eps_root,
            look_ahead=self.look_ahead,
            bias_correction=self.bias_correction,
        )
        decay = decoupled_decay(self)
        if not (flag("proximal", self.proximal) and decay):
            return [normalize, *self.decay_and_rate()]
        # (w - lr u) / (1 + lr decay) = w - rate (u + decay w)
        return [normalize, *decay, scale_by_proximal_rate(self.lr, self.weight_decay)]
