"""How optimizers and groups print: settings that are not the default, and how far they are."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fastopt.arrays.device_array import AnyArray
from fastopt.text import arguments, show

if TYPE_CHECKING:
    from fastopt.optimizers.optimizer import Optimizer
    from fastopt.optimizers.settings import AnyField


def as_call(optimizer: Optimizer) -> str:
    """An optimizer."""
    chain = optimizer._chains_given and repr(optimizer.chain)
    return call(type(optimizer).__name__, optimizer._leaves, _settings(optimizer), chain)


def as_table(optimizer: Optimizer) -> str:
    """The same as HTML, for notebooks."""
    values = {name: show(value) for name, value in _settings(optimizer).items()}
    rows = "".join(
        f"<tr><th>{name}</th><td>{html.escape(value)}</td></tr>"
        for name, value in {"chain": repr(optimizer.chain), **values}.items()
    )
    size = sum(leaf.size for leaf in optimizer._leaves)
    return f"<table><caption>{type(optimizer).__name__} of {size} elements</caption>{rows}</table>"


def _settings(optimizer: Optimizer) -> dict[str, object]:
    settings = optimizer._settings
    values = {**settings.common, **optimizer._options, "clip_norm": optimizer.clip_norm}
    groups = {"groups": settings.groups} if any(settings.groups) else {}
    return {**changed(values, optimizer._fields), **groups, "step_count": optimizer.step_count}


def call(
    name: str, leaves: Sequence[AnyArray], settings: Mapping[str, object], chain: str | None = None
) -> str:
    """As in a call, with the number of elements in the place of the parameters."""
    size = f"<{sum(leaf.size for leaf in leaves)} elements>"
    return f"{name}({', '.join(filter(None, (size, chain, arguments(settings))))})"


def changed(values: Mapping[str, object], fields: Mapping[str, AnyField]) -> dict[str, object]:
    """Those of the values that differ from the defaults of their fields."""
    return {
        name: value
        for name, field in fields.items()
        if name in values
        for value in [values[name]]
        if not (value is field.default or _same(value, field.default))
    }


def _same(value: object, default: object) -> bool:
    simple = (bool, int, float, str)
    return isinstance(value, simple) and isinstance(default, simple) and value == default
