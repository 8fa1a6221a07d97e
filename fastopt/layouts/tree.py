"""Structures of arrays: one array, or lists, tuples and dicts of them, nested at will."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

Path = tuple[Any, ...]


def is_branch(value: Any) -> bool:
    """Whether this holds other values, rather than being an array."""
    return isinstance(value, (list, tuple, Mapping))


def _children(branch: Any) -> Iterator[tuple[Any, Any]]:
    return iter(branch.items()) if isinstance(branch, Mapping) else enumerate(branch)


def leaves(structure: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """All arrays with the keys that lead to them."""
    if not is_branch(structure):
        yield path, structure
        return
    for key, child in _children(structure):
        yield from leaves(child, (*path, key))


def leaves_like(template: Any, structure: Any, name: str) -> Iterator[Any]:
    """The leaves of `structure` in the order of `template`, which must have the same form.

    None in the place of a branch stands for None in the place of each of its leaves.
    """
    if not is_branch(template):
        yield structure
        return
    if structure is None:
        yield from (None for _ in leaves(template))
        return
    if isinstance(template, Mapping):
        if not isinstance(structure, Mapping):
            kind = type(structure).__name__
            raise TypeError(f"{name} must be a dict with the keys of params, not {kind}")
        if template.keys() != structure.keys():
            missing = sorted(map(str, template.keys() - structure.keys()))
            unknown = sorted(map(str, structure.keys() - template.keys()))
            raise ValueError(
                f"{name} must have the keys of params: missing {missing}, unknown {unknown}"
            )
        pairs = [(child, structure[key], key) for key, child in template.items()]
    else:
        if not isinstance(structure, (list, tuple)):
            kind = type(structure).__name__
            raise TypeError(f"{name} must be a list or tuple like params, not {kind}")
        if len(template) != len(structure):
            raise ValueError(
                f"{name} must have {len(template)} entries like params, got {len(structure)}"
            )
        pairs = [
            (child, own, i) for i, (child, own) in enumerate(zip(template, structure, strict=True))
        ]
    for child, own, key in pairs:
        yield from leaves_like(child, own, f"{name}[{key!r}]")


def rebuild(template: Any, values: Iterator[Any]) -> Any:
    """The form of `template` with other leaves, taken from `values` in order."""
    if not is_branch(template):
        return next(values)
    if isinstance(template, Mapping):
        return {key: rebuild(child, values) for key, child in template.items()}
    make: Callable[[Any], Any] = tuple if isinstance(template, tuple) else list
    return make(rebuild(child, values) for child in template)


def describe(name: str, path: Path) -> str:
    """How an error names a leaf: ``grads['layer'][0]``."""
    return name + "".join(f"[{key!r}]" for key in path)
