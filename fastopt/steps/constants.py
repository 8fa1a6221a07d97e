"""Checks of constants as rounded to the dtype of the arithmetic: none may vanish or overflow."""

from __future__ import annotations

import math
from functools import cache

import numpy as np

from fastopt.codecs.base import Codec, FloatDType
from fastopt.codecs.floats import limit_in
from fastopt.codecs.formats import compute_dtype
from fastopt.transforms.base import Chain
from fastopt.validation import check_rounded


def check_constants(chain: Chain, format_: str) -> None:
    """Check that no constant of a chain vanishes when it is rounded, and that limits leave a number.

    An epsilon that becomes zero lets 0/0 happen, a decay rate that becomes one never forgets. What is
    decided anew in every step may underflow: a rate that decays is zero in the end.

    Raises
    ------
    ValueError
        It names the setting, or else the transform.
    """
    dtype = compute_dtype(format_)
    vanishing = _vanishing(dtype)
    for part in chain:
        for name, (rule, value) in part.settings.items():
            if not callable(value):
                check_rounded(name, value, dtype, rule)
        if part.round_towards is None and not callable(part.hyper):
            for number in part.hyper:
                if 0.0 < abs(number) <= vanishing:
                    raise ValueError(
                        f"the hyperparameters of {part.label} must not round to zero in "
                        f"{dtype}, got {part.hyper}"
                    )
    _check_limits(chain, format_)


@cache
def _vanishing(dtype: FloatDType) -> float:
    """The largest number that is rounded to zero."""
    return float(np.finfo(dtype).smallest_subnormal) / 2


def check_start(name: str, codec: Codec, value: float) -> None:
    """Check that the initial value of a state does not vanish or overflow in its format."""
    if value == 0.0 or not math.isfinite(value):
        return
    with np.errstate(all="ignore"):
        items = codec.encode(np.full(codec.block, value), None)
        stored = float(codec.decode(items, np.dtype(np.float64))[0])
    if stored == 0.0 or not math.isfinite(stored):
        raise ValueError(
            f"the start of state {name!r} must not become {stored} in {codec.name}, got {value!r}"
        )


def _check_limits(chain: Chain, format_: str) -> None:
    """Some number of the format is between lower and upper limits; or they are one and the same."""
    low, low_inside = -math.inf, -math.inf
    for part in chain:
        if part.round_towards is None or callable(part.hyper):
            continue
        for number in part.hyper:
            inside = limit_in(format_, number, part.round_towards)
            if math.isinf(inside):
                raise ValueError(f"bounds must leave a finite value in {format_}, got {number!r}")
            if part.round_towards > 0:
                low, low_inside = number, inside
            elif low < number and low_inside > inside:
                raise ValueError(
                    f"bounds must have a {format_} between them, got {low!r} and {number!r}"
                )
