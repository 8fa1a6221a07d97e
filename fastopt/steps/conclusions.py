"""From sums to hyperparameters in memory: the calls of `from_sums`, compiled or in plain Python."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from struct import pack_into

import numpy as np

from fastopt.arrays.checks import Array, address
from fastopt.executors import reference
from fastopt.executors.cpu.columns import COUNT, LENGTH
from fastopt.executors.cpu.conclusions import COLUMN, HOLDER, LINE_WORDS, ROW, SETTINGS, conclude
from fastopt.steps.hyperparameters import Entry, Hyperparameters
from fastopt.steps.sums import Decisions
from fastopt.transforms.base import Part, sums_in
from fastopt.transforms.sums import Sums
from fastopt.validation import Hyper


class Conclusion:
    """The calls of `from_sums` after one pass, for the arrays of groups with the same transform.

    Parameters
    ----------
    part : Part
        The transform.
    entries : sequence of (Entry, int)
        What has the same hyperparameters, and the index of the transform's first among these.
    per_array : bool
    hyper : Hyperparameters
        Those that the entries are of.
    compiled : bool
    """

    def __init__(
        self,
        part: Part,
        entries: Sequence[tuple[Entry, int]],
        per_array: bool,
        hyper: Hyperparameters,
        compiled: bool,
    ) -> None:
        self._part, self._hyper, self._per_array = part, hyper, per_array
        self._entries = [(entry, slice(first, first + part.from_host)) for entry, first in entries]
        self._settings = np.zeros((len(entries), part.from_host))
        self._known: list[object] = [None] * len(entries)  # what was written there
        self._places: list[tuple[Array, int]] = []  # for each line, the buffer and the index in it
        lines = [self._line(number, *each) for number, each in enumerate(self._entries)]
        self._lines = np.array([line for lines_of_entry in lines for line in lines_of_entry], np.int64)
        self._lines = self._lines.reshape(-1, LINE_WORDS)
        self._conclude = conclude(part) if compiled else self._in_python

    def _line(self, number: int, entry: Entry, settings: slice) -> list[list[int]]:
        """The lines of an entry: one for each of its buffers."""
        lines = []
        for index, buffer in enumerate(entry.buffers):
            row = entry.rows[index] if self._per_array else -1
            holder = row if self._per_array else entry.group
            at = address(buffer) + buffer.itemsize * settings.stop
            is_double = buffer.dtype == np.float64
            lines.append([max(row, 0), holder, number, row, at, int(is_double)])
            self._places.append((buffer, settings.stop))
        return lines

    def decide(self, rows: Array, sums: Array, carried: Array, following: Array) -> bool:
        """Write hyperparameters, and what is carried on to `following`; True to skip the step.

        `rows` is the table of arrays, `sums` has a row for each sum, with a number for each array or
        one for all.
        """
        for number, (entry, settings) in enumerate(self._entries):
            numbers = self._hyper.from_host(entry)
            if numbers is not self._known[number]:
                at = number * self._settings.strides[0]
                pack_into(f"{self._part.from_host}d", self._settings.data, at, *numbers[settings])
                self._known[number] = numbers
        return self._conclude(self._lines, rows, self._settings, sums, carried, following)

    def _in_python(
        self, lines: Array, rows: Array, settings: Array, sums: Array, carried: Array, following: Array
    ) -> bool:
        """What compiled code does (`executors.cpu.conclusions`)."""
        skips, count = False, len(sums_in(self._part).carried)
        columns, hypers = list(zip(*sums.tolist(), strict=True)), settings.tolist()
        for line, (buffer, start) in zip(lines.tolist(), self._places, strict=True):
            row, holder = line[ROW], line[HOLDER]
            previous = tuple(carried[holder, :count].tolist())
            if row >= 0 and rows[row, COUNT] != rows[row, LENGTH]:
                following[holder, :count] = previous
                continue
            hyper = tuple(hypers[line[SETTINGS]])
            decided, after, skip = _concluded(self._part, hyper, columns[line[COLUMN]], previous)
            following[holder, :count] = after
            with np.errstate(over="ignore"):  # infinity for what is too large
                buffer[start : start + len(decided)] = decided
            skips |= skip
        return skips


def conclusions(
    decisions: Decisions, number: int, hyper: Hyperparameters, compiled: bool
) -> list[Conclusion]:
    """What is concluded from the sums of a pass: for groups of the same transform in one go."""
    sum_pass = decisions.passes[number]
    alike: dict[Part, list[tuple[Entry, int]]] = {}
    # The carried numbers of a group are those of its arrays that were left out of fewest steps.
    for entry in hyper.entries():
        if entry.group in sum_pass.positions:
            first, part = decisions.part(sum_pass, entry.group)
            alike.setdefault(part, []).append((entry, first))
    how = sum_pass.per_array, hyper, compiled
    return [Conclusion(part, entries, *how) for part, entries in alike.items()]


def _concluded(
    part: Part, hyper: tuple[float, ...], totals: tuple[float, ...], carried: tuple[float, ...]
) -> tuple[tuple[float, ...], tuple[float, ...], bool]:
    """What `from_sums` of a transform returns, as many numbers as always."""
    decided, following, skip = _from_sums(sums_in(part), hyper, totals, carried)
    counts, usual = (len(decided), len(following)), (part.hypers, len(carried))
    if counts != usual:
        raise ValueError(
            f"from_sums of transform {part.name!r} must always return as many hyperparameters and "
            f"carried numbers: it gave {counts[0]} and {counts[1]}, {usual[0]} and {usual[1]} before"
        )
    return decided, following, skip


def _from_sums(
    sums: Sums, hyper: tuple[float, ...], totals: tuple[float, ...], carried: tuple[float, ...]
) -> tuple[tuple[float, ...], tuple[float, ...], bool]:
    """What `from_sums` returns, with the numbers of IEEE where Python raises."""
    try:
        return _as_numbers(*sums.from_sums(hyper, totals, carried))
    except (ArithmeticError, ValueError, TypeError):
        function = reference.in_float64(sums.from_sums)
        with np.errstate(all="ignore"):
            arguments = (tuple(map(np.float64, numbers)) for numbers in (hyper, totals, carried))
            return _as_numbers(*function(*arguments))


def _as_numbers(
    decided: Iterable[float], carried: Iterable[float], skips: object = False
) -> tuple[Hyper, Hyper, bool]:
    return tuple(map(float, decided)), tuple(map(float, carried)), bool(skips)
