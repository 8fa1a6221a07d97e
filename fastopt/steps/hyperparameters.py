"""The buffers of hyperparameters that kernels read, one for all arrays at the same step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from functools import cache, partial
from itertools import count
from math import fabs
from operator import is_
from struct import pack_into
from typing import NamedTuple

import numpy as np

from fastopt.arrays.checks import Array
from fastopt.arrays.placement import is_on_device
from fastopt.changes import Change, make, put
from fastopt.codecs.floats import limit_in
from fastopt.codecs.formats import compute_dtype, name_of
from fastopt.codecs.rounding import phase
from fastopt.kernels.job import GRAD_FACTOR, NUMBERS, PHASE
from fastopt.steps.constants import check_constants
from fastopt.steps.group import Group
from fastopt.transforms.base import Chain, Transform
from fastopt.validation import Hyper, call, check_numbers, each_called_once

_EVERY_STEP = slice(GRAD_FACTOR, PHASE + 1)  # what can be another although no setting is


class _Key(NamedTuple):
    group: int
    format: str  # of the parameters where limits are rounded to it, else of the arithmetic
    lag: int  # steps that these arrays were skipped for


class _Source(NamedTuple):
    """What the numbers of a buffer come from."""

    # Each transform with its hyperparameters or the function of the step that gives them, how many
    # there are, and room for those that follow from sums.
    parts: list[tuple[Transform, Hyper | Callable[[int], Hyper], int, tuple[float, ...]]]
    format: str
    is_limited: bool  # whether some are rounded to the format in a direction
    lag: int
    seed: int | None
    dtype: str
    smallest: float  # above zero
    largest: float


class Entry(NamedTuple):
    """Arrays with the same hyperparameters, but for those that follow from sums of each."""

    number: int  # among the buffers
    group: int
    rows: list[int]
    buffers: list[Array]  # of each array, or one for all


class Hyperparameters:
    """The buffers of hyperparameters of an optimizer.

    An array whose gradient is None is left out of a step, and its own count of steps, which bias
    corrections and schedules depend on, lags behind from then on. Arrays with the same lag share
    a buffer.

    Attributes
    ----------
    lags : list of int
        For each array.
    is_on_device : bool
        Whether only the device knows them, and counts the steps.

    Parameters
    ----------
    groups : sequence of Group
    seed : int, optional
        Of the random bits, if any are needed.
    """

    is_on_device = False

    def __init__(self, groups: Sequence[Group], seed: int | None = None) -> None:
        self._groups = list(groups)
        self._seed = seed
        self._members = [
            (index, format_ if limited else str(name_of(compute_dtype(format_))))
            for index, group in enumerate(groups)
            for limited in [any(part.round_towards is not None for part in group.chain)]
            for format_ in [str(name_of(leaf.dtype)) for leaf in group.leaves]
        ]
        # For each transform how many come from the host, and room for those that follow from sums.
        self._lengths = [
            [(p.from_host, (0.0,) * p.hypers) if p.sums else (p.hypers, ()) for p in group.parts]
            for group in groups
        ]
        # Groups whose arrays have hyperparameters of their own, each a row of the buffer: not on a
        # device, which has those that follow from sums in its memory.
        sums = (
            (i, part.sums)
            for i, group in enumerate(groups)
            for part in group.parts
            if not any(map(is_on_device, group.leaves))
        )
        self._apart = {index for index, sums_ in sums if sums_ is not None and sums_.per_array}
        alike: dict[tuple[int, str], Iterator[int]] = {}
        members = self._members if self._apart else []
        self._places = [next(alike.setdefault(member, count())) for member in members]  # the rows
        self._current: Sequence[list[float]] = ()  # what was written to each buffer, in float64
        self._views: dict[_Key, list[Array]] = {}
        self._scale: float | None = None  # of the last time, where all but the random bits stays
        self._chains: Sequence[Chain] = self.chains  # whose numbers are in the buffers
        self._are_constant = False
        self._repeats = True  # whether anything may be called twice in a step, so that it must not be
        self._checked: Sequence[Chain] = []  # chains whose constants were
        self._buffers: dict[_Key, Array] = {}
        self._arrange([0] * len(self._members))

    def _arrange(self, lags: Sequence[int]) -> None:
        """Have one buffer for each group, dtype and lag that occurs."""
        self.lags = list(lags)
        self._scale, self._repeats = None, True
        self._entries: Sequence[Entry] = ()
        members = zip(self._members, self.lags, strict=True)
        keys = dict.fromkeys(_Key(*member, lag) for member, lag in members)
        self._buffers = {key: self._buffers.get(key, self._new(key)) for key in keys}
        if self._apart:
            self._views = {key: self._views.get(key, list(rows)) for key, rows in self._buffers.items()}
        self._packs: list[Callable[..., None]] = []  # made by the first step that needs them
        self._sources: list[_Source] = []  # and these

    def arranged(self, lags: Sequence[int]) -> Hyperparameters:
        """The same for other lags; buffers that are needed on are those of this one."""
        other = copy(self)
        other._arrange(lags)
        return other

    def _new(self, key: _Key) -> Array:
        size = NUMBERS + sum(part.from_host + part.hypers for part in self._groups[key.group].parts)
        rows = [self._members.count(key[:2])] if key.group in self._apart else []
        return np.zeros([*rows, size], compute_dtype(key.format))

    def entries(self) -> Sequence[Entry]:
        """What has the same hyperparameters, at the end what has lagged least."""
        if not self._entries:
            keys = sorted(enumerate(self._buffers), key=lambda pair: -pair[1].lag)
            self._entries = [self._entry(number, key) for number, key in keys]
        return self._entries

    def _entry(self, number: int, key: _Key) -> Entry:
        members = zip(self._members, self.lags, strict=True)
        rows = [row for row, member in enumerate(members) if _Key(*member[0], member[1]) == key]
        buffers = list(map(self.of, rows)) if key.group in self._apart else [self._buffers[key]]
        return Entry(number, key.group, rows, buffers)

    def from_host(self, entry: Entry) -> Sequence[float]:
        """The hyperparameters of the step that was filled in last, in float64."""
        return self._current[entry.number]

    def vary(self, chains: Sequence[Chain] | None = None) -> bool:
        """Whether hyperparameters depend on the step, with the current chains or others."""
        return self._seed is not None or any(chain.varies for chain in chains or self.chains)

    @property
    def chains(self) -> list[Chain]:
        """Of the groups."""
        return [group.chain for group in self._groups]

    def of_all(self) -> list[Array]:
        """The buffer of each array."""
        return [self.of(row) for row in range(len(self.lags))]

    def of(self, row: int) -> Array:
        """The buffer of one array."""
        member = self._members[row]
        key = _Key(*member, self.lags[row])
        if member[0] not in self._apart:
            return self._buffers[key]
        return self._views[key][self._places[row]]

    def fill(self, step: int, grad_scale: float) -> None:
        """Write what varies for a step, or raise as `filled`; every step does it anew."""
        if grad_scale == self._scale:
            factor = 1.0 / grad_scale
            for key, buffer in self._buffers.items():
                buffer.T[_EVERY_STEP].T[...] = factor, _phase_at(self._seed, step - key.lag)
            return
        if not self._sources:
            self._sources = self._sources_of(self._chains)
        arguments = self._sources, step, grad_scale
        if self._repeats:
            numbers, self._repeats = each_called_once(_all_numbers, *arguments)
        else:
            numbers = _all_numbers(*arguments)
        self._current = numbers
        self._packs = self._packs or list(map(_packer, self._buffers.values()))
        for pack, buffer_numbers in zip(self._packs, numbers, strict=True):
            pack(*buffer_numbers)
        if self._are_constant:
            self._scale = grad_scale

    def write(self, has_gradient: Sequence[bool], grad_scale: float, limit: float) -> None:
        """Have a device compute those of the coming step, where it does so by itself."""

    def filled(
        self, step: int, grad_scale: float, chains: Sequence[Chain] | None = None
    ) -> list[Change]:
        """What writes the hyperparameters of a step, with the chains of now or with others.

        Raises
        ------
        TypeError, ValueError
            A constant vanishes in its dtype, or a schedule gave something unusable.
        """
        chains = chains or self.chains
        if not (self._checked and all(map(is_, chains, self._checked))):
            for group, format_ in dict.fromkeys(self._members):
                check_constants(chains[group], format_)
            self._checked = chains
        sources = self._sources_of(chains)
        numbers, _ = each_called_once(_all_numbers, sources, step, grad_scale)
        changes = [
            put(buffer, np.array(values, buffer.dtype))
            for buffer, values in zip(self._buffers.values(), numbers, strict=True)
        ]
        constant = not any(chain.varies for chain in chains)
        new: dict[str, object] = {"_chains": chains, "_are_constant": constant, "_repeats": True}
        new |= {"_current": numbers, "_sources": sources}
        new["_scale"] = grad_scale if constant else None
        return [*changes, partial(vars(self).update, new)]

    def _sources_of(self, chains: Sequence[Chain]) -> list[_Source]:
        return [self._source(key, chains[key.group]) for key in self._buffers]

    def _source(self, key: _Key, chain: Chain) -> _Source:
        parts = [
            (part, part.hyper, *lengths)
            for part, lengths in zip(chain, self._lengths[key.group], strict=True)
        ]
        limited = any(part.round_towards is not None for part in chain)
        return _Source(parts, key.format, limited, key.lag, self._seed, *_range(key.format))

    def scale_gradients(self, factor: float) -> None:
        """Multiply gradients by another factor, until the next `fill`."""
        make([put(buffer.T, factor, GRAD_FACTOR) for buffer in self._buffers.values()])


def _phase_at(seed: int | None, step: int) -> float:
    return 0.0 if seed is None else phase(seed, step)


def _all_numbers(sources: list[_Source], count: int, grad_scale: float) -> list[list[float]]:
    """What goes into each buffer."""
    return [_numbers(source, count, grad_scale) for source in sources]


def _numbers(source: _Source, count: int, grad_scale: float) -> list[float]:
    parts, _, is_limited, lag, seed, dtype, smallest, largest = source
    step, factor = count - lag, 1.0 / grad_scale
    if not smallest <= factor <= largest:
        raise ValueError(
            f"grad_scale must have a finite inverse above zero in {dtype}, got {grad_scale!r}"
        )
    numbers = [factor, _phase_at(seed, step)]
    for part, hyper, length, room in parts:
        values = call(hyper, step) if callable(hyper) else hyper
        if not isinstance(values, (tuple, list)):
            check_numbers(part.name, values, step)
        if len(values) != length:
            raise ValueError(
                f"{part.label} must always have as many hyperparameters: its hyper gave "
                f"{len(values)} numbers at step {step}, {length} before"
            )
        numbers += values
        if room:
            numbers += room
    if is_limited:
        _round_limits(source, numbers)
    try:  # One sum tells that all are finite, as a rule; NaN fails too.
        are_finite = sum(map(fabs, numbers)) <= largest
    except (TypeError, OverflowError):
        are_finite = False
    if not are_finite:
        _check_finite(source, numbers, step)
    return numbers


def _spans(source: _Source) -> Iterator[tuple[Transform, slice]]:
    """Each transform, and where its hyperparameters are among the numbers."""
    stop = NUMBERS
    for part, *_, length, room in source.parts:
        start, stop = stop, stop + length
        yield part, slice(start, stop)
        stop += len(room)


def _round_limits(source: _Source, numbers: list[float]) -> None:
    for part, where in _spans(source):
        if (direction := part.round_towards) is not None:
            numbers[where] = [limit_in(source.format, number, direction) for number in numbers[where]]


def _check_finite(source: _Source, numbers: list[float], step: int) -> None:
    for part, where in _spans(source):
        hyper = tuple(numbers[where])
        check_numbers(part.name, hyper, step)
        if not all(abs(number) <= source.largest for number in hyper):
            raise ValueError(
                f"the hyperparameters of {part.label} must be finite in {source.dtype}, "
                f"got {hyper} at step {step}"
            )


def _packer(buffer: Array) -> Callable[..., None]:
    """``pack(*numbers)`` writes to a buffer: in a third of the time that an assignment takes."""
    if buffer.ndim == 1:
        return partial(pack_into, f"{buffer.size}{buffer.dtype.char}", buffer.data, 0)

    def pack(*numbers: float) -> None:
        buffer[:] = numbers

    return pack


@cache
def _range(format_: str) -> tuple[str, float, float]:
    """The dtype that a format is computed in, its smallest and its largest number above zero."""
    dtype = compute_dtype(format_)
    limits = np.finfo(dtype)
    return dtype.name, float(limits.smallest_subnormal), float(limits.max)
