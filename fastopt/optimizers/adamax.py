"""AdaMax."""

from __future__ import annotations

from fastopt import transforms as t
from fastopt.optimizers.dialects import DIALECTS
from fastopt.optimizers.named import NamedOptimizer
from fastopt.optimizers.settings import Flag, Number, Rate, setting
from fastopt.transforms.base import Transform


class AdaMax(NamedOptimizer):
    """Adam with the largest recent gradient in the place of the root of squares.

    With gradient ``g``, average ``m``, norm ``n`` and parameter ``w``, step ``t = 1, 2, ...`` is ::

        m = beta1 * m + (1 - beta1) * g
        n = max(beta2 * n, abs(g) + eps)
        w = w - lr / (1 - beta1**t) * m / n

    Parameters
    ----------
    params : array, or list, tuple or dict of arrays, or groups
        What to optimize, updated in place.
    lr : float, schedule or "auto", default 2e-3
        Learning rate, >= 0.
    beta1, beta2 : float or schedule, default 0.9 and 0.999
        Weights of the past, in [0, 1).
    eps : float or schedule, default 1e-8
        >= 0. The paper has none, which is 0: then elements without any gradient become NaN.
    eps_inside_max : bool, default True
        Or else ``n = max(beta2 * n, abs(g))`` and ``m / (n + eps)``.
    **shared
        Options of every optimizer: see `fastopt.optimizers.shared_options.SharedOptions`.

    Attributes
    ----------
    state : dict
        ``exp_avg``, ``exp_inf``.

    Notes
    -----
    torch and optax have epsilon inside the maximum, Keras adds it to the result.

    References
    ----------
    D. P. Kingma, J. Ba, "Adam: a method for stochastic optimization", arXiv:1412.6980, algorithm 2.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> w = np.array([5.0])
    >>> opt = fastopt.AdaMax(w, lr=0.1)
    >>> opt.step(2 * w)
    >>> w
    array([4.9])
    """

    __slots__ = ()

    usual_lr = 0.3
    dialects = DIALECTS["AdaMax"]

    lr: Rate = setting(default=2e-3)
    beta1: Number = setting(default=0.9)
    beta2: Number = setting(default=0.999)
    eps: Number = setting(default=1e-8)
    eps_inside_max: Flag = setting(default=True, kw_only=True)

    def make_parts(self) -> list[Transform]:
        """Which transforms these settings ask for, in which order."""
        normalize = t.scale_by_adamax(
            self.beta1, self.beta2, self.eps, eps_inside_max=self.eps_inside_max
        )
        return [normalize, *self.decay_and_rate()]
