"""Lion."""

from __future__ import annotations

from fastopt import transforms as t
from fastopt.optimizers.dialects import DIALECTS
from fastopt.optimizers.named import NamedOptimizer
from fastopt.optimizers.settings import Flag, Number, Rate, setting
from fastopt.transforms.base import Transform


class Lion(NamedOptimizer):
    """Steps of one length: the sign of a gradient mixed with its average.

    With gradient ``g``, average ``m`` and parameter ``w``, one step is ::

        w = w - lr * (sign(beta1 * m + (1 - beta1) * g) + weight_decay * w)
        m = beta2 * m + (1 - beta2) * g

    Parameters
    ----------
    params : array, or list, tuple or dict of arrays, or groups
        What to optimize, updated in place.
    lr : float, schedule or "auto", default 1e-4
        Learning rate, >= 0: how far every element moves.
    beta1, beta2 : float or schedule, default 0.9 and 0.99
        Weights of the past, in the direction and in the average, in [0, 1).
    decoupled_weight_decay : bool, default True
        With False the decay is added to the gradient, where only its effect on the sign is left.
    **shared
        Options of every optimizer: see `fastopt.optimizers.shared_options.SharedOptions`.

    Attributes
    ----------
    state : dict
        ``exp_avg``.

    Notes
    -----
    One state array, half of Adam's. The authors take a third to a tenth of AdamW's rate, and three to
    ten times its decay. The sign of zero is zero: without gradients only the decay moves an element.
    Keras's rate is 1e-3, optax's decay 1e-3. torch has no Lion.

    References
    ----------
    X. Chen et al., "Symbolic discovery of optimization algorithms", arXiv:2302.06675, algorithm 2.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> w = np.array([5.0, 0.0])
    >>> opt = fastopt.Lion(w, lr=0.1)
    >>> opt.step(2 * w)
    >>> w
    array([4.9, 0. ])
    """

    __slots__ = ()

    usual_lr = 0.03
    dialects = DIALECTS["Lion"]

    lr: Rate = setting(default=1e-4)
    beta1: Number = setting(default=0.9)
    beta2: Number = setting(default=0.99)
    decoupled_weight_decay: Flag = setting(default=True, kw_only=True)

    def make_parts(self) -> list[Transform]:
        """Which transforms these settings ask for, in which order."""
        return [t.scale_by_lion(self.beta1, self.beta2), *self.decay_and_rate()]
