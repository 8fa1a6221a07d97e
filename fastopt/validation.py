"""Checks on hyperparameters: one place where a setting becomes a float or a schedule.

A setting is a number or a schedule, a callable from the number of the step (0, 1, ...) to a
number. Numbers are checked here and now, a schedule's values when they are used, by the same rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, TypeAlias

Schedule: TypeAlias = Callable[[int], float]
Setting: TypeAlias = float | Schedule
Hyper: TypeAlias = tuple[float, ...]


class Elsewhere:
    """A number in the memory of a device: it can be computed with, but not be looked at here."""

    def known(self, value: Any) -> Any:
        """A setting, as what can be computed with beside this number."""
        return float(value)


def _checked(name: str, value: Any, accepted: Callable[[float], bool], rule: str) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        kind = type(value).__name__
        raise TypeError(f"{name} must be a number {rule}, not {value!r} of type {kind}")
    number = float(value)
    if not (math.isfinite(number) and accepted(number)):
        raise ValueError(f"{name} must be a number {rule}, got {value!r}")
    return number


def _setting(name: str, value: Any, accepted: Callable[[float], bool], rule: str) -> Setting:
    if not callable(value):
        return _checked(name, value, accepted, rule)
    schedule: Schedule = value

    def checked(step: int) -> float:
        value = schedule(step)
        if type(value) is float and math.isfinite(value) and accepted(value):  # a third of the time
            return value
        if isinstance(value, Elsewhere):
            return value
        return _checked(f"{name} (from its schedule, at step {step})", value, accepted, rule)

    return checked


def finite(name: str, value: Any) -> Setting:
    """Any finite number."""
    return _setting(name, value, lambda _: True, "that is finite")


def nonnegative(name: str, value: Any) -> Setting:
    """A finite number >= 0."""
    return _setting(name, value, lambda x: x >= 0.0, ">= 0")


def positive(name: str, value: Any) -> Setting:
    """A finite number > 0."""
    return _setting(name, value, lambda x: x > 0.0, "> 0")


def decay_rate(name: str, value: Any) -> Setting:
    """The weight of the past in a moving average: in [0, 1)."""
    return _setting(name, value, lambda x: 0.0 <= x < 1.0, "in [0, 1)")


def fraction(name: str, value: Any) -> Setting:
    """In [0, 1], both ends included."""
    return _setting(name, value, lambda x: 0.0 <= x <= 1.0, "in [0, 1]")


def finite_number(name: str, value: Any) -> float:
    """Any finite number, that cannot be scheduled."""
    return _checked(name, value, lambda _: True, "that is finite")


def nonnegative_number(name: str, value: Any) -> float:
    """A finite number >= 0 that cannot be scheduled, such as the start of an accumulator."""
    return _checked(name, value, lambda x: x >= 0.0, ">= 0")


def finite_positive(name: str, value: Any) -> float:
    """A finite number > 0 that cannot be scheduled."""
    return _checked(name, value, lambda x: x > 0.0, "> 0")


def whole_number(name: str, value: Any, least: int = 0) -> int:
    """A whole number that is not below `least`."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be a whole number >= {least}, not {value!r}")
    if value < least:
        raise ValueError(f"{name} must be a whole number >= {least}, got {value!r}")
    return int(value)


def flag(name: str, value: Any) -> bool:
    """True or False, and nothing that merely looks like it."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {value!r}")
    return value


def is_number_or_schedule(value: Any) -> bool:
    """Whether this is meant as a setting, rather than as an array."""
    return isinstance(value, Real) or callable(value)


def is_on(setting: Setting) -> bool:
    """Whether a part with this strength belongs in the chain: it is scheduled or not zero."""
    return callable(setting) or setting != 0.0


def at(setting: Setting, step: int) -> float:
    """The value of a setting at a step."""
    return setting(step) if callable(setting) else setting


def per_step(formula: Callable[..., Hyper], *settings: Setting) -> Hyper | Callable[[int], Hyper]:
    """Apply `formula` to the settings: now if all are numbers, at every step if one is a schedule."""
    if not any(callable(setting) for setting in settings):
        return formula(*settings)
    return lambda step: formula(*(at(setting, step) for setting in settings))
