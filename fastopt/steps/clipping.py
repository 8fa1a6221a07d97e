"""What `clip_norm` and `skip_nonfinite` ask for: a look at all gradients before a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fastopt.arrays.checks import Array
from fastopt.executors import norm
from fastopt.executors.cpu.columns import FORMAT
from fastopt.executors.cpu.norm import OTHER_FORMATS
from fastopt.executors.dispatch import NormLaunch, norm_launcher
from fastopt.executors.global_norm import sum_of_squares
from fastopt.validation import Setting, at, flag, positive


class GradientStats(NamedTuple):
    """What is known of the last step when `clip_norm` or `skip_nonfinite` is on."""

    norm: float
    """The global norm of the gradients after unscaling, before clipping."""
    skipped: bool
    """Whether the step was left out."""


class NormClip:
    """The norm of all gradients, and what follows from it.

    Attributes
    ----------
    clip_norm : float, schedule or None
        As it was given.
    skip_nonfinite : bool
    last : GradientStats or None
    """

    def __init__(self, clip_norm: Setting | None, skip_nonfinite: bool) -> None:
        self.skip_nonfinite = flag("skip_nonfinite", skip_nonfinite)
        self.last: GradientStats | None = None
        self._clip(clip_norm)

    def _clip(self, clip_norm: Setting | None) -> None:
        limit = None if clip_norm is None else positive("clip_norm", clip_norm)
        self._limit, self.clip_norm = limit, clip_norm

    def change(self, clip_norm: Setting | None) -> None:
        """Take another limit; whether there is one cannot change."""
        if (clip_norm is None) != (self.clip_norm is None):
            raise ValueError(
                f"clip_norm = {clip_norm!r} would switch clipping on or off: make a new optimizer"
            )
        self._clip(clip_norm)

    @property
    def is_on(self) -> bool:
        """Whether the norm is wanted at all."""
        return self._limit is not None or self.skip_nonfinite

    @property
    def varies(self) -> bool:
        """Whether the limit depends on the step."""
        return callable(self._limit)

    def prepare(self, executor: str, sizes: Sequence[int]) -> None:
        """Get ready for compiled steps over arrays of these sizes."""
        if self.is_on:
            # Compiled code writes here: for the arrays of the whole table, whatever else is looked at.
            self._of_table = np.zeros(max(norm.blocks(sizes), 1))
            self._means = executor, sum(sizes)
            self._launch: NormLaunch | None = None

    def look(self, rows: Array, items: int, ranges: Array) -> int:
        """Note the gradients' addresses in the table and sum their squares; the status of the gate."""
        status = OTHER_FORMATS
        if self._launch is not None:
            status = self._launch(rows, items, ranges, self._of_table)
        if status == OTHER_FORMATS:
            self._launch = norm_launcher(*self._means, set(rows[:, FORMAT].tolist()))
            status = self._launch(rows, items, ranges, self._of_table)
        self._squares = self._of_table[0]
        return status

    def look_at(self, found: list[Any]) -> None:
        """Sum the squares of arrays that are not in the table."""
        self._squares = sum_of_squares([grad for grad in found if grad is not None])

    def look_in_python(self, found: list[Any]) -> None:
        """Sum the squares where nothing is compiled."""
        self._squares = norm.reference([grad for grad in found if grad is not None])

    def limit_at(self, step: int) -> float:
        """The largest norm at a step, infinite where there is no limit."""
        return float("inf") if self._limit is None else at(self._limit, step)

    def decide(
        self, found: list[Any], grad_scale: float, limit: float, across: norm.Reducer = norm.LOCAL
    ) -> float | None:
        """Write down what was found; the factor for the gradients, or None to skip the step.

        `across` says how the norm of a part is combined with those of the other parts.
        """
        return self.conclude(*norm.measure(self._squares, found, across), grad_scale, limit)

    def conclude(self, size: float, finite: bool, grad_scale: float, limit: float) -> float | None:
        """The same from the norm of all finite elements, and whether all are finite."""
        factor = 1.0 / grad_scale
        size *= factor
        skipped = self.skip_nonfinite and not finite
        self.last = GradientStats(size if finite else float("nan"), skipped)
        if skipped:
            return None
        return factor * limit / size if size > limit else factor
