"""Schedules: numbers that change from step to step, for every setting that is a number.

A schedule is a function from the number of the step (0, 1, ...) to a float, and any function will do.
Those made here can be pickled with an optimizer, compared, and read in their ``repr``. Their formulas
are those of optax and Keras, which each one names.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field, fields
from functools import partial
from itertools import pairwise

from fastopt import validation

__all__ = [
    "constant", "cosine", "exponential", "inverse_time", "piecewise", "polynomial", "warmup_cosine"
]  # fmt: skip


def _items(name: str, values: object) -> list[tuple[str, object]]:
    if not isinstance(values, (list, tuple)):
        raise TypeError(f"{name} must be a list or tuple of numbers, not {validation.shown(values)}")
    return [(f"{name}[{i}]", item) for i, item in enumerate(values)]


def _numbers(name: str, values: object) -> tuple[float, ...]:
    return tuple(validation.finite_number(*item) for item in _items(name, values))


def _rising_steps(name: str, values: object) -> tuple[int, ...]:
    steps = tuple(validation.whole_number(*item) for item in _items(name, values))
    if any(one >= other for one, other in pairwise(steps)):
        raise ValueError(f"{name} must rise, got {validation.shown(values)}")
    return steps


# What a field must be; the check returns the number that is kept.
NUMBER = {"check": validation.finite_number}
NUMBER_OR_NONE = {
    "check": lambda name, value: value if value is None else validation.finite_number(name, value)
}
NUMBERS = {"check": _numbers}
NONNEGATIVE = {"check": validation.nonnegative_number}
POSITIVE = {"check": validation.finite_positive}
FLAG = {"check": validation.flag}
STEP = {"check": validation.whole_number}
STEPS = {"check": _rising_steps}
COUNT = {"check": partial(validation.whole_number, least=1)}


@dataclass(frozen=True)
class _Schedule:
    """A formula with its arguments, which waits for the step."""

    def __post_init__(self) -> None:
        for each in fields(self):
            checked = each.metadata["check"](each.name, getattr(self, each.name))
            object.__setattr__(self, each.name, checked)


@dataclass(frozen=True)
class constant(_Schedule):
    """The same number at every step: ``value``.

    A setting that is a plain number can be assigned, which is simpler. This is for code that
    expects a schedule.

    Parameters
    ----------
    value : float
        Finite.

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

    value: float = field(metadata=NUMBER)

    def __call__(self, step: int) -> float:
        return self.value


@dataclass(frozen=True)
class exponential(_Schedule):
    """Exponential decay: ``init * rate**(step / steps)``.

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

    init: float = field(metadata=NUMBER)
    rate: float = field(metadata=POSITIVE)
    steps: int = field(default=1, metadata=COUNT)
    _: KW_ONLY
    begin: int = field(default=0, metadata=STEP)
    staircase: bool = field(default=False, metadata=FLAG)
    end: float | None = field(default=None, metadata=NUMBER_OR_NONE)

    def __call__(self, step: int) -> float:
        passed = max(step - self.begin, 0)
        power = passed // self.steps if self.staircase else passed / self.steps
        try:
            value = self.init * self.rate**power
        except OverflowError:  # of the power; and zero times it is zero
            value = self.init * math.inf if self.init else self.init
        if self.end is None:
            return value
        return max(value, self.end) if self.rate < 1.0 else min(value, self.end)


@dataclass(frozen=True)
class cosine(_Schedule):
    """Half a cosine from `init` to ``alpha * init``, constant from step `steps` on.

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

    init: float = field(metadata=NUMBER)
    steps: int = field(metadata=COUNT)
    _: KW_ONLY
    alpha: float = field(default=0.0, metadata=NUMBER)

    def __post_init__(self) -> None:
        super().__post_init__()
        validation.finite_number("init * alpha", self.init * self.alpha)

    def __call__(self, step: int) -> float:
        return self.init * ((1.0 - self.alpha) * _half_cosine(step, self.steps) + self.alpha)


def _half_cosine(step: int, steps: int) -> float:
    """From 1 at step 0 to 0 at the last."""
    return 0.5 * (1.0 + math.cos(math.pi * min(step, steps) / steps))


@dataclass(frozen=True)
class warmup_cosine(_Schedule):
    """Linear warm-up to `peak`, then half a cosine to `end`, constant from step `steps` on.

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

    init: float = field(metadata=NUMBER)
    peak: float = field(metadata=NUMBER)
    warmup_steps: int = field(metadata=STEP)
    steps: int = field(metadata=STEP)
    end: float = field(default=0.0, metadata=NUMBER)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps <= self.warmup_steps:
            rise = f"warmup_steps, {self.warmup_steps}, which it includes"
            raise ValueError(f"steps must be above {rise}; got {self.steps}")
        validation.finite_number("peak - init", self.peak - self.init)
        validation.finite_number("peak - end", self.peak - self.end)

    def __call__(self, step: int) -> float:
        if step < self.warmup_steps:
            return self.init + (self.peak - self.init) * (step / self.warmup_steps)
        left = _half_cosine(step - self.warmup_steps, self.steps - self.warmup_steps)
        return self.end + (self.peak - self.end) * left


@dataclass(frozen=True)
class polynomial(_Schedule):
    """A power of the remaining steps, from `init` to `end`, constant from step `steps` on.

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

    init: float = field(metadata=NUMBER)
    end: float = field(metadata=NUMBER)
    steps: int = field(metadata=COUNT)
    power: float = field(default=1.0, metadata=POSITIVE)
    _: KW_ONLY
    begin: int = field(default=0, metadata=STEP)

    def __post_init__(self) -> None:
        super().__post_init__()
        validation.finite_number("init - end", self.init - self.end)

    def __call__(self, step: int) -> float:
        left = 1.0 - min(max(step - self.begin, 0), self.steps) / self.steps
        return float((self.init - self.end) * left**self.power + self.end)


@dataclass(frozen=True)
class inverse_time(_Schedule):
    """Inverse-time decay: ``init / (1 + rate * step / steps)``.

    Parameters
    ----------
    init : float
        Value at step 0.
    rate : float
        How fast it falls, >= 0.
    steps : int, optional
        The unit of time, in steps, >= 1.

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

    init: float = field(metadata=NUMBER)
    rate: float = field(metadata=NONNEGATIVE)
    steps: int = field(default=1, metadata=COUNT)

    def __call__(self, step: int) -> float:
        return self.init / (1.0 + self.rate * step / self.steps)


@dataclass(frozen=True)
class piecewise(_Schedule):
    """Piecewise constant: ``values[i]`` from step ``boundaries[i - 1]`` on.

    Parameters
    ----------
    boundaries : sequence of int
        Steps at which the next value begins, rising.
    values : sequence of float
        One more than boundaries.

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

    boundaries: Sequence[int] = field(metadata=STEPS)
    values: Sequence[float] = field(metadata=NUMBERS)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.values) != len(self.boundaries) + 1:
            count = f"{len(self.boundaries) + 1}, got {len(self.values)}"
            raise ValueError(f"values must be one more than boundaries: {count}")

    def __call__(self, step: int) -> float:
        return self.values[bisect_right(self.boundaries, step)]
