"""RAdam."""

from __future__ import annotations

from fastopt import transforms as t
from fastopt.optimizers.dialects import DIALECTS
from fastopt.optimizers.named import NamedOptimizer
from fastopt.optimizers.settings import Flag, Number, Rate, SettingField, setting
from fastopt.transforms.base import Transform


class RAdam(NamedOptimizer):
    """Adam that averages only, until its second moment is known well enough to divide by.

    With averages ``m`` and ``v`` as in `Adam` and parameter ``w``, step ``t = 1, 2, ...`` is ::

        rho_t = rho - 2 * t * beta2**t / (1 - beta2**t)        rho = 2 / (1 - beta2) - 1
        r = sqrt((rho_t - 4) * (rho_t - 2) * rho / ((rho - 4) * (rho - 2) * rho_t))
        w = w - lr * r * (m / (1 - beta1**t)) / (sqrt(v / (1 - beta2**t)) + eps)    if rho_t > threshold
        w = w - lr * (m / (1 - beta1**t))                                           else

    Parameters
    ----------
    params : array, or list, tuple or dict of arrays, or groups
        What to optimize, updated in place.
    lr : float, schedule or "auto", default 1e-3
        Learning rate, >= 0.
    beta1, beta2 : float or schedule, default 0.9 and 0.999
        Weights of the past, in [0, 1). With ``beta2 <= 0.6`` it never divides.
    eps : float or schedule, default 1e-8
        >= 0.
    threshold : float, default 5
        >= 4. With 5 and ``beta2=0.999`` the first five steps do not divide.
    eps_inside_sqrt : bool, default False
        ``sqrt(v' + eps)`` instead of ``sqrt(v') + eps``.
    **shared
        Options of every optimizer: see `fastopt.optimizers.shared_options.SharedOptions`.

    Attributes
    ----------
    state : dict
        ``exp_avg``, ``exp_avg_sq``.

    Notes
    -----
    The paper has the threshold 4 and no epsilon; its authors' code, torch and optax have 5. torch
    compares epsilon with the uncorrected ``sqrt(v)``, and ``RAdam.like("torch", ...)`` does too.

    References
    ----------
    L. Liu et al., "On the variance of the adaptive learning rate and beyond", arXiv:1908.03265,
    algorithm 2.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> w = np.array([5.0])
    >>> opt = fastopt.RAdam(w, lr=0.1)
    >>> for _ in range(6):
    ...     opt.step(2 * w)
    >>> w
    array([1.00610989])
    """

    __slots__ = ()

    usual_lr = 0.005
    dialects = DIALECTS["RAdam"]

    lr: Rate = setting(default=1e-3)
    beta1: Number = setting(default=0.9)
    beta2: Number = setting(default=0.999)
    eps: Number = setting(default=1e-8)
    threshold: SettingField[float, float] = setting(default=5.0, kw_only=True, fixed=True)
    eps_inside_sqrt: Flag = setting(default=False, kw_only=True)

    def make_parts(self) -> list[Transform]:
        """Which transforms these settings ask for, in which order."""
        normalize = t.scale_by_radam(
            self.beta1,
            self.beta2,
            self.eps,
            threshold=self.threshold,
            eps_inside_sqrt=self.eps_inside_sqrt,
        )
        return [normalize, *self.decay_and_rate()]
