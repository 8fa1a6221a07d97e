"""AdaGrad."""

from __future__ import annotations

from fastopt import transforms as t
from fastopt.optimizers.dialects import DIALECTS
from fastopt.optimizers.named import NamedOptimizer
from fastopt.optimizers.settings import Flag, Number, Rate, SettingField, setting
from fastopt.optimizers.shared_options import decoupled_decay, derived_rate
from fastopt.transforms.base import Transform, factory
from fastopt.validation import Setting, at, nonnegative


@factory
def scale_by_falling_rate(lr: Setting, lr_decay: Setting) -> Transform:
    """Multiply by ``-lr / (1 + t * lr_decay)``."""
    lr, decay = nonnegative("lr", lr), nonnegative("lr_decay", lr_decay)

    def rate(step: int) -> float:
        return at(lr, step) / (1.0 + step * at(decay, step))

    return derived_rate(rate, lr)


class AdaGrad(NamedOptimizer):
    """Gradient descent with a rate for every element: divided by the root of the sum of its squares.

    With gradient ``g``, sum of squares ``s`` and parameter ``w``, step ``t = 0, 1, ...`` is ::

        s = s + g * g
        w = w - lr / (1 + t * lr_decay) * g / sqrt(s + eps)

    Parameters
    ----------
    params : array, or list, tuple or dict of arrays, or groups
        What to optimize, updated in place.
    lr : float, schedule or "auto", default 1e-2
        Learning rate, >= 0.
    eps : float or schedule, default 1e-10
        >= 0.
    eps_inside_sqrt : bool, default True
        ``sqrt(s + eps)``, or else ``sqrt(s) + eps``.
    lr_decay : float or schedule, default 0
        How fast the rate falls on top of what the sum does, >= 0.
    initial_accumulator : float, default 0
        Where ``s`` starts, >= 0.
    guard_zero : bool, default False
        Leave an element where it is while ``s`` is zero, whatever `eps` is, as optax does.
    **shared
        Options of every optimizer: see `fastopt.optimizers.shared_options.SharedOptions`.

    Attributes
    ----------
    state : dict
        ``sum``.

    Notes
    -----
    torch has epsilon outside the root; Keras and optax start ``s`` at 0.1.

    References
    ----------
    J. Duchi, E. Hazan, Y. Singer, "Adaptive subgradient methods for online learning and stochastic
    optimization", JMLR 12, 2011.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> w = np.array([5.0])
    >>> opt = fastopt.AdaGrad(w, lr=0.1)
    >>> for _ in range(2):
    ...     opt.step(2 * w)
    >>> w
    array([4.83000714])
    """

    __slots__ = ()

    usual_lr = 1.0
    dialects = DIALECTS["AdaGrad"]

    lr: Rate = setting(default=1e-2)
    eps: Number = setting(default=1e-10)
    eps_inside_sqrt: Flag = setting(default=True, kw_only=True)
    lr_decay: Number = setting(default=0.0, kw_only=True)
    initial_accumulator: SettingField[float, float] = setting(default=0.0, kw_only=True, fixed=True)
    guard_zero: Flag = setting(default=False, kw_only=True, fixed=True)

    def make_parts(self) -> list[Transform]:
        """Which transforms these settings ask for, in which order."""
        normalize = t.scale_by_rss(
            self.eps,
            eps_inside_sqrt=self.eps_inside_sqrt,
            initial_accumulator=self.initial_accumulator,
            guard_zero=self.guard_zero,
        )
        falls = callable(self.lr_decay) or nonnegative("lr_decay", self.lr_decay) != 0.0
        scale = t.scale_by_learning_rate(self.lr)
        if falls:
            scale = scale_by_falling_rate(self.lr, self.lr_decay)
        return [normalize, *decoupled_decay(self), scale]
