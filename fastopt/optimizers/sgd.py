"""Gradient descent."""

from __future__ import annotations

from typing import ClassVar

from fastopt.optimizers.dialects import DIALECTS
from fastopt.optimizers.named import NamedOptimizer
from fastopt.optimizers.settings import Flag, Number, Rate, setting
from fastopt.optimizers.shared_options import momentum_and_rate
from fastopt.transforms.base import Transform


class SGD(NamedOptimizer):
    """Gradient descent, with momentum as a sum or as an exponentially weighted average.

    With gradient ``g``, momentum buffer ``m`` (from zero) and parameter ``w``, one step is ::

        m = momentum * m + (1 - dampening) * g
        w = w - lr * m

    and without momentum ``w = w - lr * g``.

    Parameters
    ----------
    params : array, or list, tuple or dict of arrays, or groups
        What to optimize, updated in place.
    lr : float, schedule or "auto", default 1e-2
        Learning rate, >= 0.
    momentum : float or schedule, default 0
        In [0, 1].
    dampening : float or schedule, default 0
        In [0, 1]. With ``dampening = momentum`` the buffer is an exponentially weighted average.
    nesterov : bool, keyword only, default False
        Move by ``g + momentum * m``.
    lr_in_momentum : bool, keyword only, default False
        ``m`` gathers ``lr * g``, as in Keras: another result when the rate changes between steps.
    **shared
        Options of every optimizer: see `fastopt.optimizers.shared_options.SharedOptions`.

    Attributes
    ----------
    state : dict
        With momentum: ``momentum_buffer``.

    Notes
    -----
    torch leaves `dampening` out of the first step; ``SGD.like("torch", ...)`` does too.

    References
    ----------
    B. T. Polyak, "Some methods of speeding up the convergence of iteration methods", 1964.
    I. Sutskever et al., "On the importance of initialization and momentum in deep learning", 2013.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> w = np.array([5.0])                       # minimize w**2
    >>> opt = fastopt.SGD(w, lr=0.1, momentum=0.9, dampening=0.9)
    >>> for _ in range(3):
    ...     opt.step(2 * w)
    >>> w
    array([4.44856])
    """

    __slots__ = ()

    usual_lr = "curvature"
    usual_settings: ClassVar = {"momentum": 0.9}
    dialects = DIALECTS["SGD"]

    lr: Rate = setting(default=1e-2)
    momentum: Number = setting(default=0.0)
    dampening: Number = setting(default=0.0)
    nesterov: Flag = setting(default=False, kw_only=True)
    lr_in_momentum: Flag = setting(default=False, kw_only=True)

    def make_parts(self) -> list[Transform]:
        """Which transforms these settings ask for, in which order."""
        return momentum_and_rate(self, self.dampening)
