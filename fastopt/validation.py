"""Checks on hyperparameters: one place where a setting becomes a float or a schedule.

A setting is a number or a schedule, a callable from the number of the step (0, 1, ...) to a
number. Numbers are checked here and now, a schedule's values when they are used, by the same rule.
"""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextvars import ContextVar, copy_context
from functools import lru_cache, partial
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, TypeVarTuple

import numpy as np

from fastopt.text import listed

Schedule: TypeAlias = Callable[[int], float]
Setting: TypeAlias = float | Schedule
Hyper: TypeAlias = tuple[float, ...]
PathLike: TypeAlias = str | os.PathLike[str]
Check: TypeAlias = Callable[[str, object], Setting]  # of a value, by the name that errors say

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

LONGEST = 160  # characters of a value in an error

# By a function's id and the step: the function, which keeps the id its own, and what it returned. By
# None: nothing, where any of them was called again.
_Calls: TypeAlias = dict[tuple[int, int] | None, tuple[object, object]]
_calls: ContextVar[_Calls | None] = ContextVar("calls", default=None)


def each_called_once(function: Callable[[*Ts], T], *arguments: *Ts) -> tuple[T, bool]:
    """Call `function`; within it `call` calls another one once for each step, whoever asks.

    Arrays of several groups, dtypes and lags need the hyperparameters of one step, and one schedule
    may stand in several settings. Nothing is kept afterwards: a schedule may be impure.

    Returns
    -------
    object
        What `function` returned.
    bool
        Whether anything was asked for again.
    """
    if _calls.get() is not None:
        return function(*arguments), True
    # A context of its own, which C enters and leaves: no interrupt can come before it is left.
    context, calls = copy_context(), _Calls()
    context.run(_calls.set, calls)
    return context.run(function, *arguments), None in calls


def call(function: Callable[[int], object], step: int) -> Any:
    """What a schedule, or another function of the step, returns."""
    calls = _calls.get()
    if calls is None:
        return function(step)
    key = id(function), step
    if key in calls:
        calls[None] = None, None
    else:
        calls[key] = function, function(step)
    return calls[key][1]


class DeviceScalar(ABC):
    """A number in the memory of a device: it can be computed with, but not be looked at here."""

    def operand(self, value: float) -> object:
        """A setting, as what can be computed with beside this number."""
        return float(value)

    @abstractmethod
    def if_above(self, limit: float, then: float, otherwise: float) -> float:
        """One of two numbers: `then` if this one is above the limit, else `otherwise`."""


class CurrentValue(ABC):
    """A schedule that ignores the step: it reads a number that others assign, which has a name."""

    @property
    @abstractmethod
    def label(self) -> str:
        """How errors name the number."""

    @abstractmethod
    def __call__(self, step: int) -> object:
        """The number as it is now."""


def as_float(value: Any) -> float:
    """The nearest float; an infinity for what is too large for one."""
    try:
        return float(value)
    except OverflowError:  # int and Fraction
        return math.inf if value > 0 else -math.inf


def shown(value: object) -> str:
    """For errors: the `repr`, shortened; an int of thousands of digits refuses to give one."""
    kind = type(value).__name__
    try:
        text = repr(value)
    except ValueError:
        return f"a huge {kind}"
    if len(text) <= LONGEST:
        return text
    length = f" of length {len(value)}" if hasattr(value, "__len__") else ""
    return f"{text[:LONGEST]}... (a {kind}{length})"


def as_scalar(value: Any) -> Any:
    """A number out of an array or tensor without dimensions, of any library; else the value itself."""
    if isinstance(value, Real) or getattr(value, "shape", None) != ():
        return value
    item = getattr(value, "item", None)
    return item() if callable(item) else float(value)


def _checked(name: str, value: object, accepted: Callable[[float], bool], rule: str) -> float:
    if type(value) is not float:
        value = as_scalar(value)
    if isinstance(value, bool) or not isinstance(value, Real):
        kind = type(value)
        hint = ""
        if kind.__module__ == "torch.optim.lr_scheduler":
            hint = (
                "; a scheduler of torch drives a torch optimizer: use a function of the step, such as "
            )
            hint += "those in fastopt.schedules"
        raise TypeError(
            f"{name} must be a number {rule}, not {shown(value)} of type {kind.__name__}{hint}"
        )
    number = as_float(value)
    if not (math.isfinite(number) and accepted(number)):
        raise ValueError(f"{name} must be a number {rule}, got {shown(value)}")
    return number


