"""What a checkpoint says of the optimizer that was saved, and whether another one can take it over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

Description: TypeAlias = Mapping[str, Any]  # as in a file, by the names that `check_description` says

VERSION = 2
VERSIONS = 1, 2  # that can be read; the first one has no paths

MASTER_BITS = "master_bits"  # saved where it is on

# What a run that is resumed must have in common with the one that was saved.
_ALIKE = ("optimizer", "transforms", "clips_norm", "skips_nonfinite", "rounding", MASTER_BITS)

# The options that entries are about.
_OPTIONS = {
    "clips_norm": "clip_norm",
    "skips_nonfinite": "skip_nonfinite",
    "rounding": "stochastic_rounding and seed",
}

# Saved where the transforms have sums: other transforms are the reason that is given first.
_OF_TRANSFORMS = {"carried", "sums"}

LARGEST_COUNT = 1 << 62  # of steps: more than can be taken, and less than overflows


def by_option(described: Description) -> dict[str, Any]:
    """A description with the names of options for those of its entries."""
    return {_OPTIONS.get(key, key): value for key, value in described.items()}


def _shown(value: object) -> str:
    return ("on" if value else "off") if isinstance(value, bool) else repr(value)


def check_description(saved: Description, current: Description, what: str) -> None:
    """See that a description is whole, and that of an optimizer like one's own.

    Parameters
    ----------
    saved, current : mapping
        That of the checkpoint, and that of the optimizer that loads it.
    what : str
        How errors name the checkpoint.

    Raises
    ------
    TypeError, ValueError
        It is not.
    """
    version = saved.get("version", VERSION)
    if type(version) is not int or version not in VERSIONS:
        raise ValueError(f"{what} has version {version!r}, but this one reads {VERSIONS}")
    missing = current.keys() - saved.keys() - {MASTER_BITS}
    if version == 1:
        missing -= {"paths"}
    if others := missing - _OF_TRANSFORMS:
        raise ValueError(f"{what} must come from an optimizer's state: it lacks {sorted(others)}")
    for key in _ALIKE:
        then, now = saved.get(key), current.get(key)
        if then != now:
            saved_as, current_as = map(_shown, (then, now))
            raise ValueError(
                f"{what} has {_OPTIONS.get(key, key)} {saved_as}, but this one has {current_as}"
            )
    if missing:
        raise ValueError(f"{what} is damaged: it lacks {sorted(missing)}")
    count, lags, settings = saved["step_count"], saved["lags"], saved["settings"]
    if type(count) is not int or not 0 <= count <= LARGEST_COUNT:
        raise ValueError(f"{what} must have a whole number >= 0 as step_count, not {count!r}")
    if not isinstance(lags, list) or len(lags) != len(current["lags"]):
        raise ValueError(
            f"{what} must be for {len(current['lags'])} arrays, with as many lags, but has "
            f"{lags!r:.200}"
        )
    if not all(type(lag) is int and 0 <= lag <= count for lag in lags):
        raise ValueError(f"{what} must have lags from 0 to step_count {count}, not {lags!r:.200}")
    if not isinstance(settings, Mapping):
        raise TypeError(f"{what} must have a dict of settings, not {settings!r}")
