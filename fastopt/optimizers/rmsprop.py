"""RMSProp."""

from __future__ import annotations

from typing import ClassVar

from fastopt import transforms as t
from fastopt.optimizers.dialects import DIALECTS
from fastopt.optimizers.named import NamedOptimizer
from fastopt.optimizers.settings import Flag, Number, Rate, SettingField, setting
from fastopt.optimizers.shared_options import momentum_and_rate
from fastopt.transforms.base import Transform
from fastopt.validation import flag


class RMSProp(NamedOptimizer):
    """Gradient descent with a rate for every element: divided by the gradient's root mean square.

    With gradient ``g``, accumulator ``v`` and parameter ``w``, one step is ::

        v = beta * v + (1 - beta) * g * g
        w = w - lr * g / sqrt(v + eps)

    Parameters
    ----------
    params : array, or list, tuple or dict of arrays
        What to optimize, updated in place: float16, bfloat16, float32 or float64, C-contiguous.
    lr : float, schedule or "auto", default 1e-3
        Learning rate, >= 0. A schedule is a function from the step (0, 1, ...) to a number; all
        numbers here may be schedules, and may be assigned between steps: ``opt.lr = 1e-4``. With
        ``"auto"`` it is found during the steps, see `fastopt.transforms.follow_automatically`.
    beta : float or schedule, default 0.9
        Weight of the past in the average of squares, in [0, 1).
    eps : float or schedule, default 1e-8
        Keeps the division finite, >= 0. With 0, elements whose gradients were all zero become NaN.
    eps_inside_sqrt : bool, default True
        ``sqrt(v + eps)``, or else ``sqrt(v) + eps``, which needs a smaller epsilon for the same effect.
    centered : bool, default False
        Divide by the standard deviation instead: also average the gradient, ``m``, and use
        ``max(v - m * m, 0)`` in the place of ``v``.
    momentum : float or schedule, default 0
        In [0, 1]: gather the normalized steps, ``b = momentum * b + u``, and move by ``b``.
    nesterov : bool, default False
        Move by ``u + momentum * b``.
    lr_in_momentum : bool, default False
        Multiply by the learning rate before the momentum gathers, not after. It makes a difference
        when the rate changes between steps.
    bias_correction : bool, default False
        Divide ``v`` by ``1 - beta**t`` (and ``m``), as Adam does, which tames the first steps.
    initial_accumulator : float, default 0
        Where ``v`` starts, >= 0.
    **shared
        Options of every optimizer: see `fastopt.optimizers.shared_options.SharedOptions`.

    Attributes
    ----------
    state : dict
        ``square_avg``, with `centered` also ``grad_avg``, with `momentum` also ``momentum_buffer``:
        arrays shaped like `params`, live.
    step_count : int
        Steps taken.

    Raises
    ------
    TypeError
        An argument is of the wrong kind: not an array, not a number, an unknown name.
    ValueError
        An argument has an unusable value: not contiguous, read-only, overlapping, out of range.

    Notes
    -----
    torch's RMSprop has epsilon outside the root; its beta is called ``alpha`` and is 0.99, and its
    ``centered`` is not clamped at zero. Keras has epsilon inside and calls beta ``rho``. TensorFlow 1
    starts ``v`` at one and has the learning rate inside the momentum.

    References
    ----------
    T. Tieleman and G. Hinton, "Lecture 6.5 - rmsprop: divide the gradient by a running average of
    its recent magnitude", Neural Networks for Machine Learning, Coursera, 2012.
    A. Graves, "Generating sequences with recurrent neural networks", arXiv:1308.0850, eq. 38-45
    (centered, with momentum).

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> w = np.array([5.0])                       # minimize w**2
    >>> opt = fastopt.RMSProp(w, lr=0.1)
    >>> for _ in range(2):
    ...     opt.step(2 * w)
    >>> w
    array([4.46158461])
    >>> opt.state["square_avg"]
    array([17.77508894])
    """

    __slots__ = ()

    usual_lr = 0.03
    usual_settings: ClassVar = {"momentum": 0.9, "bias_correction": True}
    dialects = DIALECTS["RMSProp"]

    lr: Rate = setting(default=1e-3)
    beta: Number = setting(default=0.9)
    eps: Number = setting(default=1e-8)
    eps_inside_sqrt: Flag = setting(default=True, kw_only=True)
    centered: Flag = setting(default=False, kw_only=True)
    momentum: Number = setting(default=0.0, kw_only=True)
    nesterov: Flag = setting(default=False, kw_only=True)
    lr_in_momentum: Flag = setting(default=False, kw_only=True)
    bias_correction: Flag = setting(default=False, kw_only=True)
    initial_accumulator: SettingField[float, float] = setting(default=0.0, kw_only=True, fixed=True)

    def make_parts(self) -> list[Transform]:
        """Which transforms these settings ask for, in which order."""
        scale = t.scale_by_stddev if flag("centered", self.centered) else t.scale_by_rms
        normalize = scale(
            self.beta,
            self.eps,
            eps_inside_sqrt=self.eps_inside_sqrt,
            bias_correction=self.bias_correction,
            initial_accumulator=self.initial_accumulator,
        )
        return [normalize, *momentum_and_rate(self)]
