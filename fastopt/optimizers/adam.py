"""Adam, AdamW and NAdam."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Unpack

from fastopt import transforms as t
from fastopt.optimizers.named import NamedOptimizer, Shared, decoupled_parts, own_settings
from fastopt.transforms.base import Transform
from fastopt.validation import Setting


class Adam(NamedOptimizer):
    """RMSProp with momentum, and with both averages corrected for their start from zero.

    With gradient ``g``, averages ``m`` and ``v`` and parameter ``w``, step ``t = 1, 2, ...`` is ::

        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        w = w - lr * (m / (1 - beta1**t)) / (sqrt(v / (1 - beta2**t)) + eps)

    Parameters
    ----------
    params : array, or list, tuple or dict of arrays, or groups
        What to optimise, updated in place.
    lr : float or schedule, default 1e-3
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
        Options of every optimizer: see `fastopt.optimizers.named.Shared`.

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

    def __init__(
        self,
        params: Any,
        lr: Setting = 1e-3,
        beta1: Setting = 0.9,
        beta2: Setting = 0.999,
        eps: Setting = 1e-8,
        *,
        eps_inside_sqrt: bool = False,
        bias_correction: bool = True,
        amsgrad: bool = False,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(params, own_settings(locals()), shared)

    @staticmethod
    def make_parts(s: SimpleNamespace) -> list[Transform]:
        """Which transforms these settings ask for, in which order."""
        normalise = t.scale_by_adam(
            s.beta1,
            s.beta2,
            s.eps,
            eps_inside_sqrt=s.eps_inside_sqrt,
            bias_correction=s.bias_correction,
            amsgrad=s.amsgrad,
        )
        return [normalise, *decoupled_parts(s), t.scale_by_learning_rate(s.lr)]


class AdamW(Adam):
    """Adam with decoupled weight decay: ``w`` also loses ``lr * weight_decay * w`` at every step.

    Parameters
    ----------
    params, lr, beta1, beta2, eps, eps_inside_sqrt, bias_correction, amsgrad
        As in `Adam`.
    **shared
        Options of every optimizer, with other defaults for two of them: ``weight_decay=1e-2`` and
        ``decoupled_weight_decay=True``.

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

    def __init__(
        self,
        params: Any,
        lr: Setting = 1e-3,
        beta1: Setting = 0.9,
        beta2: Setting = 0.999,
        eps: Setting = 1e-8,
        *,
        eps_inside_sqrt: bool = False,
        bias_correction: bool = True,
        amsgrad: bool = False,
        **shared: Unpack[Shared],
    ) -> None:
        decay: Shared = {"weight_decay": 1e-2, "decoupled_weight_decay": True}
        NamedOptimizer.__init__(self, params, own_settings(locals()), {**decay, **shared})


class NAdam(NamedOptimizer):
    """Adam with Nesterov's look ahead, and a momentum that warms up.

    With ``m`` and ``v`` as in `Adam`, ``mu_t = beta1 * (1 - 0.96**(t * momentum_decay) / 2)`` and
    ``p_t = mu_1 * ... * mu_t``, step ``t = 1, 2, ...`` is ::

        u = mu_(t+1) * m / (1 - p_(t+1)) + (1 - mu_t) * g / (1 - p_t)
        w = w - lr * u / (sqrt(v / (1 - beta2**t)) + eps)

    Parameters
    ----------
    params : array, or list, tuple or dict of arrays, or groups
        What to optimise, updated in place.
    lr : float or schedule, default 2e-3
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
        Options of every optimizer: see `fastopt.optimizers.named.Shared`.

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

    def __init__(
        self,
        params: Any,
        lr: Setting = 2e-3,
        beta1: Setting = 0.9,
        beta2: Setting = 0.999,
        eps: Setting = 1e-8,
        *,
        momentum_decay: Setting | None = 4e-3,
        eps_inside_sqrt: bool = False,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(params, own_settings(locals()), shared)

    @staticmethod
    def make_parts(s: SimpleNamespace) -> list[Transform]:
        """Which transforms these settings ask for, in which order."""
        normalise = t.scale_by_nadam(
            s.beta1,
            s.beta2,
            s.eps,
            momentum_decay=s.momentum_decay,
            eps_inside_sqrt=s.eps_inside_sqrt,
        )
        return [normalise, *decoupled_parts(s), t.scale_by_learning_rate(s.lr)]
