"""Prodigy."""

from __future__ import annotations

from fastopt import transforms as t
from fastopt.optimizers.dialects import DIALECTS
from fastopt.optimizers.named import NamedOptimizer
from fastopt.optimizers.settings import Flag, Number, OptionalNumber, setting
from fastopt.transforms.base import Transform


class Prodigy(NamedOptimizer):
    """Adam that estimates its learning rate, from how far it came and how its gradients agree.

    With gradient ``g``, parameter ``w`` and its start ``w0``, a rate ``r = lr``, or with
    `bias_correction` ``lr * sqrt(1 - beta2**t) / (1 - beta1**t)``, and ``d = d0`` at first,
    step ``t = 1, 2, ...`` is ::

        m = beta1 * m + (1 - beta1) * d * g
        v = beta2 * v + (1 - beta2) * d**2 * g**2
        n = beta3 * n + d**2 * r * sum(g * (w0 - w))
        s = beta3 * s + d**2 * r * g
        w = w - d * r * (m / (sqrt(v) + d * eps) + weight_decay * w)
        d = max(d, d_coef * n / sum(|s|))

    with the sums over all elements of all arrays.

    Parameters
    ----------
    params : array, or list, tuple or dict of arrays, or groups
        What to optimize, updated in place.
    lr : float or schedule, default 1.0
        Factor of the estimated rate, >= 0: for a schedule, such as ``cosine(1.0, steps)``.
    beta1, beta2 : float or schedule, default 0.9 and 0.999
        Weights of the past, in [0, 1).
    eps : float or schedule, default 1e-8
        > 0.
    beta3 : float or schedule, optional
        Weight of the past in the estimate, in [0, 1); by default ``sqrt(beta2)``.
    d0 : float or schedule, default 1e-6
        The estimate at the start, > 0: only its first value counts.
    d_coef : float or schedule, default 1.0
        Factor of the estimate, > 0: what to change first, to 0.5 or 2, if it does not fit.
    growth_rate : float or schedule, optional
        The most that ``d`` grows by in a step, after its first growth, > 1. By default without limit.
    bias_correction : bool, default False
        See above.
    safeguard_warmup : bool, default False
        Leave ``r`` out of ``s``, for a warm-up that starts at very small rates.
    decoupled_weight_decay : bool, default True
        With False ``weight_decay`` is added to the gradient instead.
    **shared
        Options of every optimizer: see `fastopt.optimizers.shared_options.SharedOptions`.

    Attributes
    ----------
    state : dict
        ``exp_avg``, ``exp_avg_sq``, ``s`` and ``initial_param``.

    Notes
    -----
    Two passes: one reads parameter, gradient and two states for the sums, one steps. Without sparse
    gradients. The states are kept divided by ``d``, ``d**2`` and ``d**2``, so that they have the size
    of gradients: formats of 16 and 8 bits hold them. Parameters of 16 bits need `master_bits`, a larger
    `d0` or `stochastic_rounding`. ``opt.state_dict()["carried"]`` has ``d`` first.

    This is algorithm 4 of the paper. The authors' code, and optax, take the new ``d`` for
    ``d * eps``, which differs where gradients are as small as ``eps``; their `slice_p` is not here.
    An array whose gradient is None adds nothing to the sums of the step. As in the authors' code, all
    groups have one ``d``, if their settings are equal but for `lr` and `weight_decay`.

    References
    ----------
    K. Mishchenko, A. Defazio, "Prodigy: an expeditiously adaptive parameter-free learner",
    arXiv:2306.06101, algorithm 4.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> w = np.array([5.0, -3.0])
    >>> opt = fastopt.Prodigy(w)
    >>> for _ in range(200):
    ...     opt.step(2 * w)
    >>> bool((abs(w) < 1.0).all())
    True
    """

    __slots__ = ()

    usual_lr = 1.0
    dialects = DIALECTS["Prodigy"]

    lr: Number = setting(default=1.0)
    beta1: Number = setting(default=0.9)
    beta2: Number = setting(default=0.999)
    eps: Number = setting(default=1e-8)
    beta3: OptionalNumber = setting(default=None, kw_only=True)
    d0: Number = setting(default=1e-6, kw_only=True)
    d_coef: Number = setting(default=1.0, kw_only=True)
    growth_rate: OptionalNumber = setting(default=None, kw_only=True)
    bias_correction: Flag = setting(default=False, kw_only=True)
    safeguard_warmup: Flag = setting(default=False, kw_only=True)
    decoupled_weight_decay: Flag = setting(default=True, kw_only=True)

    def make_parts(self) -> list[Transform]:
        """Which transforms these settings ask for, in which order."""
        decay = self.weight_decay if self.decoupled_weight_decay else 0.0
        return [
            t.scale_by_prodigy(
                self.lr,
                self.beta1,
                self.beta2,
                self.eps,
                beta3=self.beta3,
                d0=self.d0,
                d_coef=self.d_coef,
                growth_rate=self.growth_rate,
                bias_correction=self.bias_correction,
                safeguard_warmup=self.safeguard_warmup,
                weight_decay=decay,
            )
        ]
