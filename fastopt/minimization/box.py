"""Where a minimization starts, and the box that it stays in."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import numpy as np
from scipy.optimize import Bounds

from fastopt.arrays.checks import Array, is_masked
from fastopt.codecs.floats import rounded_towards
from fastopt.codecs.formats import SINGLE, name_of
from fastopt.executors.cpu.allocate import empty
from fastopt.validation import as_float, shown

# What is measured of a large array is measured in pieces that stay in the first or second cache.
BLOCK = 1 << 15


def is_real(dtype: np.dtype[Any]) -> bool:
    """Whether elements are real numbers; bfloat16 is no kind that NumPy knows."""
    return dtype.kind in "biuf" or name_of(dtype) is not None


def start(x0: Any) -> Array:
    """A buffer with the content of `x0`: float32 for floats of at most 32 bits, else float64."""
    if is_masked(x0):
        raise TypeError("x0 must not be a masked array: the mask would be ignored")
    try:
        given = np.atleast_1d(np.asarray(x0))
    except ValueError as error:
        raise ValueError(f"x0 must be an array of one dimension: {error}") from error
    if not is_real(given.dtype):
        raise TypeError(f"x0 must be real numbers, not {given.dtype}")
    if given.ndim != 1:
        raise ValueError(
            f"x0 must have one dimension, as for SciPy, got shape {given.shape}; "
            "pass x0.ravel(), and reshape in fun"
        )
    single = name_of(given.dtype) in SINGLE
    x = empty(given.size, np.float32 if single else np.float64)
    with np.errstate(all="ignore"):
        x[...] = given
    if not np.isfinite(x).all():
        raise ValueError(f"x0 must be finite, got {shown(x0)}")
    return x


class Box:
    """Lower and upper bounds on every element, or none.

    Attributes
    ----------
    low, high : array or None
        Of the length and dtype of `x`; None where no element is bounded on this side.
    """

    def __init__(self, bounds: Any, x: Array) -> None:
        self.low: Array | None = None
        self.high: Array | None = None
        if bounds is not None:
            self._set(*_limits(bounds, x), x.dtype)
        self._scratch = np.empty((2, min(x.size, BLOCK)), x.dtype)

    def _set(self, low: Array, high: Array, dtype: np.dtype[Any]) -> None:
        if np.isnan(low).any() or np.isnan(high).any():
            raise ValueError("bounds must not be NaN; None or an infinity leaves a side open")
        crossed = np.flatnonzero(low > high)
        if crossed.size:
            i = crossed[0]
            raise ValueError(f"bounds must have low <= high, got {low[i]} and {high[i]} for x[{i}]")
        low_inside = rounded_towards(low, dtype, math.inf)
        high_inside = rounded_towards(high, dtype, -math.inf)
        equal = low == high  # these fix an element, at the nearest number of this dtype
        low_inside[equal] = high_inside[equal] = _cast(low, dtype)[equal]
        crossed = np.flatnonzero(low_inside > high_inside)
        if crossed.size:
            i = crossed[0]
            raise ValueError(
                f"bounds must have a {dtype} between them, got {low[i]} and {high[i]} for x[{i}]"
            )
        if (low_inside == math.inf).any() or (high_inside == -math.inf).any():
            raise ValueError(f"bounds must leave every element a finite value in {dtype}")
        self.low = low_inside if (low_inside > -math.inf).any() else None
        self.high = high_inside if (high_inside < math.inf).any() else None

    @property
    def setting(self) -> tuple[Any, Any] | None:
        """What an optimizer takes as its bounds, None if there are none."""
        low, high = _as_setting(self.low), _as_setting(self.high)
        return None if low is None and high is None else (low, high)

    def clip(self, x: Array) -> None:
        """Move `x` to the nearest point in the box."""
        if self.low is not None:
            np.maximum(x, self.low, out=x)
        if self.high is not None:
            np.minimum(x, self.high, out=x)

    def gradient_size(self, x: Array, grad: Array) -> float:
        """The largest element, in size, of the projected gradient; NaN if any of `grad` is not finite.

        An element that points out of the box counts no further than to the bound: the gradient ``g``
        is limited to ``[x - high, x - low]``, as in L-BFGS-B.
        """
        size = 0.0
        for first in range(0, x.size, BLOCK):
            piece = slice(first, first + BLOCK)
            found = _size(grad[piece])
            if not math.isfinite(found):
                return math.nan
            if self.low is not None or self.high is not None:
                found = _size(self._project(piece, x[piece], grad[piece]))
            size = max(size, found)
        return size

    def _project(self, piece: slice, x: Array, grad: Array) -> Array:
        limit, projected = self._scratch[:, : x.size]
        with np.errstate(all="ignore"):
            if self.high is not None:
                np.subtract(x, self.high[piece], out=limit)
                grad = np.maximum(grad, limit, out=projected)
            if self.low is not None:
                np.subtract(x, self.low[piece], out=limit)
                grad = np.minimum(grad, limit, out=projected)
        return grad


def largest_step(before: Array, after: Array) -> tuple[float, float]:
    """The largest difference of two points in an element, and the largest element of `after`."""
    step = size = 0.0
    for first in range(0, after.size, BLOCK):
        piece = slice(first, first + BLOCK)
        with np.errstate(all="ignore"):
            step = max(step, _size(after[piece] - before[piece]))
        size = max(size, _size(after[piece]))
    return step, size


def _size(piece: Array) -> float:
    """The largest element in size; not finite if one is not. Makes no array of absolute values."""
    return max(float(np.maximum.reduce(piece)), -float(np.minimum.reduce(piece)))


def _cast(limit: Array, dtype: np.dtype[Any]) -> Array:
    """The nearest numbers of `dtype`, which may be infinities."""
    with np.errstate(all="ignore"):
        return limit.astype(dtype)


def _as_setting(limit: Array | None) -> Any:
    """One number for all elements takes no memory to read."""
    if limit is None or limit.size == 0:
        return None
    low, high = float(limit.min()), float(limit.max())
    return low if low == high and math.isfinite(low) else limit


def _limits(bounds: Any, x: Array) -> tuple[Array, Array]:
    """Lower and upper bounds of each element, in float64."""
    low, high = (bounds.lb, bounds.ub) if isinstance(bounds, Bounds) else _from_pairs(bounds)
    try:
        shaped = [np.broadcast_to(np.asarray(side, np.float64), x.shape) for side in (low, high)]
    except ValueError as error:
        raise ValueError(
            f"bounds must be one pair for each of the {x.size} elements of x0, got {np.size(low)}"
        ) from error
    return shaped[0], shaped[1]


def _from_pairs(bounds: Any) -> tuple[list[float], list[float]]:
    accepted = "scipy.optimize.Bounds or a sequence of (min, max) pairs"
    try:
        pairs = [tuple(pair) for pair in bounds]
    except TypeError as error:
        raise TypeError(f"bounds must be {accepted}, not {shown(bounds)}") from error
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"bounds must be {accepted}, got {shown(bounds)}")
    return [_number(low, -math.inf) for low, _ in pairs], [_number(high, math.inf) for _, high in pairs]


def _number(limit: Any, nothing: float) -> float:
    if limit is None:
        return nothing
    if isinstance(limit, Real):
        return as_float(limit)
    given = np.asarray(limit)
    if given.size != 1 or not is_real(given.dtype):
        raise TypeError(f"bounds must hold numbers or None, not {shown(limit)}")
    return float(given.item())
