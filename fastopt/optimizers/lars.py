"""LARS."""

from __future__ import annotations

from fastopt import transforms as t
from fastopt.optimizers.dialects import DIALECTS
from fastopt.optimizers.named import NamedOptimizer
from fastopt.optimizers.settings import Flag, Number, setting
from fastopt.optimizers.shared_options import decoupled_decay
from fastopt.transforms.base import Transform
from fastopt.validation import flag, fraction, is_on, nonnegative, positive


class LARS(NamedOptimizer):
    """Gradient descent with momentum, and a rate for each array by the size of its parameter.

    With gradient ``g``, momentum buffer ``m`` and parameter ``w``, a step of each array is ::

        u = g + weight_decay * w
        m = momentum * m + lr * trust_coefficient * |w| / (|u| + eps) * u
        w = w - m

    with Euclidean norms; where one of them is zero, ``m = momentum * m + lr * u``.

    Parameters
    ----------
    params : array, or list, tuple or dict of arrays, or groups
        What to optimize, updated in place. Each array is a layer.
    lr : float or schedule, default 1.0
        Learning rate, >= 0.
    momentum : float or schedule, default 0.9
        In [0, 1].
    trust_coefficient : float or schedule, default 1e-3
        How large a step is beside the parameter, > 0.
    eps : float or schedule, default 0
        >= 0.
    nesterov : bool, default False
        Step by ``momentum * m`` and the newest summand, instead of by ``m``.
    **shared
        Options of every optimizer: see `fastopt.optimizers.shared_options.SharedOptions`.

    Attributes
    ----------
    state : dict
        ``momentum_buffer``, if there is momentum.

    Notes
    -----
    Two passes: one reads parameter and gradient for the norms, one steps. Without sparse
    gradients. As in optax the norm is that of ``g + weight_decay * w``; the paper has
    ``|g| + weight_decay * |w|``, which is the same without weight decay and larger with it.

    References
    ----------
    Y. You, I. Gitman, B. Ginsburg, "Large batch training of convolutional networks",
    arXiv:1708.03888, algorithm 1.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> w = np.array([3.0, 4.0])
    >>> opt = fastopt.LARS(w, lr=1.0, trust_coefficient=0.1)
    >>> opt.step(np.array([0.0, 8.0]))
    >>> w
    array([3. , 3.5])
    """

    __slots__ = ()

    usual_lr = 1.0
    dialects = DIALECTS["LARS"]

    lr: Number = setting(default=1.0)
    momentum: Number = setting(default=0.9)
    trust_coefficient: Number = setting(default=1e-3)
    eps: Number = setting(default=0.0)
    nesterov: Flag = setting(default=False, kw_only=True)

    def make_parts(self) -> list[Transform]:
        """Which transforms these settings ask for, in which order."""
        on = is_on(fraction("momentum", self.momentum))
        if flag("nesterov", self.nesterov) and not on:
            raise ValueError("nesterov=True needs a momentum > 0, got momentum=0")
        gather = [t.trace(self.momentum, nesterov=self.nesterov)] if on else []
        coefficient = positive("trust_coefficient", self.trust_coefficient)
        ratio = t.scale_by_trust_ratio(coefficient, self.eps)
        decay = decoupled_decay(self, nonnegative("lr", self.lr))
        return [ratio, t.scale_by_learning_rate(self.lr), *gather, *decay]
