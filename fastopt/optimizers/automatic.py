"""``lr="auto"``: a learning rate that an optimizer finds by itself, in the place of a given one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastopt.transforms.automatic import automatic_rate, automatic_rate_by_gradient
from fastopt.transforms.automatic import follow_automatically as follow
from fastopt.transforms.base import Transform, labelled
from fastopt.validation import Setting, nonnegative, shown

if TYPE_CHECKING:
    from fastopt.optimizers.optimizer import Optimizer

AUTO = "auto"
# Among the settings whose part stays in the chain: the learning rate was automatic at first.
STAYS_AUTOMATIC = "lr=auto"
_RULES = automatic_rate, automatic_rate_by_gradient
_STEPS, _LR = 3, 4  # among the carried numbers


@dataclass(frozen=True)
class auto:
    """The automatic learning rate, times a factor: ``lr=fastopt.auto(factor)``.

    Parameters
    ----------
    factor : float or schedule
        >= 0. With 1, the default, it is the same as ``lr="auto"``.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> w = np.ones(3)
    >>> fall = fastopt.schedules.cosine(1.0, 300)
    >>> opt = fastopt.RMSProp(w, lr=fastopt.auto(fall))
    >>> for _ in range(300):
    ...     opt.step(w - 0.5)
    >>> w.round(3)
    array([0.5, 0.5, 0.5])
    """

    factor: Setting = 1.0

    def __post_init__(self) -> None:
        nonnegative("factor", self.factor)


@dataclass(frozen=True)
class Held:
    """A learning rate that was assigned in the place of an automatic one, whose part stays."""

    lr: Setting


def is_automatic(lr: object) -> bool:
    """Whether a setting is the automatic learning rate."""
    return isinstance(lr, auto) or (isinstance(lr, str) and lr == AUTO)


def check_is_no_other_word(lr: object) -> None:
    """Check that a learning rate is "auto" if it is a string."""
    word = lr.lr if isinstance(lr, Held) else lr
    if isinstance(word, str) and word != AUTO:
        raise TypeError(f"lr must be a number >= 0, a schedule or {AUTO!r}, not {shown(word)}")


def held(lr: Any) -> object:
    """A learning rate in the place of one that was automatic at first."""
    return lr if is_automatic(lr) else Held(lr)


def with_automatic_rate(
    kind: str, parts: Iterable[Transform], lr: object, by_gradient: bool
) -> list[Transform]:
    """The parts of an optimizer with the rate one, at the automatic or the held rate."""
    parts = list(parts)
    direction = [part for part in parts if not part.after]
    for part in direction:
        if part.from_sums is not None or part.inputs or part.outputs:
            raise ValueError(
                f"lr must be a number or a schedule for {kind}, not 'auto': its transform "
                f"{part.label} has sums or arrays of its own"
            )
    factor = lr.factor if isinstance(lr, auto) else 1.0
    fixed = nonnegative("lr", lr.lr) if isinstance(lr, Held) else None
    rule = follow(*direction, factor=factor, lr=fixed, by_gradient=by_gradient)
    return [labelled("lr='auto'", rule), *(part for part in parts if part.after)]


def current_rate_of(transforms: Sequence[Transform], carried: Sequence[Sequence[float]]) -> float:
    """The learning rate in the carried numbers of a chain's transforms with sums; NaN if none are."""
    for transform, numbers in zip(transforms, carried, strict=False):
        if transform.from_sums in _RULES:
            return _rate_in(numbers)
    return math.nan


def _rate_in(numbers: Sequence[float]) -> float:
    return numbers[_LR] if numbers[_STEPS] else math.nan


def current_rate(optimizer: Optimizer, groups: Sequence[int]) -> float:
    """The learning rate of the last step of the first group that has an automatic one; NaN before."""
    optimizer._steps.settle()
    decisions = optimizer._steps.decisions
    for passage, carried in zip(decisions.passes, decisions.carried, strict=True):
        for group in groups:
            if group not in passage.positions:
                continue
            transform = optimizer._groups[group].chain.transforms[passage.positions[group]]
            if transform.from_sums in _RULES:
                return _rate_in(carried[group].tolist())
    raise AssertionError("no group has an automatic learning rate")
