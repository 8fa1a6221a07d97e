"""The optimizer of a minimization: a class, a name or a function that makes one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fastopt.arrays.checks import Array
from fastopt.minimization.box import Box
from fastopt.optimizers.optimizer import Optimizer
from fastopt.optimizers.registry import NAMES, optimizer_class


def choose(optimizer: object) -> Callable[..., object]:
    """The function that makes the optimizer from an array and settings."""
    accepted = f"one of {', '.join(NAMES)}, a class, or a function from an array to an optimizer"
    if isinstance(optimizer, str):
        if optimizer.lower() not in NAMES:
            raise ValueError(f"optimizer must be {accepted}, got {optimizer!r}")
        return optimizer_class(optimizer.lower())
    if isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer must be {accepted}; one that is made has an array of its own")
    if not callable(optimizer):
        raise TypeError(f"optimizer must be {accepted}, not {optimizer!r}")
    return optimizer


def make(maker: Callable[..., object], x: Array, box: Box, settings: Mapping[str, object]) -> Optimizer:
    """Make the optimizer of `x`, with the box as its bounds."""
    settings = dict(settings)
    if box.setting is not None:
        settings["bounds"] = box.setting
    optimizer = maker(x, **settings)
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer must make an optimizer of fastopt, not {type(optimizer).__name__}")
    if optimizer.params is not x:
        raise ValueError("optimizer must make an optimizer of the array that it is given")
    if optimizer.maximize:
        raise ValueError("maximize=True is not for minimize: let fun return the negative instead")
    if optimizer.zero_grad:
        raise ValueError("zero_grad=True is not for minimize: the gradient is in its result")
    return optimizer
