"""The terms of statistics: functions of one number, with the arguments that all terms have."""

from __future__ import annotations


def square(value, param, state, hyper):
    return value * value


def itself(value, param, state, hyper):
    return value


def not_finite(value, param, state, hyper):
    return 0.0 if value - value == 0.0 else 1.0


def clipped(value, param, state, hyper):
    """Whether `clip_by_value` changes it: never zero, so that sparse gradients can have this."""
    low, high = hyper
    return 1.0 if value != 0.0 and (value > high or value < low) else 0.0
