"""AdaGrad."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, Unpack

from fastopt import transforms as t
from fastopt.optimizers.named import NamedOptimizer, Shared, decoupled_parts, own_settings
from fastopt.transforms.base import Transform
from fastopt.validation import Setting, at, nonnegative


class AdaGrad(NamedOptimizer):
    """Gradient descent with a rate for every element that only ever falls.

    With gradient ``g``, sum of squares ``s`` and parameter ``w``, step ``t = 0, 1, ...`` is ::

        s = s + g * g
        w = w - lr / (1 + t * lr_decay) * g / sqrt(s + eps)

    Parameters
    ----------
    params : array, or list, tuple or dict of arrays, or groups
        What to optimise, updated in place.
    lr : float or schedule, default 1e-2
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
        Options of every optimizer: see `fastopt.optimizers.named.Shared`.

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

    def __init__(
        self,
        params: Any,
        lr: Setting = 1e-2,
        eps: Setting = 1e-10,
        *,
        eps_inside_sqrt: bool = True,
        lr_decay: Setting = 0.0,
        initial_accumulator: float = 0.0,
        guard_zero: bool = False,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(params, own_settings(locals()), shared)

    @staticmethod
    def make_parts(s: SimpleNamespace) -> list[Transform]:
        """Which transforms these settings ask for, in which order."""
        normalise = t.scale_by_rss(
            s.eps,
            eps_inside_sqrt=s.eps_inside_sqrt,
            initial_accumulator=s.initial_accumulator,
            guard_zero=s.guard_zero,
        )
        lr, decay = nonnegative("lr", s.lr), nonnegative("lr_decay", s.lr_decay)

        def rate(step: int) -> float:
            return at(lr, step) / (1.0 + step * at(decay, step))

        falls = callable(decay) or decay > 0.0
        scale = t.scale_by_learning_rate(rate if falls else lr)
        if falls:  # a constant rate is one in front of its decay too
            scale = replace(scale, settings={"lr": (nonnegative, lr)})
        return [normalise, *decoupled_parts(s), scale]
