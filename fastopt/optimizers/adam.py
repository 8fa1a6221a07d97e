"""Adam, AdamW and NAdam."""

from __future__ import annotations

from fastopt import transforms as t
from fastopt.optimizers.dialects import DIALECTS
from fastopt.optimizers.named import NamedOptimizer
from fastopt.optimizers.settings import Flag, Number, OptionalNumber, Rate, setting
from fastopt.transforms.base import Transform


class Adam(NamedOptimizer):
    """RMSProp with momentum, and with bias correction of both averages.

    With gradient ``g``, averages ``m`` and ``v`` and parameter ``w``, step ``t = 1, 2, ...`` is ::

        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        w = w - lr * (m / (1 - beta1**t)) / (sqrt(v / (1 - beta2**t)) + eps)

    Parameters
    ----------
    params : array, or list, tuple or dict of arrays, or groups
        What to optimize, updated in place.
    lr : float, schedule or "auto", default 1e-3
        Learning rate, >= 0.
    beta1, beta2 : float or schedule, default 0.9 and 0.999
        Weights of the past, in [0, 1).
    eps : float or schedule, default 1e-8
        >= 0.
    eps_inside_sqrt : bool, default False
        ``sqrt(v' + eps)`` instead of ``sqrt(v') + eps``.
    bias_correction : bool, default True
        Without it the divisions by ``1 - beta**t`` are left out.
    amsgrad : bool, default False
        Divide by the root of the largest ``v`` so far.
    **shared
        Options of every optimizer: see `fastopt.optimizers.shared_options.SharedOptions`.

    Attributes
    ----------
    state : dict
        ``exp_avg``, ``exp_avg_sq``, with `amsgrad` also ``max_exp_avg_sq``.

    Notes
    -----
    Keras and TensorFlow compare epsilon with the uncorrected ``sqrt(v)``. ``weight_decay`` is the L2
    penalty here, as in torch; `AdamW` has the decoupled one.

    References
    ----------
    D. P. Kingma, J. Ba, "Adam: a method for stochastic optimization", arXiv:1412.6980, algorithm 1.
    S. J. Reddi, S. Kale, S. Kumar, "On the convergence of Adam and beyond", ICLR 2018 (AMSGrad).

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> w = np.array([5.0])
    >>> opt = fastopt.Adam(w, lr=0.1)
    >>> opt.step(2 * w)
    >>> w
    array([4.9])
    """

    __slots__ = ()

    usual_lr = 0.1
    dialects = DIALECTS["Adam"]

    lr: Rate = setting(default=1e-3)
    beta1: Number = setting(default=0.9)
    beta2: Number = setting(default=0.999)
    eps: Number = setting(default=1e-8)
    eps_inside_sqrt: Flag = setting(default=False, kw_only=True)
    bias_correction: Flag = setting(default=True, kw_only=True)
    amsgrad: Flag = setting(default=False, kw_only=True)

    def make_parts(self) -> list[Transform]:
        """Which transforms these settings ask for, in which order."""
        normalize = t.scale_by_adam(
            self.beta1,
            self.beta2,
            self.eps,
            eps_inside_sqrt=self.eps_inside_sqrt,
            bias_correction=self.bias_correction,
            amsgrad=self.amsgrad,
        )
        return [normalize, *self.decay_and_rate()]


class AdamW(Adam):
    """Adam with decoupled weight decay: ``w`` also loses ``lr * weight_decay * w`` at every step.

    Parameters
    ----------
    params, lr, beta1, beta2, eps, eps_inside_sqrt, bias_correction, amsgrad
        As in `Adam`.
    weight_decay : float or schedule, default 1e-2
        How much of ``lr * w`` is lost.
    decoupled_weight_decay : bool, default True
        With False it is Adam's L2 penalty.
    **shared
        Options of every optimizer: see `fastopt.optimizers.shared_options.SharedOptions`.

    References
    ----------
    I. Loshchilov, F. Hutter, "Decoupled weight decay regularization", arXiv:1711.05101, algorithm 2.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> w = np.array([5.0])
    >>> opt = fastopt.AdamW(w, lr=0.1)
    >>> opt.step(2 * w)
    >>> w
    array([4.895])
    """

    __slots__ = ()

    dialects = DIALECTS["AdamW"]

    weight_decay: Number = setting(default=1e-2, kw_only=True)
    decoupled_weight_decay: Flag = setting(default=True, kw_only=True)


class NAdam(NamedOptimizer):
    """Adam with Nesterov's look ahead, and a momentum that warms up.

    With ``m`` and ``v`` as in `Adam`, ``mu_t = beta1 * (1 - 0.96**(t * momentum_decay) / 2)`` and
    ``p_t = mu_1 * ... * mu_t``, step ``t = 1, 2, ...`` is ::

        u = mu_(t+1) * m / (1 - p_(t+1)) + (1 - mu_t) * g / (1 - p_t)
        w = w - lr * u / (sqrt(v / (1 - beta2**t)) + eps)

    Parameters
    ----------
    params : array, or list, tuple or dict of arrays, or groups
        What to optimize, updated in place.
    lr : float, schedule or "auto", default 2e-3
        Learning rate, >= 0.
    beta1, beta2 : float or schedule, default 0.9 and 0.999
        Weights of the past, in [0, 1).
    eps : float or schedule, default 1e-8
        >= 0.
    momentum_decay : float or schedule or None, default 4e-3
        How fast the momentum warms up, >= 0; None for ``mu_t = beta1``.
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
    Three algorithms go by this name. torch has ``momentum_decay=0.004``; Keras has 1, so that the
    momentum has warmed up within a hundred steps; optax has no warm-up, which is None here.

    References
    ----------
    T. Dozat, "Incorporating Nesterov momentum into Adam", ICLR workshop 2016.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> w = np.array([5.0])
    >>> opt = fastopt.NAdam(w, lr=0.1, momentum_decay=None)
    >>> opt.step(2 * w)
    >>> w
    array([4.85263158])
    """

    __slots__ = ()

    usual_lr = 0.1
    dialects = DIALECTS["NAdam"]

    lr: Rate = setting(default=2e-3)
    beta1: Number = setting(default=0.9)
    beta2: Number = setting(default=0.999)
    eps: Number = setting(default=1e-8)
    momentum_decay: OptionalNumber = setting(default=4e-3, kw_only=True)
    eps_inside_sqrt: Flag = setting(default=False, kw_only=True)

    def make_parts(self) -> list[Transform]:
        """Which transforms these settings ask for, in which order."""
        normalize = t.scale_by_nadam(
            self.beta1,
            self.beta2,
            self.eps,
            momentum_decay=self.momentum_decay,
            eps_inside_sqrt=self.eps_inside_sqrt,
        )
        return [normalize, *self.decay_and_rate()]
