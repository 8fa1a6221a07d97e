"""AdaDelta."""

from __future__ import annotations

from fastopt import transforms as t
from fastopt.optimizers.dialects import DIALECTS
from fastopt.optimizers.named import NamedOptimizer
from fastopt.optimizers.settings import Number, Rate, setting
from fastopt.transforms.base import Transform


class AdaDelta(NamedOptimizer):
    """Steps in the parameter's own units: the recent step size over the recent gradient size.

    With gradient ``g``, averages ``v`` and ``a`` and parameter ``w``, one step is ::

        v = rho * v + (1 - rho) * g * g
        d = sqrt(a + eps) / sqrt(v + eps) * g
        a = rho * a + (1 - rho) * d * d
        w = w - lr * d

    Parameters
    ----------
    params : array, or list, tuple or dict of arrays, or groups
        What to optimize, updated in place.
    lr : float, schedule or "auto", default 1
        Learning rate, >= 0. The paper has none, which is 1.
    rho : float or schedule, default 0.9
        Weight of the past in both averages, in [0, 1).
    eps : float or schedule, default 1e-6
        >= 0. The first steps are as long as its root: with 0 nothing ever moves.
    **shared
        Options of every optimizer: see `fastopt.optimizers.shared_options.SharedOptions`.

    Attributes
    ----------
    state : dict
        ``square_avg``, ``acc_delta``.

    Notes
    -----
    The paper tried ``rho=0.95``, which is Keras's default; torch and optax have 0.9. Keras's rate is
    1e-3, a thousandth of all others. With ``sparse="exact"`` it has a closed form. In float16 ``a`` has
    few bits with the default epsilon: bfloat16 and 8 bits keep it.

    References
    ----------
    M. D. Zeiler, "ADADELTA: an adaptive learning rate method", arXiv:1212.5701, algorithm 1.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> w = np.array([5.0])
    >>> opt = fastopt.AdaDelta(w)
    >>> opt.step(2 * w)
    >>> w
    array([4.99683772])
    """

    __slots__ = ()

    usual_lr = 1.0
    dialects = DIALECTS["AdaDelta"]

    lr: Rate = setting(default=1.0)
    rho: Number = setting(default=0.9)
    eps: Number = setting(default=1e-6)

    def make_parts(self) -> list[Transform]:
        """Which transforms these settings ask for, in which order."""
        return [t.scale_by_adadelta(self.rho, self.eps), *self.decay_and_rate()]
