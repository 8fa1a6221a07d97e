"""The numbers that kernels read: one small buffer for all arrays that are at the same step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from functools import cache
from operator import is_
from typing import Any, NamedTuple

import numpy as np

from fastopt.arrays.checks import Array
from fastopt.changes import Change, assign, make, put
from fastopt.codecs.floats import limit_in
from fastopt.codecs.formats import compute_dtype, name_of
from fastopt.kernels.job import GRAD_FACTOR, NUMBERS, PHASE
from fastopt.steps.constants import check_constants
from fastopt.steps.group import Group
from fastopt.transforms.base import Chain
from fastopt.validation import EachCalledOnce

_WHOLE = slice(None)
_EVERY_STEP = slice(GRAD_FACTOR, PHASE + 1)  # what can be another although no setting is


class _Key(NamedTuple):
    group: int
    format: str  # of the parameters where limits are rounded to it, else of the arithmetic
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
            (index, own if limited else compute_dtype(own).name)
            for index, group in enumerate(groups)
            for limited in [any(part.round_towards is not None for part in group.chain)]
            for own in [str(name_of(leaf.dtype)) for leaf in group.leaves]
        ]
        self._scale: float | None = None  # of the last time, where it can be left as it is
        self._chains: list[Any] = []
        self._checked: Sequence[Any] = []  # chains whose constants were
        self._buffers: dict[_Key, Array] = {}
        self._arrange([0] * len(self._members))

    def _arrange(self, lags: Sequence[int]) -> None:
        """Have one buffer for each group, dtype and lag that occurs."""
        self.lags = list(lags)
        self._scale = None
        keys = {_Key(*member, lag) for member, lag in zip(self._members, self.lags, strict=True)}
        self._buffers = {key: self._buffers.get(key, self._new(key)) for key in sorted(keys, key=str)}

    def arranged(self, lags: Sequence[int]) -> Hyperparameters:
        """The same for other lags; buffers that are needed on are those of this one."""
        other = copy(self)
        other._arrange(lags)
        return other

    def _new(self, key: _Key) -> Array:
        hypers = sum(part.hypers for part in self._groups[key.group].parts)
        return np.zeros(NUMBERS + hypers, compute_dtype(key.format))

    def vary(self, chains: Sequence[Chain] | None = None) -> bool:
        """Whether the numbers depend on the step, with the chains of now or with others."""
        return self._phase is not None or any(chain.varies for chain in chains or self.chains)

    @property
    def chains(self) -> list[Chain]:
        """Of the groups."""
        return [group.chain for group in self._groups]

    def of(self, row: int) -> Array:
        """The buffer of one array."""
        return self._buffers[_Key(*self._members[row], self.lags[row])]

    def fill(self, step: int, grad_scale: float) -> None:
        """Write what varies for a step, or raise as `filled`; every step does it anew."""
        chains = self.chains
        for buffer, where, numbers in self._written(step, grad_scale, chains):
            buffer[where] = numbers
        self._scale, self._chains = self._lasting(grad_scale, chains), chains

    def filled(
        self, step: int, grad_scale: float, chains: Sequence[Chain] | None = None
    ) -> list[Change]:
        """What writes the hyperparameters of a step, with the chains of now or with others.

        Raises
        ------
        TypeError, ValueError
            A schedule gave something unusable.
        """
        chains = chains or self.chains
        changes = [
            put(buffer, np.array(numbers, buffer.dtype), where)
            for buffer, where, numbers in self._written(step, grad_scale, chains)
        ]
        scale = self._lasting(grad_scale, chains)
        return [*changes, assign(self, "_scale", scale), assign(self, "_chains", chains)]

    def _lasting(self, grad_scale: float, chains: Sequence[Chain]) -> float | None:
        """The scale that a next time can be recognised by, None where numbers vary."""
        return None if any(chain.varies for chain in chains) else grad_scale

    def _written(
        self, step: int, grad_scale: float, chains: Sequence[Chain]
    ) -> list[tuple[Array, slice, list[float]]]:
        """What goes where in which buffer."""
        if not (self._checked and all(map(is_, chains, self._checked))):
            for group, format_ in dict.fromkeys(self._members):
                check_constants(chains[group], format_)
            self._checked = chains
        if grad_scale == self._scale and all(map(is_, chains, self._chains)):
            # Only the phase is another: 2 us in place of 5.
            factor = 1.0 / grad_scale
            return [
                (buffer, _EVERY_STEP, [factor, self._phase_at(step - key.lag)])
                for key, buffer in self._buffers.items()
            ]
        with EachCalledOnce():
            return [
                (buffer, _WHOLE, self._numbers(key, chains, step, grad_scale))
                for key, buffer in self._buffers.items()
            ]

    def _numbers(
        self, key: _Key, chains: Sequence[Chain], count: int, grad_scale: float
    ) -> list[float]:
        dtype, smallest, largest = _range(key.format)
        step, factor = count - key.lag, 1.0 / grad_scale
        if not smallest <= factor <= largest:
            raise ValueError(
                f"grad_scale must have a finite inverse above zero in {dtype}, got {grad_scale!r}"
            )
        parts = self._groups[key.group].parts
        numbers = [factor, self._phase_at(step)]
        for part, before in zip(chains[key.group], parts, strict=True):
            own = part.hyper_at(step)
            if len(own) != before.hypers:
                raise ValueError(
                    f"transform {part.name!r} must always have as many hyperparameters: its hyper gave "
                    f"{len(own)} numbers at step {step}, {before.hypers} before"
                )
            if (direction := part.round_towards) is not None:
                own = tuple(limit_in(key.format, number, direction) for number in own)
            # One sum tells that all are finite, as a rule; NaN fails both.
            if not sum(map(abs, own)) <= largest and not all(abs(number) <= largest for number in own):
                raise ValueError(
                    f"the hyperparameters of transform {part.name!r} must be finite in {dtype}, "
                    f"got {own} at step {step}"
                )
            numbers += own
        return numbers

    def _phase_at(self, step: int) -> float:
        return self._phase(step) if self._phase else 0.0

    def scale_gradients(self, factor: float) -> None:
        """Multiply gradients by another factor, until the next `fill`."""
        make([put(buffer, factor, GRAD_FACTOR) for buffer in self._buffers.values()])


@cache
def _range(format_: str) -> tuple[str, float, float]:
    """The dtype that a format is computed in, its smallest and its largest number above zero."""
    dtype = compute_dtype(format_)
    limits = np.finfo(dtype)
    return dtype.name, float(limits.smallest_subnormal), float(limits.max)
