"""From sums to hyperparameters: the passes over all arrays, and what `from_sums` decides after each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from struct import pack_into
from typing import Any, NamedTuple

import numpy as np

from fastopt.arrays.checks import Array
from fastopt.changes import Change, assign
from fastopt.executors import reference
from fastopt.executors.norm import Reducer
from fastopt.kernels.job import NUMBERS
from fastopt.steps.group import Group
from fastopt.steps.hyperparameters import Hyperparameters
from fastopt.steps.pass_sums import PassSums, over_all
from fastopt.transforms.base import Part, sums_in
from fastopt.transforms.sums import Sums

Carried = dict[int, tuple[float, ...]]  # of each group, or of each array


class SumPass(NamedTuple):
    """One read of the arrays, for a transform of one or several groups."""

    positions: dict[int, int]  # group -> index of the transform in its chain
    sums: int  # how many, none where all that is needed was summed in the step before
    per_array: bool
    after: dict[int, int]  # group -> index of the first that is for the next step, among its terms
    count_after: int


def passes_of(groups: Sequence[Group]) -> list[SumPass]:
    """The passes of a step, in order: groups with the same transform share its sums.

    Raises
    ------
    ValueError
        Groups have the same transforms in different orders.
    """
    waiting = [list(_sums_in(group.parts)) for group in groups]
    passes: list[SumPass] = []
    while any(waiting):
        for key, _ in (own[0] for own in waiting if own):
            holders = {i: own for i, own in enumerate(waiting) if any(k == key for k, _ in own)}
            if all(own[0][0] == key for own in holders.values()):
                break
        else:
            raise ValueError(
                "groups must have transforms with sums in the same order: each waits for the other's"
            )
        positions = {i: own.pop(0)[1] for i, own in holders.items()}
        first = next(iter(positions))
        sums = sums_in(groups[first].parts[positions[first]])
        after = {g: _terms_before(groups[g].parts[:position]) for g, position in positions.items()}
        counts = len(sums.summands), len(sums.after)
        passes.append(SumPass(positions, counts[0], sums.per_array, after, counts[1]))
    return passes


def _terms_before(parts: Sequence[Part]) -> int:
    return sum(len(part.sums.after) for part in parts if part.sums is not None)


def _sums_in(parts: Sequence[Part]) -> Iterator[tuple[Any, int]]:
    """What is equal for the same transform of other groups, and its index in the chain."""
    known: list[Any] = []
    for position, part in enumerate(parts):
        if part.sums is not None:
            same = part.update, part.sums.summands, part.sums.after, part.sums.per_array
            known.append(same)
            yield (*same, known.count(same)), position


def check_sums(groups: Sequence[Group], place: str | None) -> None:
    """Check that transforms with sums, and statistics, can be used here, or raise ValueError."""
    if place is not None and any(group.stats for group in groups):
        raise ValueError("stats must be empty for arrays on a device: they are for memory so far")
    for part in (part for group in groups for part in group.parts if part.sums is not None):
        if place not in (None, "cuda"):
            raise ValueError(
                f"transform {part.name!r} has sums, which are for arrays in memory and on CUDA "
                f"devices, not for those of the place {place!r}"
            )
        if place is not None and sums_in(part).after:
            raise ValueError(
                f"transform {part.name!r} has sums of the step before, sums_after, which are for "
                "arrays in memory so far, not on a device"
            )


class Decisions:
    """The hyperparameters that depend on sums, and the numbers that are carried to the next step.

    Parameters
    ----------
    groups : sequence of Group
    group_of : sequence of int
        The group of each array.

    Attributes
    ----------
    passes : list of SumPass
    carried : list of dict
        For each pass, the carried numbers of each group or array.
    carries : bool
        Whether there are any.
    reads : bool
        Whether the arrays are read before a step, for sums.
    waits : bool
        Whether sums of one step are for the next.
    """

    def __init__(self, groups: Sequence[Group], group_of: Sequence[int]) -> None:
        self._groups, self._group_of = groups, group_of
        self.carries = self.reads = self.waits = False
        self.carried: list[Carried] = []
        self.passes: list[SumPass] = []
        if any(part.sums for group in groups for part in group.parts):
            self._find_passes()

    def _find_passes(self) -> None:
        self.passes = passes_of(self._groups)
        self._parts = [{g: self.part(own, g) for g in own.positions} for own in self.passes]
        self.carried = [self._start(own) for own in self.passes]
        self.next = self.carried  # that of the step after the one that was begun
        self.carries = any(value for own in self.carried for value in own.values())
        self.reads = any(own.sums for own in self.passes)
        self.waits = any(own.count_after for own in self.passes)

    def _start(self, own: SumPass) -> Carried:
        holders = [
            (row if own.per_array else group, group)
            for row, group in enumerate(self._group_of)
            if group in own.positions
        ]
        return {key: sums_in(self.part(own, group)[1]).carried for key, group in holders}

    def part(self, own: SumPass, group: int) -> tuple[int, Part]:
        """The index of the first hyperparameter of a pass's transform, and its part of the chain."""
        parts, position = self._groups[group].parts, own.positions[group]
        *_, first = accumulate((p.given + p.hypers for p in parts[:position]), initial=NUMBERS)
        return first, parts[position]

    def decide(
        self,
        total: Callable[[int], Array],
        hyper: Hyperparameters,
        given: Sequence[bool],
        reducer: Reducer,
        pass_sums: PassSums | None,
    ) -> bool:
        """Sum, and write the hyperparameters that follow, pass by pass; False to skip the step.

        Parameters
        ----------
        total : callable
            The sums of a pass: a row for each, with a number for each array or one for all.
        hyper : Hyperparameters
        given : sequence of bool
            Which arrays have a gradient.
        reducer : Reducer
            Adds the sums of several processes.
        pass_sums : PassSums, optional
            Those of the step before.
        """
        carried = []
        after = pass_sums.totals() if self.waits and pass_sums is not None else None
        for number, own in enumerate(self.passes):
            totals: list[list[float]] = []
            if own.sums:
                totals += [[reducer.sum(x) for x in row] for row in total(number).tolist()]
            if own.count_after and after is not None:
                totals += self._after(own, after)
            columns = list(zip(*totals, strict=True))
            following, skips = self._conclude(number, own.per_array, columns, hyper, given)
            if skips:
                return False
            carried.append(following)
        self.next = carried
        return True

    def _after(self, sum_pass: SumPass, totals: Array) -> list[list[float]]:
        """The sums of the step before: a row for each, with a number for each array or one for all."""
        rows = [row for row, group in enumerate(self._group_of) if group in sum_pass.positions]
        firsts = np.array([sum_pass.after[self._group_of[row]] for row in rows], np.int64)
        picked = totals[firsts + np.arange(sum_pass.count_after)[:, np.newaxis], rows]
        if not sum_pass.per_array:
            return [[number] for number in over_all(picked)]
        every = np.zeros((sum_pass.count_after, len(self._group_of)))
        every[:, rows] = picked
        numbers: list[list[float]] = every.tolist()
        return numbers

    def committed(self) -> list[Change]:
        """The changes with which the step that was begun is over, if numbers are carried."""
        return [assign(self, "carried", self.next)] if self.carries else []

    def saved(self) -> list[list[list[float] | None]]:
        """The carried numbers of each pass: of each group or array, None where there are none."""
        return [
            [list(own[key]) if key in own else None for key in range(self._holders(each))]
            for each, own in zip(self.passes, self.carried, strict=True)
        ]

    def loaded(self, saved: Any, order: Sequence[int], what: str) -> list[Carried]:
        """Carried numbers as they were saved; `order` has the index that each array had then.

        Raises
        ------
        ValueError
            They are not those of an optimizer like this.
        """
        own: list[Carried] = []
        try:
            for each, before, found in zip(self.passes, self.carried, saved, strict=True):
                at = order if each.per_array else range(len(self._groups))
                own.append({key: tuple(map(float, found[at[key]])) for key in before})
            fits = [
                list(map(len, old.values())) == list(map(len, new.values()))
                for old, new in zip(self.carried, own, strict=True)
            ]
        except (TypeError, ValueError, IndexError):
            fits = [False]
        if not all(fits):
            raise ValueError(f"{what} must have other carried numbers than {saved!r:.200}")
        return own

    def _holders(self, own: SumPass) -> int:
        return len(self._group_of if own.per_array else self._groups)

    def _conclude(
        self,
        number: int,
        per_array: bool,
        columns: list[tuple[float, ...]],
        hyper: Hyperparameters,
        given: Sequence[bool],
    ) -> tuple[Carried, bool]:
        """What is carried on, and whether the step is to be skipped."""
        parts, before = self._parts[number], self.carried[number]
        following, skips = dict(before), False
        # The carried numbers of a group are those of its arrays that were left out of fewest steps.
        for entry in hyper.entries():
            if entry.group not in parts:
                continue
            first, part = parts[entry.group]
            start = first + part.given
            settings = tuple(hyper.given(entry)[first:start])
            if not per_array:
                key = entry.group
                decided, following[key], skip = _concluded(part, settings, columns[0], before[key])
                skips |= skip
                for buffer in entry.buffers:
                    _write(buffer, start, decided)
                continue
            for row, buffer in zip(entry.rows, entry.buffers, strict=True):
                if given[row]:
                    own = columns[row if len(columns) > 1 else 0]
                    decided, following[row], skip = _concluded(part, settings, own, before[row])
                    skips |= skip
                    _write(buffer, start, decided)
        return following, skips


