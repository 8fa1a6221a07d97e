"""DoG."""

from __future__ import annotations

from fastopt import transforms as t
from fastopt.optimizers.named import NamedOptimizer
from fastopt.optimizers.settings import Flag, Number, OptionalNumber, setting
from fastopt.transforms.base import Transform


class DoG(NamedOptimizer):
    """Gradient descent whose rate is the distance from the start over the root of all squares.

    With gradient ``g`` (weight decay included), parameter ``w`` and its start ``w0``, a step is ::

        r = max(r, |w - w0|)        at first r = reps_rel * (1 + |w0|)
        G = G + |g|**2
        w = w - lr * r / sqrt(G + eps) * g

    with Euclidean norms over all arrays, or with `layerwise` of each array.

    Parameters
    ----------
    params : array, or list, tuple or dict of arrays, or groups
        What to optimize, updated in place.
    lr : float or schedule, default 1.0
        A factor, >= 0, which is best left alone.
    reps_rel : float or schedule, default 1e-6
        How long the first step is, beside the parameters; > 0. The authors advise 1e-4 for networks
        with batch normalization. Only its first value counts.
    eps : float or schedule, default 1e-8
        > 0.
    init_eta : float or schedule, optional
        The rate of the first step, > 0, instead of what `reps_rel` says.
    layerwise : bool, default False
        L-DoG: each array has a rate of its own.
    **shared
        Options of every optimizer: see `fastopt.optimizers.shared_options.SharedOptions`.

    Attributes
    ----------
    state : dict
        ``initial_param``.

    Notes
    -----
    The rate does not fall by itself, so the authors have an average of the parameters evaluated: with
    `average_decay` or `schedule_free`, `averaged_params` returns one. Two passes: one reads parameter,
    gradient and start for the sums, one steps. Without sparse gradients.

    Groups have one distance and one sum, where the authors' code has them for each group. An array
    whose gradient is None adds nothing to the sums of the step. Decoupled decay takes
    ``lr * weight_decay * w``, where ``lr`` is the factor alone. Parameters of 16 bits need
    `master_bits=32` or a larger `reps_rel`, since the first steps are a millionth of the parameters.

    References
    ----------
    M. Ivgi, O. Hinder, Y. Carmon, "DoG is SGD's best friend: a parameter-free dynamic step size
    schedule", arXiv:2302.12022, equations 2 and 3 (and section 3.3 for reps_rel).

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> w = np.array([3.0, 4.0])
    >>> opt = fastopt.DoG(w, reps_rel=0.1)
    >>> opt.step(2 * w)  # 0.1 * (1 + 5) / 10 times the gradient
    >>> w
    array([2.64, 3.52])
    """

    __slots__ = ()

    usual_lr = 1.0

    lr: Number = setting(default=1.0)
    reps_rel: Number = setting(default=1e-6)
    eps: Number = setting(default=1e-8)
    init_eta: OptionalNumber = setting(default=None, kw_only=True)
    layerwise: Flag = setting(default=False, kw_only=True)

    def make_parts(self) -> list[Transform]:
        """Which transforms these settings ask for, in which order."""
        rate = t.scale_by_dog(self.reps_rel, self.eps, init_eta=self.init_eta, layerwise=self.layerwise)
        return [rate, *self.decay_and_rate()]
