"""How values print: numbers as they are, functions by name, arrays by dtype and shape."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import FunctionType, MethodType

import numpy as np


def arguments(values: Mapping[str, object]) -> str:
    """As in a call."""
    return ", ".join(f"{name}={show(value)}" for name, value in values.items())


def show(value: object) -> str:
    """A short text for a setting."""
    if isinstance(value, np.ndarray):
        return f"<array {value.dtype} {value.shape}>"
    if isinstance(value, (FunctionType, MethodType)):
        return f"<schedule {value.__qualname__}>"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {show(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        shown = ", ".join(map(show, value))
        if isinstance(value, list):
            return f"[{shown}]"
        return f"({shown},)" if len(value) == 1 else f"({shown})"
    return repr(value)


def listed(names: Iterable[str]) -> str:
    """Join names for an error: "float16, float32 or float64"."""
    *others, last = names
    return " or ".join(filter(None, (", ".join(others), last)))


def name_methods_as(public: str, *kinds: type) -> None:
    """Have Python's errors call the methods of these base classes those of a class that users know."""
    for kind in kinds:
        for name, method in vars(kind).items():
            while isinstance(method, FunctionType) and not name.startswith("_"):
                method.__qualname__ = f"{public}.{name}"
                method = getattr(method, "__wrapped__", None)  # the decorated one
