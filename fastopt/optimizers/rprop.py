"""Rprop."""

from __future__ import annotations

from fastopt import transforms as t
from fastopt.optimizers.dialects import DIALECTS
from fastopt.optimizers.named import NamedOptimizer
from fastopt.optimizers.settings import Number, SettingField, setting
from fastopt.optimizers.shared_options import decoupled_decay
from fastopt.transforms.base import Transform


class Rprop(NamedOptimizer):
    """Step sizes for each element that follow the signs of gradients; for gradients without noise.

    With gradient ``g``, the last one ``p``, step size ``s`` and parameter ``w``, one step is ::

        s = s * eta_plus                where g * p > 0
        s = s * eta_minus, g = 0        where g * p < 0
        s = min(max(s, step_size_min), step_size_max)
        w = w - sign(g) * s, p = g

    Parameters
    ----------
    params : array, or list, tuple or dict of arrays, or groups
        What to optimize, updated in place.
    lr : float, default 1e-2
        Where ``s`` starts, >= 0. It has no part in later steps, so it cannot be scheduled or assigned.
    eta_minus, eta_plus : float or schedule, default 0.5 and 1.2
        In (0, 1), and > 1.
    step_size_min, step_size_max : float or schedule, default 1e-6 and 50
        >= 0, and > 0.
    **shared
        Options of every optimizer: see `fastopt.optimizers.shared_options.SharedOptions`.

    Attributes
    ----------
    state : dict
        ``prev``, ``step_size``.

    Notes
    -----
    Where the sign has changed the element waits for a step, as in the variant without backtracking that
    is called iRprop-; torch does the same. optax moves by the update of the step before. Decoupled
    weight decay is multiplied by `lr`.

    References
    ----------
    M. Riedmiller, H. Braun, "A direct adaptive method for faster backpropagation learning: the RPROP
    algorithm", IEEE ICNN 1993.
    C. Igel, M. Hüsken, "Improving the Rprop learning algorithm", NC 2000, algorithm 4.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> w = np.array([5.0])
    >>> opt = fastopt.Rprop(w, lr=0.1)
    >>> for _ in range(3):
    ...     opt.step(2 * w)
    >>> w
    array([4.636])
    """

    __slots__ = ()

    has_automatic_lr = False

    dialects = DIALECTS["Rprop"]

    lr: SettingField[float, float] = setting(default=1e-2, fixed=True)
    eta_minus: Number = setting(default=0.5)
    eta_plus: Number = setting(default=1.2)
    step_size_min: Number = setting(default=1e-6)
    step_size_max: Number = setting(default=50.0)

    def make_parts(self) -> list[Transform]:
        """Which transforms these settings ask for, in which order."""
        step = t.step_by_rprop(
            self.lr,
            eta_minus=self.eta_minus,
            eta_plus=self.eta_plus,
            step_size_min=self.step_size_min,
            step_size_max=self.step_size_max,
        )
        return [step, *decoupled_decay(self, self.lr)]
