"""Schedules: numbers that change from step to step, for every setting that is a number.

A schedule is a function from the number of the step (0, 1, ...) to a float, and any function will do.
Those made here can be pickled with an optimizer, compared, and read in its ``repr``. Their formulas
are optax's.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from fastopt.validation import (
    Schedule,
    finite_number,
    finite_positive,
    flag,
    nonnegative_number,
    whole_number,
)

__all__ = [
    "constant",
    "cosine",
    "exponential",
    "inverse_time",
    "piecewise",
    "polynomial",
    "warmup_cosine",
]


@dataclass(frozen=True)
class _Formula:
    """A formula with its arguments, which waits for the step."""

    formula: Callable[..., float]
    arguments: tuple[tuple[str, Any], ...]

    def __call__(self, step: int) -> float:
        return self.formula(step, **dict(self.arguments))

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.arguments)
        return f"{self.formula.__name__.removeprefix('_')}({arguments})"


def _schedule(formula: Callable[..., float], **arguments: Any) -> Schedule:
    return _Formula(formula, tuple(arguments.items()))


def constant(value: float) -> Schedule:
    """The same number at every step: ``value``.

    A setting that is a plain number can be assigned, which is simpler. This is for code that
    expects a schedule.

    Parameters
    ----------
    value : float
        Finite.

    Returns
    -------
    callable
        From the number of the step to a float.

    Raises
    ------
    TypeError, ValueError
        An argument is not such a number.

    Examples
    --------
    >>> from fastopt import schedules
    >>> schedules.constant(0.1)(1000)
    0.1
    """
    return _schedule(_constant, value=finite_number("value", value))


def _constant(step: int, value: float) -> float:
    return value


def exponential(
    init: float,
    rate: float,
    steps: int = 1,
    *,
    begin: int = 0,
    staircase: bool = False,
    end: float | None = None,
) -> Schedule:
    """Multiply by the same factor again and again: ``init * rate**(step / steps)``.

    Parameters
    ----------
    init : float
        Value at step 0.
    rate : float
        The factor, > 0; above 1 the value grows.
    steps : int, optional
        How many steps it takes to multiply by `rate` once, >= 1.
    begin : int, optional
        Stay at `init` for so many steps first, and count from there.
    staircase : bool, optional
        Round ``step / steps`` down, so that the value falls once in `steps` steps.
    end : float, optional
        Do not go beyond this: below it if `rate` is less than 1, above it otherwise.

    Returns
    -------
    callable
        From the number of the step to a float.

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong kind or out of range; the message names it.

    Notes
    -----
    optax's ``exponential_decay``, and Keras's ``ExponentialDecay``.

    Examples
    --------
    >>> from fastopt import schedules
    >>> halve = schedules.exponential(0.1, 0.5, steps=100)
    >>> halve(0), halve(100), halve(200)
    (0.1, 0.05, 0.025)
    >>> halve
    exponential(init=0.1, rate=0.5, steps=100, begin=0, staircase=False, end=None)
    """
    return _schedule(
        _exponential,
        init=finite_number("init", init),
        rate=finite_positive("rate", rate),
        steps=whole_number("steps", steps, least=1),
        begin=whole_number("begin", begin),
        staircase=flag("staircase", staircase),
        end=None if end is None else finite_number("end", end),
    )


def _exponential(
    step: int, init: float, rate: float, steps: int, begin: int, staircase: bool, end: float | None
) -> float:
    passed = max(step - begin, 0)
    power = passed // steps if staircase else passed / steps
    try:
        value = init * rate**power
    except OverflowError:  # of the power; and zero times it is zero
        value = init * math.inf if init else init
    if end is None:
        return value
    return max(value, end) if rate < 1.0 else min(value, end)


def cosine(init: float, steps: int, *, alpha: float = 0.0) -> Schedule:
    """Fall along half a cosine, and stay.

    With ``x = min(step, steps) / steps`` the value is
    ``init * ((1 - alpha) * (1 + cos(pi * x)) / 2 + alpha)``.

    Parameters
    ----------
    init : float
        Value at step 0.
    steps : int
        How many steps the fall takes, >= 1.
    alpha : float, optional
        The last value as a multiple of `init`.

    Returns
    -------
    callable
        From the number of the step to a float.

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong kind or out of range; the message names it.

    Notes
    -----
    optax's ``cosine_decay_schedule``, and Keras's ``CosineDecay`` without its warm-up.

    References
    ----------
    I. Loshchilov, F. Hutter, "SGDR: stochastic gradient descent with warm restarts",
    arXiv:1608.03983, eq. 5 (without restarts).

    Examples
    --------
    >>> from fastopt import schedules
    >>> fall = schedules.cosine(1.0, 100, alpha=0.1)
    >>> fall(0), round(fall(50), 6), fall(100), fall(1000)
    (1.0, 0.55, 0.1, 0.1)
    """
    first, factor = finite_number("init", init), finite_number("alpha", alpha)
    finite_number("init * alpha", first * factor)
    last = whole_number("steps", steps, least=1)
    return _schedule(_cosine, init=first, steps=last, alpha=factor)


def _cosine(step: int, init: float, steps: int, alpha: float) -> float:
    fallen = 0.5 * (1.0 + math.cos(math.pi * min(step, steps) / steps))
    return init * ((1.0 - alpha) * fallen + alpha)


def warmup_cosine(
    init: float, peak: float, warmup_steps: int, steps: int, end: float = 0.0
) -> Schedule:
    """Rise along a line, then fall along half a cosine, and stay.

    For the first ``warmup_steps`` the value is
    ``init + (peak - init) * step / warmup_steps``; after them, with
    ``x = min(step - warmup_steps, steps - warmup_steps) / (steps - warmup_steps)``,
    ``end + (peak - end) * (1 + cos(pi * x)) / 2``.

    Parameters
    ----------
    init : float
        Value at step 0.
    peak : float
        Value at step `warmup_steps`.
    warmup_steps : int
        How many steps the rise takes, >= 0.
    steps : int
        How many steps rise and fall take together, above `warmup_steps`.
    end : float, optional
        Value from step `steps` on.

    Returns
    -------
    callable
        From the number of the step to a float.

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong kind or out of range; the message names it.

    Notes
    -----
    optax's ``warmup_cosine_decay_schedule``, whose ``decay_steps`` counts the warm-up too.

    Examples
    --------
    >>> from fastopt import schedules
    >>> lr = schedules.warmup_cosine(0.0, 1.0, 10, 110)
    >>> lr(0), lr(5), lr(10), round(lr(60), 6), lr(110)
    (0.0, 0.5, 1.0, 0.5, 0.0)
    """
    rise = whole_number("warmup_steps", warmup_steps)
    if whole_number("steps", steps) <= rise:
        raise ValueError(f"steps must be above warmup_steps, {rise}, which it includes; got {steps}")
    first, highest, last = (
        finite_number(name, value) for name, value in (("init", init), ("peak", peak), ("end", end))
    )
    finite_number("peak - init", highest - first)
    finite_number("peak - end", highest - last)
    return _schedule(
        _warmup_cosine,
        init=first,
        peak=highest,
        warmup_steps=rise,
        steps=int(steps),
        end=last,
    )


def _warmup_cosine(
    step: int, init: float, peak: float, warmup_steps: int, steps: int, end: float
) -> float:
    if step < warmup_steps:
        return init + (peak - init) * (step / warmup_steps)
    return end + (peak - end) * _cosine(step - warmup_steps, 1.0, steps - warmup_steps, 0.0)


def polynomial(init: float, end: float, steps: int, power: float = 1.0, *, begin: int = 0) -> Schedule:
    """Go from one value to another along a power of the time left, and stay.

    With ``x = min(step, steps) / steps`` the value is
    ``(init - end) * (1 - x)**power + end``: a straight line with power 1.

    Parameters
    ----------
    init, end : float
        Values at step 0 and from step `steps` on.
    steps : int
        How many steps it takes, >= 1.
    power : float, optional
        > 0.
    begin : int, optional
        Stay at `init` for so many steps first, and count from there.

    Returns
    -------
    callable
        From the number of the step to a float.

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong kind or out of range; the message names it.

    Notes
    -----
    optax's ``polynomial_schedule`` and, with power 1, ``linear_schedule``; Keras's
    ``PolynomialDecay``.

    Examples
    --------
    >>> from fastopt import schedules
    >>> line = schedules.polynomial(1.0, 0.5, 10)
    >>> line(0), line(5), line(10), line(11)
    (1.0, 0.75, 0.5, 0.5)
    """
    first, last = finite_number("init", init), finite_number("end", end)
    finite_number("init - end", first - last)
    return _schedule(
        _polynomial,
        init=first,
        end=last,
        steps=whole_number("steps", steps, least=1),
        power=finite_positive("power", power),
        begin=whole_number("begin", begin),
    )


def _polynomial(step: int, init: float, end: float, steps: int, power: float, begin: int) -> float:
    left = 1.0 - min(max(step - begin, 0), steps) / steps
    return float((init - end) * left**power + end)


def inverse_time(init: float, rate: float, steps: int = 1) -> Schedule:
    """Fall like one over the time: ``init / (1 + rate * step / steps)``.

    Parameters
    ----------
    init : float
        Value at step 0.
    rate : float
        How fast it falls, >= 0.
    steps : int, optional
        The unit of time, in steps, >= 1.

    Returns
    -------
    callable
        From the number of the step to a float.

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong kind or out of range; the message names it.

    Notes
    -----
    Keras's ``InverseTimeDecay``; the rate of AdaGrad with ``lr_decay``.

    Examples
    --------
    >>> from fastopt import schedules
    >>> fall = schedules.inverse_time(1.0, 1.0, steps=100)
    >>> fall(0), fall(100), fall(300)
    (1.0, 0.5, 0.25)
    """
    return _schedule(
        _inverse_time,
        init=finite_number("init", init),
        rate=nonnegative_number("rate", rate),
        steps=whole_number("steps", steps, least=1),
    )


def _inverse_time(step: int, init: float, rate: float, steps: int) -> float:
    return init / (1.0 + rate * step / steps)


def piecewise(boundaries: Sequence[int], values: Sequence[float]) -> Schedule:
    """One value after the other: ``values[i]`` from step ``boundaries[i - 1]`` on.

    Parameters
    ----------
    boundaries : sequence of int
        Steps at which the next value begins, rising.
    values : sequence of float
        One more than boundaries.

    Returns
    -------
    callable
        From the number of the step to a float.

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong kind or out of range; the message names it.

    Notes
    -----
    A boundary is the first step of the next value, as in optax's ``piecewise_constant_schedule``
    (which takes factors in the place of values). In Keras's ``PiecewiseConstantDecay`` it is the
    last step of the value before.

    Examples
    --------
    >>> from fastopt import schedules
    >>> lr = schedules.piecewise([10, 20], [0.1, 0.01, 0.001])
    >>> lr(9), lr(10), lr(20)
    (0.1, 0.01, 0.001)
    """
    starts = tuple(whole_number(f"boundaries[{i}]", b) for i, b in _items("boundaries", boundaries))
    numbers = tuple(finite_number(f"values[{i}]", v) for i, v in _items("values", values))
    if any(one >= other for one, other in pairwise(starts)):
        raise ValueError(f"boundaries must rise, got {boundaries!r}")
    if len(numbers) != len(starts) + 1:
        raise ValueError(
            f"values must be one more than boundaries: {len(starts) + 1}, got {len(numbers)}"
        )
    return _schedule(_piecewise, boundaries=starts, values=numbers)


def _items(name: str, given: Any) -> list[tuple[int, Any]]:
    if not isinstance(given, (list, tuple)):
        raise TypeError(f"{name} must be a list or tuple of numbers, not {given!r}")
    return list(enumerate(given))


def _piecewise(step: int, boundaries: Sequence[int], values: Sequence[float]) -> float:
    return values[bisect_right(boundaries, step)]
