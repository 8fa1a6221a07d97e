"""The starting point of a minimization, and its bounds."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any, TypeAlias

import numpy as np
from scipy.optimize import Bounds

from fastopt.arrays.checks import Array, is_masked
from fastopt.codecs.base import DType
from fastopt.codecs.floats import rounded_towards
from fastopt.codecs.formats import compute_dtype, name_of
from fastopt.executors.cpu.allocate import empty
from fastopt.validation import as_float, shown

# Elements of a chunk: large arrays are measured in chunks that stay in the L1 or L2 cache.
CHUNK = 1 << 15


def is_real(dtype: DType) -> bool:
    """Whether a dtype is of real numbers, bfloat16 included."""
    return dtype.kind in "biuf" or name_of(dtype) is not None


def start(x0: object) -> Array:
    """A buffer with the content of `x0`: float32 for floats of at most 32 bits, else float64."""
    if is_masked(x0):
        raise TypeError("x0 must not be a masked array: the mask would be ignored")
    try:
        array = np.atleast_1d(np.asarray(x0))
    except ValueError as error:
        raise ValueError(f"x0 must be an array of one dimension: {error}") from error
    if not is_real(array.dtype):
        raise TypeError(f"x0 must be real numbers, not {array.dtype}")
    if array.ndim != 1:
        raise ValueError(
            f"x0 must have one dimension, as for SciPy, got shape {array.shape}; "
            "pass x0.ravel(), and reshape in fun"
        )
    x = empty(array.size, compute_dtype(name_of(array.dtype) or "float64"))
    with np.errstate(all="ignore"):
        x[...] = array
    if not np.isfinite(x).all():
        raise ValueError(f"x0 must be finite, got {shown(x0)}")
    return x


Limit: TypeAlias = float | Array | None  # of all elements, or of each


class Box:
    """Lower and upper bounds on every element, or none.

    Attributes
    ----------
    low, high : array or None
        Of the length and dtype of `x`; None where no element is bounded on this side.
    """

    def __init__(self, bounds: object, x: Array) -> None:
        self.low: Array | None = None
        self.high: Array | None = None
        if bounds is not None:
            self._set(*_limits(bounds, x), x.dtype)
        self._scratch = np.empty((2, min(x.size, CHUNK)), x.dtype)

    def _set(self, low: Array, high: Array, dtype: DType) -> None:
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
    def setting(self) -> tuple[Limit, Limit] | None:
        """The bounds as an optimizer's option, None if there are none."""
        low, high = _as_setting(self.low), _as_setting(self.high)
        return None if low is None and high is None else (low, high)

    def clip(self, x: Array) -> None:
        """Move `x` to the nearest point in the box."""
        if self.low is not None:
            np.maximum(x, self.low, out=x)
        if self.high is not None:
            np.minimum(x, self.high, out=x)

    def gradient_size(self, x: Array, grad: Array) -> float:
        """The largest magnitude in the projected gradient; NaN if any of `grad` is not finite.

        An element that points out of the box counts no further than to the bound: the gradient ``g``
        is limited to ``[x - high, x - low]``, as in L-BFGS-B.
        """
        size = 0.0
        for first in range(0, x.size, CHUNK):
            chunk = slice(first, first + CHUNK)
            largest = _size(grad[chunk])
            if not math.isfinite(largest):
                return math.nan
            if self.low is not None or self.high is not None:
                largest = _size(self._project(chunk, x[chunk], grad[chunk]))
            size = max(size, largest)
        return size

    def _project(self, chunk: slice, x: Array, grad: Array) -> Array:
        limit, projected = self._scratch[:, : x.size]
        with np.errstate(all="ignore"):
            if self.high is not None:
                np.subtract(x, self.high[chunk], out=limit)
                grad = np.maximum(grad, limit, out=projected)
            if self.low is not None:
                np.subtract(x, self.low[chunk], out=limit)
                grad = np.minimum(grad, limit, out=projected)
        return grad


def largest_step(previous: Array, current: Array) -> tuple[float, float]:
    """The largest magnitudes of ``current - previous`` and of `current`."""
    step = size = 0.0
    for first in range(0, current.size, CHUNK):
        chunk = slice(first, first + CHUNK)
        with np.errstate(all="ignore"):
            step = max(step, _size(current[chunk] - previous[chunk]))
        size = max(size, _size(current[chunk]))
    return step, size


def _size(chunk: Array) -> float:
    """The largest magnitude, not finite if one is not; without an array of absolute values."""
    return max(float(np.maximum.reduce(chunk)), -float(np.minimum.reduce(chunk)))


def _cast(limit: Array, dtype: DType) -> Array:
    """Round limits to `dtype`, where they may become infinite."""
    with np.errstate(all="ignore"):
        return limit.astype(dtype)


def _as_setting(limit: Array | None) -> Limit:
    """Replace equal limits by one number, which takes no memory traffic."""
    if limit is None or limit.size == 0:
        return None
    low, high = float(limit.min()), float(limit.max())
    return low if low == high and math.isfinite(low) else limit


def _limits(bounds: object, x: Array) -> tuple[Array, Array]:
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


def _number(limit: object, nothing: float) -> float:
    if limit is None:
        return nothing
    if isinstance(limit, Real):
        return as_float(limit)
    array = np.asarray(limit)
    if array.size != 1 or not is_real(array.dtype):
        raise TypeError(f"bounds must hold numbers or None, not {shown(limit)}")
    return float(array.item())
