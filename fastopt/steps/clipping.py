"""The options `clip_norm` and `skip_nonfinite`, and what they found of the last gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from fastopt.transforms.base import sums_in
from fastopt.transforms.gradient_clip import gradient_clip
from fastopt.validation import Setting, at, flag, positive


class GradientStats(NamedTuple):
    """The statistics of the last step's gradients, with `clip_norm` or `skip_nonfinite`."""

    norm: float
    """The global norm of the gradients after unscaling, before clipping."""
    skipped: bool
    """Whether the step was skipped."""


class NormClip:
    """The transform that `clip_norm` and `skip_nonfinite` put in front of the chain.

    Attributes
    ----------
    clip_norm : float, schedule or None
        As it was given.
    skip_nonfinite : bool
    part : Part
        The transform, as compiled code needs it.
    last : GradientStats or None
    """

    def __init__(self, clip_norm: Setting | None, skip_nonfinite: bool) -> None:
        self.skip_nonfinite = flag("skip_nonfinite", skip_nonfinite)
        self.last: GradientStats | None = None
        self.part = gradient_clip(skips=self.skip_nonfinite)
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

    def conclude(self, sums: Sequence[float], grad_scale: float, limit: float) -> float | None:
        """From the sums of the gradients: what to multiply them by, or None to skip the step.

        One call of `from_sums` a step: in plain Python, which needs no compiling.
        """
        hyper, from_sums = (1.0 / grad_scale, limit), sums_in(self.part).from_sums
        (factor,), (size,), *skipped = from_sums(hyper, sums, (0.0,))
        self.last = GradientStats(size, any(skipped))
        return None if self.last.skipped else factor
