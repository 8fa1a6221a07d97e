"""Statistics that a step adds up in its own pass: which there are, and their values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fastopt.arrays.checks import Array
from fastopt.arrays.tree import ReadOnlyDict, Tree
from fastopt.kernels.identity import frozen
from fastopt.kernels.terms import Position, Term, terms_of
from fastopt.steps.group import Group
from fastopt.steps.pass_sums import over_all
from fastopt.transforms.scaling import clip_update
from fastopt.transforms.statistics import clipped, itself, not_finite, square
from fastopt.transforms.sums import Summand
from fastopt.validation import shown


class Kind(NamedTuple):
    """A statistic of many numbers."""

    term: Summand
    value: Callable[[float, int], float]  # from the sum of all terms and the number of elements
    power: int  # of a factor of all numbers, by which the sum is multiplied; then the value is by it


def _root(total: float, count: int) -> float:
    return math.sqrt(total)


def _mean(total: float, count: int) -> float:
    return total / count if count else math.nan


def _root_of_mean(total: float, count: int) -> float:
    return math.sqrt(_mean(total, count))


def _sum(total: float, count: int) -> float:
    return total


KINDS = {
    "norm": Kind(square, _root, 2),
    "rms": Kind(square, _root_of_mean, 2),
    "mean": Kind(itself, _mean, 1),
    "nonfinite": Kind(not_finite, _sum, 0),
}
CLIPPED_SHARE = "clipped_share"
POSITIONS: Mapping[str, Position] = {"grad": "gradient", "update": "update", "param": "param"}


class Stats(Mapping[str, float]):
    """The statistics of a step, by the names that the option ``stats`` asks for.

    They are added up while the step is taken, so the arrays are not read once more. A name is one of

    - ``grad``: the gradient after ``1 / grad_scale`` and before everything else, `clip_norm` included
    - ``update``: what is subtracted from the parameter, with the learning rate, before `bounds`
    - ``param``: the new parameter
    - the name of a state, such as ``square_avg``: its new numbers

    with one of these behind it, as in ``"grad_norm"``:

    - ``_norm``: the root of the sum of squares
    - ``_rms``: the root of the mean of squares
    - ``_mean``: the mean
    - ``_nonfinite``: how many elements are NaN or infinite

    ``"clipped_share"`` is the share of elements that `clip_value` clips, or the first `clip_by_value`
    of a chain.

    Numbers are those of the arithmetic, before they are rounded to the format of an array, and are
    added in float64 in a fixed order: the same bits on any number of threads. Of an array that was left
    out of a step they are those of its last step, and zero if it had none. A sum that overflows is
    infinite.

    Parameters
    ----------
    values, per_array : dict
        Name -> number, and name -> structure of numbers.
    step : int
        As below: an optimizer makes these objects.

    Attributes
    ----------
    step : int
        How many steps were taken, this one included.
    per_array : mapping
        The same for each array: name -> structure like `params`, None where a group has no such
        statistic.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> w = [np.zeros(2), np.zeros(1)]
    >>> opt = fastopt.RMSProp(w, stats=("grad_norm", "square_avg_mean"))
    >>> opt.step([np.array([0.0, 3.0]), np.array([4.0])])
    >>> opt.stats["grad_norm"], opt.stats.step
    (5.0, 1)
    >>> opt.stats.per_array["grad_norm"]
    [3.0, 4.0]
    """

    __slots__ = "_values", "per_array", "step"

    def __init__(self, values: dict[str, float], per_array: dict[str, Tree], step: int) -> None:
        self._values, self.step = values, step
        self.per_array = ReadOnlyDict(per_array)

    def __getitem__(self, name: str) -> float:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Stats({self._values}, step={self.step})"


class Statistics:
    """What `stats` asks for, found in the chain of each group.

    Parameters
    ----------
    names : sequence of str or None
    groups : sequence of Group
        They get the terms that are to be added up.

    Raises
    ------
    TypeError, ValueError
        There is no such statistic.
    """

    def __init__(self, names: object, groups: Sequence[Group]) -> None:
        names = () if names is None else names
        if isinstance(names, str) or not isinstance(names, Sequence):
            raise TypeError(
                f"stats must be a list of names, such as ('grad_norm',), not {shown(names)}"
            )
        for name in names:
            if not isinstance(name, str):
                raise TypeError(f"stats must be a list of names, but has {shown(name)}")
        self.names = list(dict.fromkeys(names))
        self._kinds: dict[str, tuple[Kind, bool]] = {}
        # For each group the index of each statistic's sum among those of the step.
        self._indices = [self._observe(group) for group in groups]
        if unknown := [name for name in self.names if name not in self._kinds]:
            raise ValueError(f"stats has {', '.join(map(repr, unknown))}: {_accepted(groups)}")

    def _observe(self, group: Group) -> dict[str, int]:
        known = len(terms_of(group.parts, ()))
        terms: dict[tuple[Summand, Position, int], Term] = {}
        indices = {}
        for name in self.names:
            place = _place(name, group)
            if place is None:
                continue
            kind, position, index = place
            self._kinds[name] = kind, position == "gradient"
            key = kind.term, position, index
            term = Term(frozen(kind.term), f"statistic {name!r}", position, index)
            terms.setdefault(key, term)
            indices[name] = known + list(terms).index(key)
        group.stats = tuple(terms.values())
        return indices

    def read(
        self,
        totals: Array,
        group_of: Sequence[int],
        sizes: Sequence[int],
        factors: Sequence[float],
        build: Callable[[list[float | None]], Tree],
        step: int,
    ) -> Stats:
        """The statistics of the step that these are the sums of.

        Parameters
        ----------
        totals : array
            A row for each sum, with a number for each array.
        group_of, sizes : sequence of int
            Of the arrays.
        factors : sequence of float
            What the gradient of each array was multiplied by in its last step.
        build : callable
            Makes a structure like `params` of a list.
        step : int
        """
        values, per_array = {}, {}
        totals = totals + 0.0  # the sum of no numbers is -0.0
        for name in self.names:
            kind, of_gradient = self._kinds[name]
            scales = factors if kind.power and of_gradient else [1.0] * len(factors)
            at = [self._indices[group].get(name) for group in group_of]
            rows = [row for row, index in enumerate(at) if index is not None]
            each: list[float | None] = [
                None
                if index is None
                else scales[row] * kind.value(float(totals[index, row]), sizes[row])
                for row, index in enumerate(at)
            ]
            picked = totals[[index for index in at if index is not None], rows]
            scale = scales[rows[0]] if rows else 1.0  # the others are nearly always the same
            ratios = np.array([scales[row] / scale for row in rows])
            with np.errstate(all="ignore"):
                (total,) = over_all((picked * ratios**kind.power).reshape(1, -1))
            values[name] = scale * kind.value(total, sum(sizes[row] for row in rows))
            per_array[name] = build(each)
        return Stats(values, per_array, step)


def _place(name: str, group: Group) -> tuple[Kind, Position, int] | None:
    """What a statistic is of, and where; None where the group's chain has no such thing."""
    if name == CLIPPED_SHARE:
        for index, transform in enumerate(group.chain.transforms):
            if transform.update is clip_update:
                return Kind(clipped, _mean, 0), "transform", index
        return None
    what, _, kind = name.rpartition("_")
    if kind not in KINDS:
        return None
    if what in POSITIONS:
        return KINDS[kind], POSITIONS[what], 0
    slots = [slot.kind for part in group.parts for slot in part.slots]
    at = (index for index, slot in enumerate(slots) if slot == "state")
    states = dict(zip(group.chain.states(), at, strict=True))
    return (KINDS[kind], "state", states[what]) if what in states else None


def _accepted(groups: Sequence[Group]) -> str:
    states = dict.fromkeys(name for group in groups for name in group.chain.states())
    return (
        f"a statistic is one of {', '.join([*POSITIONS, *states])} with one of "
        f"{', '.join(f'_{kind}' for kind in KINDS)} behind it, or {CLIPPED_SHARE} where a chain has "
        "clip_by_value"
    )
