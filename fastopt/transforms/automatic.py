"""A learning rate that is found during the steps: raised while gradients agree with the recent way."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

from fastopt.transforms.base import Transform, Update, factory
from fastopt.validation import Hyper, Setting, nonnegative, per_step

TREND = "trend"
AUTOMATIC = -1.0  # in the place of a learning rate that is given


def trend_product(update, param, state, hyper):
    return update * state[0]


def param_square(update, param, state, hyper):
    return param * param


def gradient_square(update, param, state, hyper):
    return update * update


def one(update, param, state, hyper):
    return 1.0


def followed(sums, carried):
    """The base rate of this step, and what the next one needs, from the sums of this one."""
    agreement, squares, count = sums[0], sums[1], sums[2]
    rate, spread, bound, steps = carried
    size = math.sqrt(squares / count)
    if steps == 0.0:
        rate = bound = 1e-4 * (1.0 + size) if size - size == 0.0 else 1e-4
    elif agreement - agreement == 0.0:  # finite
        spread = 0.95 * spread + 0.05 * abs(agreement)
        if spread > 0.0:
            strength = max(1.0 / window(steps), 0.3 / (1.0 + steps / 20.0))
            signal = agreement / spread * (1.0 - power(0.95, steps))
            rate = rate * exponential(strength * min(max(signal, -0.85), 1.0))
    # Comparisons, where `min` and `max` of NaN would be others on a device.
    if size > bound and size - size == 0.0:
        bound = size
    return bound if rate > bound else rate, spread, bound, steps + 1.0


# Of operations that are rounded alike everywhere, where functions of C libraries and of CUDA are not.
def power(base, exponent):
    """``base**exponent`` for a whole number >= 0."""
    result = 1.0
    while exponent > 0.0:
        odd = exponent % 2.0
        if odd > 0.0:
            result = result * base
        base = base * base
        exponent = 0.5 * (exponent - odd)
    return result


def exponential(x):
    """``exp(x)`` within 1 ULP for ``|x| <= 0.3``, the most that a rate changes by: its series."""
    result, number = 1.0, 14.0
    while number > 0.0:
        result = 1.0 + x * result / number
        number = number - 1.0
    return result


def window(steps):
    """Over how many steps the trend is averaged: 120, or a tenth of all."""
    return max(120.0, 0.1 * steps)


def memory(steps):
    """The weight of the past in the trend."""
    return 1.0 - 1.0 / window(steps)


def automatic_rate(hyper, sums, carried):
    factor, fixed_rate = hyper[0], hyper[1]
    if fixed_rate >= 0.0 or sums[2] == 0.0:  # without elements there is no step to learn from
        return (fixed_rate, memory(carried[3]), *hyper[2:]), carried
    following = followed(sums, carried[:4])
    rate = factor * following[0]
    return (rate, memory(carried[3]), *hyper[2:]), (*following, rate)


def automatic_rate_by_gradient(hyper, sums, carried):
    factor, fixed_rate = hyper[0], hyper[1]
    if fixed_rate >= 0.0 or sums[2] == 0.0:
        return (fixed_rate, memory(carried[3]), *hyper[2:]), carried
    following = followed(sums, carried[:4])
    mean = sums[3] / sums[2]
    mean = 0.5 * carried[5] + 0.5 * mean if mean - mean == 0.0 else carried[5]  # if finite
    rate = factor * following[0] / math.sqrt(mean) if mean > 0.0 else 0.0
    return (rate, memory(carried[3]), *hyper[2:]), (*following, rate, mean)


def _joined(first: Update, states: int, hypers: int, second: Update) -> Update:
    """Two functions, one after the other, as one; the first has so many states and hyperparameters."""

    def joined_update(update, param, state, hyper):
        update, first_states = first(update, param, state[:states], hyper[:hypers])
        update, others = second(update, param, state[states:], hyper[hypers:])
        return update, first_states + others

    return joined_update


@lru_cache(maxsize=64)  # of closures, which would be analyzed anew by content
def _following(parts: tuple[tuple[Update, int, int], ...]) -> Update:
    """The direction times the rate, with the trend: a long average of directions."""
    direction: Update = _unchanged
    for function, states, hypers in reversed(parts):
        direction = _joined(function, states, hypers, direction)

    def automatic_update(update, param, state, hyper):
        step, states = direction(update, param, state[1:], hyper[2:])
        return hyper[0] * step, (hyper[1] * state[0] + step, *states)

    automatic_update.__name__ = "_".join(["automatic", *(part[0].__name__ for part in parts)])
    return automatic_update


def _states(parts: Sequence[Transform]) -> dict[str, float | str]:
    """The states of all parts; a name used again gets a number."""
    states: dict[str, float | str] = {TREND: 0.0}
    for part in parts:
        for name, start in part.state.items():
            unique, count = name, 1
            while unique in states:
                unique, count = f"{name}_{count}", count + 1
            states[unique] = start
    return states


def _check(part: object) -> None:
    if not isinstance(part, Transform):
        raise TypeError(f"parts must be transforms, not {part!r:.200}")
    if part.after or part.from_sums is not None or part.inputs or part.outputs:
        what = "acts on the new parameter" if part.after else "has sums, inputs or outputs"
        raise ValueError(f"an automatic learning rate cannot follow {part.label}: it {what}")


@factory
def follow_automatically(
    *parts: Transform,
    factor: Setting = 1.0,
    lr: Setting | None = None,
    by_gradient: bool = False,
) -> Transform:
    """Multiply what `parts` make of the gradient by a learning rate that is found during the steps.

    With the gradient ``g``, the direction ``u`` that `parts` make of it and the trend ``e``, from
    ``rate = 1e-4 * (1 + X)`` and ``X = sqrt(mean(w * w))`` at step ``t = 0``: ::

        c = sum(g * e)
        s = 0.95 * s + 0.05 * |c|
        k = max(1 / max(120, t / 10), 0.3 / (1 + t / 20))
        rate = rate * exp(k * clip(c / s * (1 - 0.95**t), -0.85, 1))       t > 0
        rate = min(rate, max(1e-4 * (1 + X_0), X_0, ..., X))
        e = (1 - 1 / max(120, t / 10)) * e + u
        u = factor * rate * u

    The rate rises while the gradient agrees with the last 120 steps, and falls if it opposes them:
    ``c`` is minus the derivative of the loss by the rate of these steps. Costs one more read of
    parameters, gradients and ``e``. `lr="auto"` of a named optimizer is this.

    Sums and means are over the arrays that have a gradient; a step in which none has one leaves the
    rate as it is. The bound is that of the largest parameters so far, so that steps of some arrays,
    which may be small or zero, do not take the rate from the others.

    Parameters
    ----------
    *parts : Transform
        Without a learning rate, sums or arrays of their own beside states.
    factor : float or schedule
        >= 0: multiplied on the rate.
    lr : float or schedule, optional
        >= 0: in the place of the automatic rate, which waits.
    by_gradient : bool, optional
        Divide by the root of an average of ``mean(g * g)``, with weights of 0.5 for the past: for
        directions as large as gradients.

    Notes
    -----
    The power and the exponential are computed by multiplications, additions and divisions, so that a
    rate has the same bits in memory and on CUDA devices.

    Hypergradients: A. G. Baydin and others, "Online learning rate adaptation with hypergradient
    descent", arXiv:1703.04782, equations 5 and 8, have the direction of one step in the place of
    ``e``, and add to the rate in place of multiplying it.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> from fastopt import transforms as t
    >>> w = np.ones(3)
    >>> opt = fastopt.Optimizer(w, t.follow_automatically(t.scale_by_rms()))
    >>> for _ in range(200):
    ...     opt.step(w - 0.5)
    >>> w.round(2)
    array([0.5, 0.5, 0.5])
    """
    for part in parts:
        _check(part)
    factor = nonnegative("factor", factor)
    fixed_rate = AUTOMATIC if lr is None else nonnegative("lr", lr)
    settings = per_step(lambda factor, lr: (factor, lr), factor, fixed_rate)
    carried = {"rate": 0.0, "spread": 0.0, "bound": 0.0, "steps": 0.0, "lr": 0.0}
    sums = {"trend": trend_product, "param": param_square, "count": one}
    functions = ((part.update, len(part.state), len(part.hyper_at(0))) for part in parts)
    return Transform(
        _following(tuple(functions)),
        state=_states(parts),
        hyper=_hyper(settings, parts),
        nonnegative=tuple(name for part in parts for name in part.nonnegative),
        settings={"factor": (nonnegative, factor)}
        | {name: rule for part in parts for name, rule in part.settings.items()},
        sums=sums | ({"gradient": gradient_square} if by_gradient else {}),
        from_sums=automatic_rate_by_gradient if by_gradient else automatic_rate,
        carried=carried | ({"mean": 0.0} if by_gradient else {}),
    )


def _unchanged(update, param, state, hyper):
    return update, state


def _hyper(
    settings: Hyper | Callable[[int], Hyper], parts: Sequence[Transform]
) -> Hyper | Callable[[int], Hyper]:
    """The hyperparameters of the rule and of all parts, at a step or constant."""

    def hyper(step: int) -> Hyper:
        first = settings(step) if callable(settings) else settings
        return sum((part.hyper_at(step) for part in parts), first)

    return hyper if callable(settings) or any(callable(part.hyper) for part in parts) else hyper(0)
