"""The check of the states that a transform declares."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real

from fastopt.validation import as_scalar, shown

START_FROM_PARAM = "param"


def check_states(states: object, nonnegative: tuple[str, ...]) -> None:
    """Check names and initial values of states, or raise."""
    if not isinstance(states, Mapping):
        raise TypeError(f"state must map names to initial values, not be {shown(states)}")
    for name, start in states.items():
        if type(start) is float:
            continue
        if isinstance(start, str):
            if start != START_FROM_PARAM:
                raise ValueError(f"state[{name!r}] must start from a number or {START_FROM_PARAM!r}")
        elif not isinstance(as_scalar(start), Real):
            raise TypeError(
                f"state[{name!r}] must start from a number, the same for each element, not from "
                f"{shown(start)}; an optimizer takes arrays of states as its argument state"
            )
    if unknown := sorted(name for name in nonnegative if name not in states):
        raise ValueError(f"nonnegative names {unknown}, but the states are {sorted(states)}")