def _write(buffer: Any, start: int, numbers: Sequence[float]) -> None:
    """Write hyperparameters to a buffer, infinity for those that are too large."""
    kind = buffer.dtype.char
    try:  # a third of the time that an assignment takes
        pack_into(f"{len(numbers)}{kind}", buffer.data, start * buffer.itemsize, *numbers)
    except OverflowError:
        with np.errstate(over="ignore"):
            buffer[start : start + len(numbers)] = numbers


def _concluded(
    part: Part, hyper: tuple[float, ...], totals: tuple[float, ...], carried: tuple[float, ...]
) -> tuple[tuple[float, ...], tuple[float, ...], bool]:
    """What `from_sums` of a transform returns, as many numbers as always."""
    decided, following, skip = concluded(sums_in(part), hyper, totals, carried)
    counts, usual = (len(decided), len(following)), (part.hypers, len(carried))
    if counts != usual:
        raise ValueError(
            f"from_sums of transform {part.name!r} must always return as many hyperparameters and "
            f"carried numbers: it gave {counts[0]} and {counts[1]}, {usual[0]} and {usual[1]} before"
        )
    return decided, following, skip


def concluded(
    sums: Sums, hyper: tuple[float, ...], totals: tuple[float, ...], carried: tuple[float, ...]
) -> tuple[tuple[float, ...], tuple[float, ...], bool]:
    """What `from_sums` returns, with the numbers of IEEE where Python raises."""
    try:
        return _as_numbers(*sums.from_sums(hyper, totals, carried))
    except (ArithmeticError, ValueError, TypeError):
        function = reference.in_float64(sums.from_sums)
        with np.errstate(all="ignore"):
            arguments = (tuple(map(np.float64, own)) for own in (hyper, totals, carried))
            return _as_numbers(*function(*arguments))


def _as_numbers(decided: Any, carried: Any, skips: Any = False) -> tuple[Any, Any, bool]:
    return tuple(map(float, decided)), tuple(map(float, carried)), bool(skips)