def _constant(name: str, value: object, accepted: Callable[[float], bool], rule: str) -> float:
    if type(value) is float and math.isfinite(value) and accepted(value):  # a third of the time
        return value
    number = _checked(name, value, accepted, rule)
    if number == 0.0 and as_scalar(value) != 0:
        raise ValueError(f"{name} must not round to zero in float64, got {shown(value)}")
    return number


def _setting(name: str, value: object, accepted: Callable[[float], bool], rule: str) -> Setting:
    if not callable(value):
        return _constant(name, value, accepted, rule)
    if isinstance(value, CurrentValue):  # not a schedule of a user's, which is called once a step
        return _Current(value, accepted, rule)
    return partial(_at_step, name, value, accepted, rule)  # not a closure: chains are pickled


def _at_step(
    name: str, schedule: Schedule, accepted: Callable[[float], bool], rule: str, step: int
) -> float:
    try:
        value: object = call(schedule, step)
    except Exception as error:
        error.add_note(
            f"This is from the schedule of {name}, called with the step {step}: "
            "a schedule is a function of the step (0, 1, ...) that returns a number."
        )
        raise
    if type(value) is float and math.isfinite(value) and accepted(value):  # a third of the time
        return value
    if isinstance(value, DeviceScalar):
        return value  # type: ignore[return-value]  # it computes like a float
    return _checked(f"{name} (from its schedule, at step {step})", value, accepted, rule)


class _Current:
    """A setting that reads a number which others assign, and checks it when it is another one."""

    __slots__ = "_accepted", "_number", "_passed", "_rule"

    def __init__(self, number: CurrentValue, accepted: Callable[[float], bool], rule: str) -> None:
        self._number, self._accepted, self._rule = number, accepted, rule
        self._passed: float | None = None

    def __call__(self, step: int) -> float:
        value = self._number(step)
        if value is self._passed:
            return value  # type: ignore[return-value]
        if type(value) is float and math.isfinite(value) and self._accepted(value):
            self._passed = value
            return value
        if isinstance(value, DeviceScalar):
            return value  # type: ignore[return-value]  # it computes like a float
        return _checked(self._number.label, value, self._accepted, self._rule)


def _is_any(_: float) -> bool:
    return True


def _is_nonnegative(x: float) -> bool:
    return x >= 0.0


def _is_positive(x: float) -> bool:
    return x > 0.0


def _is_decay_rate(x: float) -> bool:
    return 0.0 <= x < 1.0


def _is_fraction(x: float) -> bool:
    return 0.0 <= x <= 1.0


def _is_below_one(x: float) -> bool:
    return 0.0 < x < 1.0


def _is_above_one(x: float) -> bool:
    return x > 1.0


def finite(name: str, value: object) -> Setting:
    """Any finite number."""
    return _setting(name, value, _is_any, "that is finite")


def nonnegative(name: str, value: object) -> Setting:
    """A finite number >= 0."""
    return _setting(name, value, _is_nonnegative, ">= 0")


def positive(name: str, value: object) -> Setting:
    """A finite number > 0."""
    return _setting(name, value, _is_positive, "> 0")


def decay_rate(name: str, value: object) -> Setting:
    """The weight of the past in a moving average: in [0, 1)."""
    return _setting(name, value, _is_decay_rate, "in [0, 1)")


def fraction(name: str, value: object) -> Setting:
    """In [0, 1], both ends included."""
    return _setting(name, value, _is_fraction, "in [0, 1]")


def below_one(name: str, value: object) -> Setting:
    """A factor that shrinks: in (0, 1), without the ends."""
    return _setting(name, value, _is_below_one, "in (0, 1)")


def above_one(name: str, value: object) -> Setting:
    """A finite factor that enlarges: > 1."""
    return _setting(name, value, _is_above_one, "> 1")


def finite_number(name: str, value: object) -> float:
    """Any finite number, that cannot be scheduled."""
    return _constant(name, value, _is_any, "that is finite")


