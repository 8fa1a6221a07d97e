"""The rules that end a minimization, and their messages."""

from __future__ import annotations

import math
from typing import NamedTuple

from fastopt.arrays.checks import Array
from fastopt.minimization.box import largest_step
from fastopt.validation import nonnegative_number, whole_number

GTOL = 1e-5
# In each of a hundred steps in a row. Near the end of half a cosine over 5000 steps the learning rate
# has been below a thousandth of its first value for so long: then steps of the first size would have
# changed the function by 1e-9, which is what L-BFGS-B takes for the end.
FTOL = 1e-12


class Outcome(NamedTuple):
    """Why a minimization ended. 0 is success; 1, 3 and 99 are what SciPy's BFGS and callbacks have."""

    status: int
    message: str


MAXITER = Outcome(1, "Stopped: the number of iterations reached maxiter.")
CALLBACK = Outcome(99, "`callback` raised `StopIteration`.")


def not_finite(nit: int) -> Outcome:
    """The outcome for a value or gradient that is not finite, after `nit` steps."""
    if nit == 0:
        return Outcome(3, "Stopped: the function or its gradient is not finite at x0.")
    return Outcome(
        3,
        f"Stopped: the function or its gradient is not finite after {nit} iterations. "
        "A smaller learning rate may help.",
    )


def tolerance(name: str, value: object, usual: float | None) -> float | None:
    """A tolerance as given: a number, None for a rule that is off, or "auto" for the usual one."""
    if isinstance(value, str):
        if value != "auto":
            raise ValueError(f"{name} must be a number >= 0, None or 'auto', got {value!r}")
        return usual
    return None if value is None else nonnegative_number(name, value)


class Stopping:
    """The stopping rules, in the order in which they are checked.

    Parameters
    ----------
    gtol, ftol, xtol : float or None
        None is a rule that is off.
    window : int
        The number of consecutive iterations in which the function or the point must rest.
    maxiter : int or infinity
    over_nonfinite : bool
        Continue where a value or gradient is not finite.
    """

    def __init__(
        self,
        gtol: float | None,
        ftol: float | None,
        xtol: float | None,
        window: object,
        maxiter: float,
        over_nonfinite: bool,
    ) -> None:
        self._gtol, self._ftol, self._xtol = gtol, ftol, xtol
        self._window = whole_number("window", window, 1)
        self._maxiter = maxiter
        self._over_nonfinite = over_nonfinite
        self._value = math.nan  # of the previous iteration
        self._point: Array | None = None  # of the previous iteration, kept for xtol
        self._rests = {"ftol": 0, "xtol": 0}

    def check(
        self, nit: int, x: Array, value: float, usable: bool, gradient_size: float
    ) -> Outcome | None:
        """The outcome if a rule ends the minimization after `nit` steps, else None.

        Value and gradient are `usable` if they are finite, or the loop recovers if they are not.
        """
        if not usable and not self._over_nonfinite:
            return not_finite(nit)
        if self._gtol is not None and gradient_size <= self._gtol:
            return Outcome(0, "Converged: no element of the (projected) gradient is larger than gtol.")
        if self._ftol is not None and self._rested("ftol", self._value_rests(value)):
            return Outcome(
                0,
                "Converged: the function changed by no more than ftol in each of the last "
                f"{self._window} iterations.",
            )
        if self._xtol is not None and self._rested("xtol", self._point_rests(x)):
            return Outcome(
                0,
                "Converged: no element of x changed by more than xtol in each of the last "
                f"{self._window} iterations.",
            )
        return MAXITER if nit >= self._maxiter else None

    def _rested(self, rule: str, now: bool) -> bool:
        self._rests[rule] = self._rests[rule] + 1 if now else 0
        return self._rests[rule] >= self._window

    def _value_rests(self, value: float) -> bool:
        previous, self._value = self._value, value
        assert self._ftol is not None
        return abs(value - previous) <= self._ftol * max(abs(value), abs(previous), 1.0)

    def _point_rests(self, x: Array) -> bool:
        assert self._xtol is not None
        if self._point is None:
            self._point = x.copy()
            return False
        step, size = largest_step(self._point, x)
        self._point[...] = x
        return step <= self._xtol * max(size, 1.0)
