"""The policy of `clip_norm` and `skip_nonfinite`: factor and skip, from the global norm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from fastopt.arrays.checks import Array
from fastopt.executors import norm
from fastopt.validation import Setting, at, flag, positive


class GradientStats(NamedTuple):
    """The statistics of the last step's gradients, with `clip_norm` or `skip_nonfinite`."""

    norm: float
    """The global norm of the gradients after unscaling, before clipping."""
    skipped: bool
    """Whether the step was skipped."""


class NormClip:
    """The clip factor and the decision to skip, from the norm of all gradients.

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
        """Change the limit; it cannot be switched on or off."""
        if (clip_norm is None) != (self.clip_norm is None):
            raise ValueError(
                f"clip_norm = {clip_norm!r} would switch clipping on or off: make a new optimizer"
            )
        self._clip(clip_norm)

    @property
    def is_on(self) -> bool:
        """Whether an option needs the norm."""
        return self._limit is not None or self.skip_nonfinite

    @property
    def varies(self) -> bool:
        """Whether the limit depends on the step."""
        return callable(self._limit)

    def limit_at(self, step: int) -> float:
        """The largest norm at a step, infinite where there is no limit."""
        return float("inf") if self._limit is None else at(self._limit, step)

    def decide(
        self,
        squares: float,
        grads: Sequence[Array | None],
        grad_scale: float,
        limit: float,
        reducer: norm.Reducer = norm.LOCAL,
    ) -> float | None:
        """From the sum of all squares: the factor for the gradients, or None to skip the step.

        `reducer` says how the norm of a part is combined with those of the other parts.
        """
        return self.conclude(*norm.measure(squares, grads, reducer), grad_scale, limit)

    def conclude(self, size: float, finite: bool, grad_scale: float, limit: float) -> float | None:
        """The same from the norm of all finite elements, and whether all are finite."""
        factor = 1.0 / grad_scale
        size *= factor
        skipped = self.skip_nonfinite and not finite
        self.last = GradientStats(size if finite else float("nan"), skipped)
        if skipped:
            return None
        return norm.clip_factor(size, factor, limit)
