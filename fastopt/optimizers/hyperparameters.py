"""The numbers that kernels read: one small buffer for all arrays that are at the same step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from operator import is_
from typing import Any, NamedTuple

import numpy as np

from fastopt.codecs.floats import compute_dtype, name_of
from fastopt.layouts.arrays import Array
from fastopt.layouts.columns import GRAD_FACTOR, NUMBERS, PHASE
from fastopt.optimizers.group import Group


class _Key(NamedTuple):
    group: int
    dtype: np.dtype[Any]
    lag: int  # steps that these arrays were skipped for


class Hyperparameters:
    """The buffers of hyperparameters of an optimizer.

    An array whose gradient is None is left out of a step, and its own count of steps, which bias
    corrections and schedules depend on, lags behind from then on. Arrays with the same lag share
    a buffer.

    Attributes
    ----------
    lags : list of int
        For each array.

    Parameters
    ----------
    groups : sequence of Group
    phase : callable or None
        From a step to what it contributes to the random bits, if any are needed.
    """

    def __init__(self, groups: Sequence[Group], phase: Callable[[int], float] | None) -> None:
        self._groups = list(groups)
        self._phase = phase
        self._members = [
            (index, compute_dtype(str(name_of(leaf.dtype))))
            for index, group in enumerate(groups)
            for leaf in group.leaves
        ]
        self._scale: float | None = None  # of the last time, where it can be left as it is
        self._chains: list[Any] = []
        self.lags = [0] * len(self._members)
        self._buffers: dict[_Key, Array] = {}
        self.arrange(self.lags)

    def arrange(self, lags: Sequence[int]) -> None:
        """Have one buffer for each group, dtype and lag that occurs."""
        self.lags = list(lags)
        self._scale = None
        keys = {_Key(*member, lag) for member, lag in zip(self._members, self.lags, strict=True)}
        self._buffers = {key: self._buffers.get(key, self._new(key)) for key in sorted(keys, key=str)}

    def _new(self, key: _Key) -> Array:
        hypers = sum(part.hypers for part in self._groups[key.group].parts)
        return np.zeros(NUMBERS + hypers, key.dtype)

    @property
    def varies(self) -> bool:
        """Whether the numbers depend on the step."""
        return self._phase is not None or any(group.chain.varies for group in self._groups)

    def of(self, row: int) -> Array:
        """The buffer of one array."""
        return self._buffers[_Key(*self._members[row], self.lags[row])]

    def fill(self, step: int, grad_scale: float) -> None:
        """Write the hyperparameters of a step, all or none.

        Raises
        ------
        TypeError, ValueError
            A schedule gave something unusable; nothing was changed.
        """
        chains = [group.chain for group in self._groups]
        if grad_scale == self._scale and all(map(is_, chains, self._chains)):
            # Only the phase is another: 2 us in place of 5.
            phases = [self._phase_at(step - key.lag) for key in self._buffers]
            for buffer, phase in zip(self._buffers.values(), phases, strict=True):
                buffer[GRAD_FACTOR], buffer[PHASE] = 1.0 / grad_scale, phase
            return
        found = [self._numbers(key, step - key.lag, grad_scale) for key in self._buffers]
        for buffer, numbers in zip(self._buffers.values(), found, strict=True):
            buffer[:] = numbers
        self._scale = None if any(chain.varies for chain in chains) else grad_scale
        self._chains = chains

    def _numbers(self, key: _Key, step: int, grad_scale: float) -> list[float]:
        smallest, largest = _range(key.dtype)
        factor = 1.0 / grad_scale
        if not smallest <= factor <= largest:
            raise ValueError(
                f"grad_scale must have a finite inverse above zero in {key.dtype}, got {grad_scale!r}"
            )
        group = self._groups[key.group]
        numbers = [factor, self._phase_at(step)]
        for part, before in zip(group.chain, group.parts, strict=True):
            own = part.hyper_at(step)
            if len(own) != before.hypers:
                raise ValueError(
                    f"transform {part.name!r} must always have as many hyperparameters: its hyper gave "
                    f"{len(own)} numbers at step {step}, {before.hypers} before"
                )
            # One sum tells that all are finite, as a rule; NaN fails both.
            if not sum(map(abs, own)) <= largest and not all(abs(number) <= largest for number in own):
                raise ValueError(
                    f"the hyperparameters of transform {part.name!r} must be finite in {key.dtype}, "
                    f"got {own} at step {step}"
                )
            numbers += own
        return numbers

    def _phase_at(self, step: int) -> float:
        return self._phase(step) if self._phase else 0.0

    def scale_gradients(self, factor: float) -> None:
        """Multiply gradients by another factor, until the next `fill`."""
        for buffer in self._buffers.values():
            buffer[GRAD_FACTOR] = factor


@cache
def _range(dtype: np.dtype[Any]) -> tuple[float, float]:
    """The smallest and the largest number above zero."""
    limits = np.finfo(dtype)
    return float(limits.smallest_subnormal), float(limits.max)
