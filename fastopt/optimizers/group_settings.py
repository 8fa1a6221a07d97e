"""The values of settings: common ones, and those that groups of parameters have of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any, Self, TypeGuard

from fastopt.arrays import tree
from fastopt.arrays.tree import Tree
from fastopt.optimizers import repr as text
from fastopt.optimizers.automatic import STAYS_AUTOMATIC, current_rate, held, is_automatic
from fastopt.optimizers.saved_settings import check_settings, merge, plain
from fastopt.optimizers.settings import Values, is_number
from fastopt.optimizers.suggestions import suggestion
from fastopt.validation import as_float, as_scalar, is_number_or_schedule, shown

if TYPE_CHECKING:
    from fastopt.optimizers.optimizer import Optimizer

_STRUCTURES = "bounds", "copy_to"  # settings that have arrays
_PLAIN = float, int, bool, str


class SettingValues:
    """Values that do not change: what is assigned is in another one.

    Parameters
    ----------
    common : dict
        The value of every setting.
    groups : sequence of dict or None
        For each group what differs; None where there are no groups.
    on : sequence of set, optional
        For each group the settings whose part stays in the chain when they are set to zero: those
        that were given a strength at first. None for the values of the beginning.
    """

    __slots__ = ("_groups", "_on", "common")

    def __init__(
        self, common: Values, groups: Sequence[Values] | None, on: Sequence[Set[str]] | None = None
    ) -> None:
        self.common, self._groups = common, None if groups is None else list(groups)
        self._on = on

    @classmethod
    def of(
        cls, common: Values, groups: Sequence[Values] | None, on: Sequence[Set[str]] | None = None
    ) -> Self:
        """The same without the containers of the caller, which may change."""
        copies = None if groups is None else list(map(_without_containers, groups))
        return cls(_without_containers(common), copies, on)

    @property
    def groups(self) -> list[Values]:
        """For each group what differs."""
        return [{}] if self._groups is None else self._groups

    @property
    def are_grouped(self) -> bool:
        """Whether there are groups, be it one."""
        return self._groups is not None

    @property
    def on(self) -> Sequence[Set[str]]:
        """For each group the settings whose part stays in the chain, found out when it is asked for."""
        if self._on is None:
            self._on = [_strengths({**self.common, **group}) for group in self.groups]
        return self._on

    @property
    def arguments(self) -> tuple[Values, list[Values] | None, Sequence[Set[str]]]:
        """What another one like this is made of."""
        return self.common, self._groups, self.on

    def of_groups(self) -> list[Values]:
        """For each group all values, with a schedule for a zero whose part of the chain stays."""
        groups = [{**self.common, **values} for values in self.groups]
        if self._on is not None:  # else they are what decides which parts there are
            for values, on in zip(groups, self._on, strict=True):
                values |= {n: _zero for n in on if is_number(values.get(n)) and values[n] == 0}
                if STAYS_AUTOMATIC in on:
                    values["lr"] = held(values["lr"])
        return groups

    def shared(self, name: str) -> Any:
        """The value of all groups that have none of their own, one at least."""
        if self._groups is not None and all(name in values for values in self._groups):
            raise AttributeError(f"every group has its own {name}: read opt.groups[...].{name}")
        return self.common[name]

    def assigned(self, name: str, value: object, group: int | None) -> Self:
        """With another value for one group, or for all that have none of their own."""
        if group is None or self._groups is None:
            if all(name in values for values in self.groups):
                raise ValueError(f"every group has its own {name}: assign opt.groups[...].{name}")
            return type(self)({**self.common, name: _number(value)}, self._groups, self.on)
        changed = {**self.groups[group], name: _number(value)}
        groups = [changed if index == group else other for index, other in enumerate(self.groups)]
        return type(self)(self.common, groups, self.on)

    def saved(self, names: Set[str]) -> dict[str, object]:
        """As in a file: those that can be assigned, which `names` has."""
        common, *groups = [plain(values, names) for values in (self.common, *self.groups)]
        return {"common": common, "groups": groups}

    def loaded(self, settings: Mapping[str, object], names: Set[str], what: str) -> Self:
        """With values from a file."""
        common, groups = check_settings(settings, names, len(self.groups), what)
        merged = [
            merge(now, saved, names)
            for now, saved in zip((self.common, *self.groups), (common, *groups), strict=True)
        ]
        now = {**self.common, **merged[0]}
        return type(self)(now, None if self._groups is None else merged[1:], self.on)


class GroupSettings:
    """The settings of one group, as attributes: ``opt.groups[1].lr = 1e-4``.

    Attributes
    ----------
    params
        The parameters of the group.
    """

    _optimizer: Optimizer
    _index: int

    def __init__(self, optimizer: Optimizer, index: int) -> None:
        object.__setattr__(self, "_optimizer", optimizer)
        object.__setattr__(self, "_index", index)

    @property
    def params(self) -> Tree:
        self._optimizer._params_now()  # in which no rows lag behind
        return self._optimizer._groups[self._index].params

    def current(self, name: str) -> float:
        """A number as it is in the coming step, see `Optimizer.current`."""
        if is_automatic(value := getattr(self, name)):
            return current_rate(self._optimizer, [self._index])
        return number_at(name, value, self._optimizer.step_count)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # while a copy is made, nothing is there yet
            raise AttributeError(name)
        optimizer = self._optimizer
        if name not in optimizer._setting_names:
            kind, hint = type(optimizer).__name__, suggestion(name, optimizer._setting_names)
            raise AttributeError(f"{kind} has no setting {name!r}{hint}")
        return optimizer._settings.groups[self._index].get(name, optimizer._settings.common[name])

    def __setattr__(self, name: str, value: object) -> None:
        optimizer = self._optimizer
        if name not in optimizer._assignable:
            kind, hint = type(optimizer).__name__, suggestion(name, optimizer._assignable)
            raise AttributeError(f"{kind} has no setting {name!r} to assign{hint}")
        optimizer._assign(name, value, self._index)

    def __repr__(self) -> str:
        settings, fields = self._optimizer._settings, self._optimizer._fields
        values = text.changed({**settings.common, **settings.groups[self._index]}, fields)
        return text.call("Group", self._optimizer._groups[self._index].leaves, values)


def number_at(name: str, value: object, step: int) -> float:
    """A number, or the value of a schedule, at a step."""
    number = as_scalar(value(step) if callable(value) else value)
    if not is_number(number):
        raise TypeError(f"{name} must be a number or a schedule to have a value, but is {number!r}")
    return as_float(number)


def are_groups(params: object) -> TypeGuard[Sequence[Values]]:
    """Whether this is ``[{"params": ...}, ...]``.

    Raises
    ------
    ValueError
        Settings show that it is meant to be, but a group has no parameters.
    """
    if not isinstance(params, (list, tuple)) or not params:
        return False
    if not all(isinstance(group, Mapping) for group in params):
        return False
    lacking = [f"params[{index}]" for index, group in enumerate(params) if "params" not in group]
    values = (value for group in params for value in group.values())
    if lacking and any(map(is_number_or_schedule, values)):
        raise ValueError(f"every group in params must have an entry 'params': {lacking[0]} has none")
    return not lacking


def read_groups(
    kind: type[Optimizer], params: Sequence[Values], common: Values
) -> tuple[list[object], list[Values]]:
    """The parameters and the settings of each group, of ``[{"params": ..., "lr": ...}, ...]``."""
    groups = [{name: value for name, value in group.items() if name != "params"} for group in params]
    for group in groups:
        kind._refuse_unknown(group, kind._setting_names)
    for name in set.intersection(*map(set, groups)):
        if common[name] is not kind._fields[name].default:
            raise ValueError(
                f"{name} = {shown(common[name])} has no effect: every group has its own {name}"
            )
    return [group["params"] for group in params], groups


def _without_containers(settings: Values) -> Values:
    """Settings without the caller's containers, which may change."""
    changed = {
        name: tree.read_only(value) if name in _STRUCTURES else _number(value)
        for name, value in settings.items()
        if value is not None and type(value) not in _PLAIN
    }
    return {**settings, **changed} if changed else settings


def _number(value: object) -> object:
    """A setting: where it is an array without dimensions, the number that is in it."""
    number = as_scalar(value)
    return number if is_number(number) else value


def _strengths(settings: Values) -> frozenset[str]:
    """The settings that switch their part of the chain on: numbers that are not zero, and schedules."""
    names = frozenset(
        name
        for name, value in settings.items()
        if not (value is None or value is False)  # by far the most: half the time
        and (callable(value) or (is_number(value) and value != 0))
    )
    return names | {STAYS_AUTOMATIC} if is_automatic(settings.get("lr")) else names


def _zero(step: int) -> float:
    return 0.0
