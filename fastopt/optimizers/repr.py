"""How optimizers and groups print: settings that are not the default, and how far they are."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from fastopt.arrays.checks import Array
from fastopt.text import arguments, show


def call(name: str, leaves: Sequence[Array], settings: Mapping[str, Any], chain: str = "") -> str:
    """As in a call, with the number of elements in the place of the parameters."""
    size = f"<{sum(leaf.size for leaf in leaves)} elements>"
    return f"{name}({', '.join(filter(None, (size, chain, arguments(settings))))})"


def table(title: str, settings: Mapping[str, Any]) -> str:
    """The same as HTML, for notebooks."""
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(value if name == 'chain' else show(value))}"
        "</td></tr>"
        for name, value in settings.items()
    )
    return f"<table><caption>{html.escape(title)}</caption>{rows}</table>"


def changed(values: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the values that differ from the defaults of their fields."""
    return {
        name: value
        for name, field in fields.items()
        if name in values
        for value in [values[name]]
        if not (value is field.default or _same(value, field.default))
    }


def _same(value: Any, default: Any) -> bool:
    simple = (bool, int, float, str)
    return isinstance(value, simple) and isinstance(default, simple) and value == default