def nonnegative_number(name: str, value: object) -> float:
    """A finite number >= 0 that cannot be scheduled, such as the start of an accumulator."""
    return _constant(name, value, _is_nonnegative, ">= 0")


def finite_positive(name: str, value: object) -> float:
    """A finite number > 0 that cannot be scheduled."""
    return _constant(name, value, _is_positive, "> 0")


def check_numbers(name: str, hyper: object, step: int) -> None:
    """Check that a transform's hyperparameters are a tuple of real numbers."""
    kinds = Real, DeviceScalar
    if not isinstance(hyper, (tuple, list)) or not all(isinstance(as_scalar(n), kinds) for n in hyper):
        raise TypeError(
            f"hyper of transform {name!r} must be a tuple of numbers, not {shown(hyper)} at step {step}"
        )


def number_from(name: str, value: object, least: float) -> float:
    """A finite number that is not below `least` and cannot be scheduled."""
    return _constant(name, value, lambda x: x >= least, f">= {least:g}")


def whole_number(name: str, value: object, least: int = 0) -> int:
    """A whole number that is not below `least`."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be a whole number >= {least}, not {shown(value)}")
    number = int(value)
    if not least <= number < 2**63:
        limit = f">= {least}" if number < least else "< 2**63"
        raise ValueError(f"{name} must be a whole number {limit}, got {shown(value)}")
    return number


def flag(name: str, value: object) -> bool:
    """True or False, and nothing that merely looks like it."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {shown(value)}")
    return value


def choice(name: str, value: object, accepted: Sequence[str]) -> str:
    """One of these words."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be {listed(map(repr, accepted))}, not {shown(value)}")
    if value not in accepted:
        raise ValueError(f"{name} must be {listed(map(repr, accepted))}, got {value!r}")
    return value


def as_path(name: str, value: object) -> Path:
    """The path of a file or folder."""
    try:
        path = Path(value)  # type: ignore[arg-type]  # this checks it
    except TypeError:
        raise TypeError(f"{name} must be a str or a pathlib.Path, not {shown(value)}") from None
    if "\0" in str(path):
        raise ValueError(f"{name} must be a path without null characters, got {shown(value)}")
    return path


def is_number_or_schedule(value: object) -> bool:
    """Whether this is meant as a setting, rather than as an array."""
    return isinstance(value, Real) or callable(value)


# Kept: one-shot functions check the same constants in every call, at 10 us each.
@lru_cache(maxsize=1024)
def check_rounded(name: str, value: float, dtype: np.dtype[np.generic], rule: Check) -> None:
    """A constant is what its rule accepts in the dtype of the arithmetic too, and zero only if it was.

    Parameters
    ----------
    name : str
    value : float
    dtype : numpy.dtype
    rule : callable
        One of the checks above.
    """
    with np.errstate(all="ignore"):
        rounded = float(np.asarray(value, dtype))
    if rounded == 0.0 != value:
        raise ValueError(f"{name} must not round to zero in {dtype}, got {value!r}")
    if math.isinf(rounded):
        raise ValueError(f"{name} must be finite in {dtype}, got {value!r}")
    rule(f"{name} = {value!r}, rounded to {dtype},", rounded)


def is_on(setting: Setting) -> bool:
    """Whether a part with this strength belongs in the chain: it is scheduled or not zero."""
    return callable(setting) or setting != 0.0


def at(setting: Setting, step: int) -> float:
    """The value of a setting at a step."""
    return setting(step) if callable(setting) else setting


def if_above(number: float, limit: float, then: Callable[[], float], otherwise: float) -> float:
    """``then()`` if the number is above the limit, else `otherwise`; on a device both are computed."""
    if isinstance(number, DeviceScalar):
        return number.if_above(limit, then(), otherwise)
    return then() if number > limit else otherwise


def per_step(formula: Callable[..., Hyper], *settings: Setting) -> Hyper | Callable[[int], Hyper]:
    """Apply `formula` to the settings: now if all are numbers, at every step if one is a schedule."""
    if not any(callable(setting) for setting in settings):
        return formula(*settings)
    return lambda step: formula(*(at(setting, step) for setting in settings))
