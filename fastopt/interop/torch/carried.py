"""What goes from step to step beside states: numbers that follow from sums, and sums for the next step.

Between steps they are with the stepper. A param group has those of all of its parameters in its entry
``carried``; a parameter's state has its own in ``carried`` and ``sums``. These are lists of floats, put
there when the optimizer is saved or copied and when a plan is made anew, which reads them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastopt.interop.torch.param_groups import ParamGroup
from fastopt.interop.torch.parameters import Section
from fastopt.interop.torch.shards import is_sharded
from fastopt.interop.torch.tensors import State
from fastopt.steps.build import build
from fastopt.steps.pass_sums import PassSums
from fastopt.steps.sums import SumPass, saved_numbers
from fastopt.transforms.base import Chain, Transform

CARRIED, SUMS = "carried", "sums"


def with_sums(chain: Chain) -> list[Transform]:
    """The transforms of a chain that have sums."""
    return [transform for transform in chain if transform.from_sums is not None]


def over_all(chain: Chain) -> list[Transform]:
    """Those whose sums are over all arrays."""
    return [transform for transform in with_sums(chain) if not transform.per_array]


def check_stats(names: Sequence[str] | None, chains: list[Chain]) -> None:
    """Check that the statistics of these names exist, or raise TypeError or ValueError."""
    nothing = [[np.zeros(0, np.float32)] for _ in chains]
    build(nothing, chains, stats=names, executor="reference", listed=True)


def check_places(groups: Sequence[ParamGroup], chains: Sequence[Chain], stats: Sequence[str]) -> None:
    """Check that sums and statistics can be had of these parameters, or raise ValueError."""
    several = list(dict.fromkeys(t.label for chain in chains for t in over_all(chain)))
    kinds = ["stats"] * bool(stats) + several
    places = list(dict.fromkeys(str(p.device) for group in groups for p in group["params"]))
    if kinds and len(places) > 1:
        raise ValueError(
            f"{kinds[0]} needs all parameters on one device, and they are on {places}: no device has "
            "the sums over all of them"
        )
    for index, (group, chain) in enumerate(zip(groups, chains, strict=True)):
        names = ["stats"] * bool(stats) + [t.label for t in with_sums(chain)]
        for i, param in enumerate(group["params"] if names else ()):
            name = f"param_groups[{index}]['params'][{i}]"
            if is_sharded(param):
                raise ValueError(
                    f"{names[0]} needs parameters that are not sharded, and {name} is: its sums would "
                    "be those of one process"
                )
            if param.is_cuda and group.get("capturable"):
                raise ValueError(
                    f"{names[0]} needs capturable=False: its sums are not in the graphs that capture"
                )


def check_saved(index: int, group: ParamGroup, states: Mapping[Any, State], chain: Chain) -> None:
    """Check the entries of a param group, and of its parameters' states, before they are loaded.

    Raises
    ------
    ValueError
        They are not those of these transforms.
    """
    passes = with_sums(chain)
    shared = [[] if t.per_array else [*t.carried.values()] for t in passes]
    of_each = [[*t.carried.values()] if t.per_array else [] for t in passes]
    _taken(f"param_groups[{index}]", group, CARRIED, shared)
    for key, state in states.items():
        _taken(f"state[{key}]", state, CARRIED, of_each)
        _taken(f"state[{key}]", state, SUMS, [0.0 for t in passes for _ in t.sums_after])


class Carried:
    """The carried numbers and sums of a stepper.

    Parameters
    ----------
    stepper : Stepper
    sections : sequence of Section
    """

    def __init__(self, stepper: Any, sections: Sequence[Section]) -> None:
        self._stepper, self._sections = stepper, sections
        self.rows = [row for section in sections for row in section.rows]
        self._passes: list[list[tuple[int, SumPass]]] = [
            [pair for pair in enumerate(stepper.decisions.passes) if number in pair[1].positions]
            for number in range(len(sections))
        ]

    def save(self) -> None:
        """Put them into param groups and states; waits for a device."""
        self._stepper.settle()
        decisions, row_number = self._stepper.decisions, 0
        carried = decisions.saved()
        sums = self._stepper.saved_sums() if decisions.waits else [[] for _ in self.rows]
        for number, section in enumerate(self._sections):
            if not self._passes[number]:
                row_number += len(section.rows)
                continue
            _put(section.group, CARRIED, self._of(carried, number, number, per_array=False))
            for row in section.rows:
                _put(row.state, CARRIED, self._of(carried, number, row_number, per_array=True))
                _put(row.state, SUMS, sums[row_number])
                row_number += 1

    def _of(self, carried: Any, section: int, key: int, *, per_array: bool) -> list[list[float]]:
        """Those of a section, or of one of its rows, of each pass that it is in."""
        return [
            carried[number][key] if sum_pass.per_array == per_array else []
            for number, sum_pass in self._passes[section]
        ]

    def load(self, previous: Carried | None) -> None:
        """Take them from there; statistics from the plan `before`.

        A group that has none, because it has not taken a step, takes those of another one with the same
        transforms: their sums are over both.

        Raises
        ------
        ValueError
            They are not those of these transforms.
        """
        decisions, row_number = self._stepper.decisions, 0
        start = decisions.saved()
        carried = list(map(list, start))
        missing = []
        for number, section in enumerate(self._sections):
            passes = self._passes[number]
            usual = self._of(start, number, number, per_array=False)
            known = _taken("param_groups", section.group, CARRIED, usual)
            for at, (index, transform) in enumerate(passes):
                if transform.per_array:
                    continue
                if known is None:
                    missing.append((index, number))
                else:
                    carried[index][number] = known[at]
            for row in section.rows:
                usual = self._of(start, number, row_number, per_array=True)
                known = _taken("state", row.state, CARRIED, usual) or usual
                for at, (index, transform) in enumerate(passes):
                    if transform.per_array:
                        carried[index][row_number] = known[at]
                row_number += 1
        for index, number in missing:
            holders = self._stepper.decisions.passes[index].positions
            others = (n for n in holders if (index, n) not in missing)
            if (other := next(others, None)) is not None:
                carried[index][number] = carried[index][other]
        if decisions.carries:
            decisions.carried = decisions.loaded(carried, range(len(self.rows)), "a checkpoint")
        if self._stepper.pass_sums is not None:
            usual_sums = self._stepper.saved_sums()
            sums = [
                _taken("state", row.state, SUMS, usual_) or usual_
                for row, usual_ in zip(self.rows, usual_sums, strict=True)
            ]
            self._load_sums(sums, previous)

    def _load_sums(self, sums: list[list[float]], previous: Carried | None) -> None:
        """Place sums of transforms, and those of statistics that another plan had for the same rows."""
        pass_sums: PassSums = self._stepper.pass_sums
        known = {} if previous is None else previous._totals()
        scales = pass_sums.unscaled()
        taken = [self._stepper.count - lag for lag in self._stepper.lags]
        for number, row in enumerate(self.rows):
            totals, (steps, scale) = known.get(id(row.param), ([], (0, 1.0)))
            if len(totals) == pass_sums.counts[number]:
                sums[number] = [*sums[number], *totals[len(sums[number]) :]]
                # A row whose steps nothing counts has other ones in this plan.
                scales[number] = steps if row.count is not None else taken[number], scale
        self._stepper.continue_sums(sums, scales)
        if not known:
            pass_sums.since = self._stepper.count

    def _totals(self) -> dict[int, tuple[list[float], tuple[int, float]]]:
        """The sums of each parameter, by its id, and the scale of its last gradient."""
        pass_sums = self._stepper.pass_sums
        if pass_sums is None or self._stepper.count == pass_sums.since:
            return {}
        scales = self._stepper.scales_of_last(pass_sums)
        totals = pass_sums.totals().T.tolist()
        return {
            id(row.param): (numbers[:count], scale)
            for row, numbers, count, scale in zip(
                self.rows, totals, pass_sums.counts, scales, strict=True
            )
        }


def _put(target: State, name: str, numbers: Sequence[object]) -> None:
    """Set an entry, if there is a number in it."""
    if not _is_empty(numbers):
        target[name] = numbers


def _is_empty(numbers: Sequence[Any]) -> bool:
    return all(item == [] for item in numbers)


def _taken(where: str, source: Any, name: str, usual: list[Any]) -> list[Any] | None:
    """An entry that was set so, None if there is none."""
    if (known := source.get(name)) is None or _is_empty(usual):
        return None
    try:
        same = [_length(item) for item in known] == [_length(item) for item in usual]
        lists = [saved_numbers(item if isinstance(item, (list, tuple)) else [item]) for item in known]
    except TypeError:
        same = False
    if not same:
        raise ValueError(
            f"{name!r} in {where} must have the numbers of this optimizer's transforms, "
            f"{list(map(_length, usual))} of them, not {known!r:.200}"
        )
    return [
        numbers if isinstance(item, (list, tuple)) else numbers[0]
        for item, numbers in zip(known, lists, strict=True)
    ]


def _length(item: object) -> int:
    return len(item) if isinstance(item, (list, tuple)) else -1
