"""Settings as they are saved: numbers and flags as they are, and a word in the place of schedules."""

from __future__ import annotations

from collections.abc import Mapping, Set
from numbers import Real
from typing import Any

from fastopt.optimizers.automatic import auto

SCHEDULE = "schedule"  # it is code, which is not saved


def _is_code(value: object) -> bool:
    return callable(value) or isinstance(value, auto)


def plain_value(value: object) -> object:
    """What stands for a setting in a file."""
    if _is_code(value):
        return SCHEDULE
    return float(value) if isinstance(value, Real) and not isinstance(value, bool) else value


def plain(settings: Mapping[str, object], names: Set[str]) -> dict[str, object]:
    """What stands for the settings of these names in a file."""
    return {name: plain_value(value) for name, value in settings.items() if name in names}


def merge(
    current: Mapping[str, object], saved: Mapping[str, object], names: Set[str]
) -> dict[str, Any]:
    """Settings with saved numbers in the place of numbers; schedules stay, whoever has one."""
    unchanged = {
        name: value
        for name, value in current.items()
        if name not in names or _is_code(value) or saved.get(name) == SCHEDULE
    }
    return {**{name: value for name, value in saved.items() if value != SCHEDULE}, **unchanged}


def check_settings(
    settings: Mapping[str, object], names: Set[str], groups: int, what: str
) -> tuple[Mapping[str, object], list[Mapping[str, object]]]:
    """The common settings and those of each group, after a look at their form."""
    common, each = settings.get("common"), settings.get("groups")
    if not isinstance(common, Mapping) or not isinstance(each, list) or len(each) != groups:
        raise ValueError(f"{what} must have settings in 'common', and in a list of {groups} 'groups'")
    if not all(isinstance(group, Mapping) for group in each):
        raise TypeError(f"{what} must have a dict of settings for each group")
    unknown = sorted({str(name) for group in (common, *each) for name in group} - names)
    if unknown or names - common.keys():
        missing = sorted(names - common.keys())
        raise ValueError(f"{what} has other settings: missing {missing}, unknown {unknown}")
    return common, each
