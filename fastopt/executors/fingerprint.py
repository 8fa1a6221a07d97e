"""What a function is made of, as text: two functions compile to the same code if these are equal.

Source files are not needed, so functions typed into a notebook have a fingerprint too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Set
from functools import cache
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any


def is_plain(value: Any) -> bool:
    """Whether this is a Python function whose code matters; NumPy's are known to Numba by name."""
    return isinstance(value, FunctionType) and not str(value.__module__).startswith("numpy")


def outer_names(code: CodeType) -> set[str]:
    """The names of globals and attributes in the code, inner functions included."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= outer_names(constant)
    return names


def outer_values(function: FunctionType) -> dict[str, Any]:
    """The globals and closed-over variables that a function uses, by name."""
    names = outer_names(function.__code__)
    values = {name: function.__globals__[name] for name in names & function.__globals__.keys()}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        values[name] = cell.cell_contents
    return values


def used_attributes(module: ModuleType, names: Set[str]) -> dict[str, Any]:
    """What a function that mentions these names may read from a module."""
    return {name: vars(module)[name] for name in names & vars(module).keys()}


def _describe_code(code: CodeType) -> str:
    constants = [
        _describe_code(c) if isinstance(c, CodeType) else f"{type(c).__name__}:{c!r}"
        for c in code.co_consts
    ]
    shape = code.co_argcount, code.co_names, code.co_varnames, code.co_freevars
    return f"{code.co_code.hex()} {shape} [{', '.join(constants)}]"


def describe(value: Any, seen: tuple[Any, ...] = (), names: Set[str] = frozenset()) -> str:
    """Everything that the machine code made from `value` depends on.

    Of a module that is what a function that mentions these `names` can reach.
    """
    value = getattr(value, "py_func", value)  # a function that Numba compiled already
    if not isinstance(value, ModuleType) and not is_plain(value):
        return f"{type(value).__name__}:{getattr(value, '__qualname__', None) or repr(value)}"
    if value in seen:
        return f"recursion {seen.index(value)}"
    if isinstance(value, ModuleType):
        what, outer = f"module {value.__name__}", used_attributes(value, names)
    else:
        names = outer_names(value.__code__)
        what = f"def {_describe_code(value.__code__)} {value.__defaults__!r}"
        outer = outer_values(value)
    inside = (f"{name} = {describe(outer[name], (*seen, value), names)}" for name in sorted(outer))
    return f"{what} where {{{'; '.join(inside)}}}"


def digest(*texts: str) -> str:
    """A short hash."""
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()[:16]


@cache
def package() -> str:
    """A hash of fastopt's own code, which every kernel depends on."""
    folder = Path(__file__).parent
    files = sorted([*folder.glob("*.py"), *folder.with_name("layouts").glob("*.py")])
    return digest(*(path.read_text("utf-8") for path in files))
