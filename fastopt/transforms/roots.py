"""Roots for denominators, with epsilon inside or outside."""

import math
from collections.abc import Callable
from typing import TypeAlias

Root: TypeAlias = Callable[..., float]  # compiled into an update


def root_eps_inside(square, eps):
    return math.sqrt(square + eps)


def root_eps_outside(square, eps):
    return math.sqrt(square) + eps


def positive_eps(eps):
    """Raise where eps is zero: without a gradient, zero would be divided by zero."""
    if eps == 0.0:
        raise ValueError("with eps=0 divides zero by zero where there was no gradient yet")
