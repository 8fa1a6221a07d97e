"""LAMB."""

from __future__ import annotations

from fastopt import transforms as t
from fastopt.optimizers.dialects import DIALECTS
from fastopt.optimizers.named import NamedOptimizer
from fastopt.optimizers.settings import Flag, Number, setting
from fastopt.optimizers.shared_options import decoupled_decay
from fastopt.transforms.base import Transform


class LAMB(NamedOptimizer):
    """Adam with a rate for each array: its step is as large as its parameter, times the rate.

    With ``m`` and ``v`` as in `Adam`, step ``t = 1, 2, ...`` of each array ``w`` is ::

        u = m / (1 - beta1**t) / (sqrt(v / (1 - beta2**t)) + eps) + weight_decay * w
        w = w - lr * |w| / |u| * u

    with Euclidean norms; where one of them is zero, ``w = w - lr * u``.

    Parameters
    ----------
    params : array, or list, tuple or dict of arrays, or groups
        What to optimize, updated in place. Each array is a layer.
    lr : float or schedule, default 1e-3
        Learning rate, >= 0.
    beta1, beta2 : float or schedule, default 0.9 and 0.999
        Weights of the past, in [0, 1).
    eps : float or schedule, default 1e-6
        >= 0.
    eps_inside_sqrt : bool, default False
        Divide by ``sqrt(v' + eps)`` instead.
    bias_correction : bool, default True
        Without it ``m`` and ``v`` are used as they are.
    decoupled_weight_decay : bool, default True
        With False ``weight_decay`` is added to the gradient instead.
    **shared
        Options of every optimizer: see `fastopt.optimizers.shared_options.SharedOptions`.

    Attributes
    ----------
    state : dict
        ``exp_avg``, ``exp_avg_sq``.

    Notes
    -----
    Two passes: one reads parameter, gradient and states for the norms, one steps; `clip_norm` adds
    another read of the gradients. Without sparse gradients. The paper lets a function of ``|w|``
    stand in its place, which is the identity here, as in optax.

    References
    ----------
    Y. You and others, "Large batch optimization for deep learning: training BERT in 76 minutes",
    arXiv:1904.00962, algorithm 2.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> w = np.array([3.0, 4.0])
    >>> opt = fastopt.LAMB(w, lr=0.1)
    >>> opt.step(np.array([0.0, 8.0]))
    >>> w
    array([3. , 3.5])
    """

    __slots__ = ()

    usual_lr = 0.1
    dialects = DIALECTS["LAMB"]

    lr: Number = setting(default=1e-3)
    beta1: Number = setting(default=0.9)
    beta2: Number = setting(default=0.999)
    eps: Number = setting(default=1e-6)
    eps_inside_sqrt: Flag = setting(default=False, kw_only=True)
    bias_correction: Flag = setting(default=True, kw_only=True)
    decoupled_weight_decay: Flag = setting(default=True, kw_only=True)

    def make_parts(self) -> list[Transform]:
        """Which transforms these settings ask for, in which order."""
        flags = {"eps_inside_sqrt": self.eps_inside_sqrt, "bias_correction": self.bias_correction}
        adam = t.scale_by_adam(self.beta1, self.beta2, self.eps, **flags)
        ratio = t.scale_by_trust_ratio()
        return [adam, *decoupled_decay(self), ratio, t.scale_by_learning_rate(self.lr)]
