"""Interpolation between a point that steps and its average, in the place of momentum and a schedule."""

from __future__ import annotations

from fastopt.transforms.base import Transform, factory
from fastopt.transforms.states import START_FROM_PARAM
from fastopt.validation import Hyper, Setting, at, finite_number, nonnegative, nonnegative_number

REMEMBERED = 64  # steps: arrays without a gradient lag behind the others


def schedule_free_update(update, param, state, hyper):
    (z,) = state
    share, rest = hyper
    return share * (param - z) + rest * update, (z - update,)


class _Shares:
    """The share of each step in the average: its weight over that of all steps up to it.

    The weight is ``t**r * m**power`` at step ``t = 1, 2, ...``, with the largest rate ``m`` up to it.
    """

    def __init__(self, lr: Setting, r: float, power: float) -> None:
        self._lr, self._r, self._power = lr, r, power
        # By the step: its share, the largest rate and all weights so far. Several threads may use it:
        # what one of them loses is computed again.
        self._known: dict[int, tuple[float, float, float]] = {}

    def of(self, step: int) -> float:
        """The share of a step, from the last one that is known."""
        if not (callable(self._lr) or self._r):
            return 1.0 / (step + 1)
        known = self._known
        last = max((k for k in list(known) if k <= step), default=-1)
        share, largest, total = known.get(last, (1.0, 0.0, 0.0))
        for k in range(last + 1, step + 1):
            largest = max(largest, at(self._lr, k))
            weight = (k + 1) ** self._r * largest**self._power
            total += weight
            share = weight / total if total > 0.0 else 0.0
        if last < step:
            if len(known) >= 2 * REMEMBERED:
                self._known = known = dict(sorted(known.items())[REMEMBERED:])
            known[step] = share, largest, total
        return share


@factory
def schedule_free(
    beta: float = 0.9, lr: Setting = 1.0, *, r: float = 0.0, weight_lr_power: float = 2.0
) -> Transform:
    """Step a point, average it, and take gradients between the two: no schedule is needed.

    The parameter is the point ``y`` where gradients are taken. With the update ``u``, learning rate
    included, step ``t = 1, 2, ...`` is ::

        z = z - u
        x = (1 - c) * x + c * z
        y = beta * x + (1 - beta) * z

    where ``c`` is the weight ``t**r * max(lr)**weight_lr_power`` over the sum of all weights so far,
    with the largest learning rate up to this step. At the start ``x = z = y``. Only ``z`` is stored:
    ``x = (y - (1 - beta) * z) / beta``, which is the point to evaluate with, as
    `Optimizer.averaged_params` returns it.

    Parameters
    ----------
    beta : float
        In (0, 1]. It stands for a momentum: leave that of the optimizer out (``beta1=0``).
    lr : float or schedule
        The learning rate of the chain, which gives steps of a warm-up less weight; >= 0.
    r : float
        Steps weigh ``t**r``, >= 0.
    weight_lr_power : float
        >= 0.

    Notes
    -----
    State: ``z``, which starts as a copy of the parameters. It stands at the end of a chain, in front
    of transforms with ``after=True``.

    References
    ----------
    A. Defazio and others, "The road less scheduled", arXiv:2405.15682, equations 6 to 8 and section 4.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> from fastopt import transforms as t
    >>> w = np.array([4.0])
    >>> opt = fastopt.Optimizer(w, t.chain(t.scale_by_learning_rate(0.25), t.schedule_free(0.5, 0.25)))
    >>> for _ in range(2):
    ...     opt.step(2 * w)
    >>> opt.state["z"], opt.averaged_params(), w
    (array([1.]), array([1.5]), array([1.25]))
    """
    weight = finite_number("schedule_free", beta)
    if not 0.0 < weight <= 1.0:
        raise ValueError(f"schedule_free must be a number in (0, 1], got {beta!r}")
    r, power = nonnegative_number("r", r), nonnegative_number("weight_lr_power", weight_lr_power)
    shares = _Shares(nonnegative("lr", lr), r, power)

    def hyper(step: int) -> Hyper:
        share = shares.of(step)
        return share, 1.0 - weight * (1.0 - share)

    return Transform(
        schedule_free_update,
        state={"z": START_FROM_PARAM},
        hyper=hyper,
        no_gradient=schedule_free_update,
        averaged=lambda param, state: (param - (1.0 - weight) * state[0]) / weight,
    )
