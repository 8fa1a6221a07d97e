"""The passes that sum over all arrays, and the numbers that are carried from step to step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from fastopt.arrays.checks import Array
from fastopt.changes import Change, assign
from fastopt.kernels.job import NUMBERS
from fastopt.steps.group import Group
from fastopt.transforms.base import Part, sums_in
from fastopt.validation import as_float

Carried = list[Array]  # of each pass: a row of numbers for each group, or for each array


def saved_numbers(values: object) -> list[float]:
    """The numbers of a checkpoint as floats; raises TypeError for text, flags and the like."""
    if not isinstance(values, (list, tuple)) or any(
        isinstance(number, bool) or not isinstance(number, Real) for number in values
    ):
        raise TypeError("not a list of numbers")
    return list(map(as_float, values))


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
        for key, _ in (keys[0] for keys in waiting if keys):
            holders = {i: keys for i, keys in enumerate(waiting) if any(k == key for k, _ in keys)}
            if all(keys[0][0] == key for keys in holders.values()):
                break
        else:
            raise ValueError(
                "groups must have transforms with sums in the same order: each waits for the other's"
            )
        positions = {i: keys.pop(0)[1] for i, keys in holders.items()}
        first = next(iter(positions))
        sums = sums_in(groups[first].parts[positions[first]])
        after = {g: _terms_before(groups[g].parts[:position]) for g, position in positions.items()}
        counts = len(sums.summands), len(sums.after)
        passes.append(SumPass(positions, counts[0], sums.per_array, after, counts[1]))
    return passes


def _terms_before(parts: Sequence[Part]) -> int:
    return sum(len(part.sums.after) for part in parts if part.sums is not None)


def _sums_in(parts: Sequence[Part]) -> Iterator[tuple[tuple[object, ...], int]]:
    """What is equal for the same transform of other groups, and its index in the chain."""
    known: list[tuple[object, ...]] = []
    for position, part in enumerate(parts):
        if part.sums is not None:
            same = part.update, part.sums.summands, part.sums.after, part.sums.per_array
            known.append(same)
            yield (*same, known.count(same)), position


def check_sums(groups: Sequence[Group], place: str | None) -> None:
    """Check that transforms with sums, and statistics, can be used here, or raise ValueError."""
    if place not in (None, "cuda") and any(group.stats for group in groups):
        raise ValueError(f"stats must be empty for arrays of the place {place!r}: it has none")
    for transform in (part for group in groups for part in group.chain if part.from_sums is not None):
        if place not in (None, "cuda"):
            raise ValueError(
                f"{transform.label} has sums, which are for arrays in memory and on CUDA "
                f"devices, not for those of the place {place!r}"
            )


class Decisions:
    """The passes of a step, and the numbers that are carried to the next step.

    Parameters
    ----------
    groups : sequence of Group
    group_of : sequence of int
        The group of each array.

    Attributes
    ----------
    passes : list of SumPass
    carried : list of array
        For each pass, the carried numbers: a row for each group or array.
    carries : bool
        Whether there are any.
    reads : bool
        Whether the arrays are read before a step, for sums.
    waits : bool
        Whether sums of one step are for the next.
    may_skip : bool
        Whether a transform may have a step skipped.
    """

    def __init__(self, groups: Sequence[Group], group_of: Sequence[int]) -> None:
        self._groups, self.group_of = groups, group_of
        self.carries = self.reads = self.waits = self.may_skip = False
        self.carried: Carried = []
        self.next = self.carried  # that of the step after the one that was begun
        self.passes: list[SumPass] = []
        self._lengths: list[dict[int, int]] = []  # how many numbers each group or array carries
        if any(part.sums for group in groups for part in group.parts):
            self._find_passes()

    def _find_passes(self) -> None:
        self.passes = passes_of(self._groups)
        starts = [self._start(sum_pass) for sum_pass in self.passes]
        self._lengths = [{key: len(numbers) for key, numbers in start.items()} for start in starts]
        self.carried = [
            self._table(sum_pass, start) for sum_pass, start in zip(self.passes, starts, strict=True)
        ]
        self.next = self.carried
        self.carries = any(length for lengths in self._lengths for length in lengths.values())
        self.reads = any(sum_pass.sums for sum_pass in self.passes)
        self.waits = any(sum_pass.count_after for sum_pass in self.passes)
        self.may_skip = any(
            sums_in(self.part(sum_pass, g)[1]).skips
            for sum_pass in self.passes
            for g in sum_pass.positions
        )

    def _start(self, sum_pass: SumPass) -> dict[int, tuple[float, ...]]:
        """The initial carried numbers of each group or array that has the transform."""
        holders = [
            (row if sum_pass.per_array else group, group)
            for row, group in enumerate(self.group_of)
            if group in sum_pass.positions
        ]
        return {key: sums_in(self.part(sum_pass, group)[1]).carried for key, group in holders}

    def _table(self, sum_pass: SumPass, numbers: Mapping[int, Sequence[float]]) -> Array:
        """Carried numbers of a pass, with a row for each group or array."""
        table = np.zeros((self._holders(sum_pass), max(map(len, numbers.values()), default=0)))
        for key, row in numbers.items():
            table[key, : len(row)] = row
        return table

    def part(self, sum_pass: SumPass, group: int) -> tuple[int, Part]:
        """The index of the first hyperparameter of a pass's transform, and its part of the chain."""
        parts, position = self._groups[group].parts, sum_pass.positions[group]
        *_, first = accumulate((p.from_host + p.hypers for p in parts[:position]), initial=NUMBERS)
        return first, parts[position]

    def committed(self) -> list[Change]:
        """The changes with which the step that was begun is over, if numbers are carried."""
        return [assign(self, "carried", self.next)] if self.carries else []

    def saved(self) -> list[list[list[float] | None]]:
        """The carried numbers of each pass: of each group or array, None where there are none."""
        return [
            [row[: lengths[key]] if key in lengths else None for key, row in enumerate(table.tolist())]
            for lengths, table in zip(self._lengths, self.carried, strict=True)
        ]

    def loaded(self, saved: Any, order: Sequence[int], what: str) -> Carried:
        """Carried numbers as they were saved; `order` has the index that each array had then.

        Raises
        ------
        ValueError
            They are not those of an optimizer like this.
        """
        loaded: Carried = []
        try:
            for each, lengths, rows in zip(self.passes, self._lengths, saved, strict=True):
                at = order if each.per_array else range(len(self._groups))
                numbers = {key: tuple(saved_numbers(rows[at[key]])) for key in lengths}
                fits = {key: len(row) for key, row in numbers.items()} == lengths
                if not fits or len(rows) != len(at):
                    raise ValueError("other carried numbers")
                loaded.append(self._table(each, numbers))
        except (TypeError, ValueError, LookupError) as error:
            raise ValueError(f"{what} must have other carried numbers than {saved!r:.200}") from error
        return loaded

    def _holders(self, sum_pass: SumPass) -> int:
        return len(self.group_of if sum_pass.per_array else self._groups)
