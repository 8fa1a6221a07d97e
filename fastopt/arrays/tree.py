"""Nested structures of arrays: one array, or lists, tuples and dicts of them.

The caller's containers are flattened once, when they are passed in; later changes to them have no
effect. Their form is kept as a `Structure`, which knows each array by its path.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Never, TypeAlias, TypeGuard

Path: TypeAlias = tuple[Any, ...]
Tree: TypeAlias = Any  # an array, or lists, tuples and dicts of arrays, to any depth


def is_branch(value: object) -> TypeGuard[list[object] | tuple[object, ...] | Mapping[object, object]]:
    """Whether this holds other values, rather than being an array."""
    return isinstance(value, (list, tuple, Mapping))


def describe(name: str, path: Path) -> str:
    """How an error names a leaf: ``grads['layer'][0]``."""
    return name + "".join(f"[{key!r}]" for key in path)


class Structure:
    """The form of a nested structure, without its arrays: immutable.

    Attributes
    ----------
    children : tuple of Structure
        The form of each entry, in order.
    paths : tuple of tuple
        The keys that lead to each array, in order.
    """

    __slots__ = ("_is_flat_list", "_key_set", "_keys", "_kind", "children", "paths")

    def __init__(self, kind: type | None, keys: Path, children: tuple[Structure, ...]) -> None:
        self._kind, self._keys, self.children = kind, keys, children  # a leaf has no kind
        self._key_set = frozenset(keys)
        self._is_flat_list = kind in (list, tuple) and all(child.is_leaf for child in children)
        entries = zip(keys, children, strict=True)
        self.paths: tuple[Path, ...] = (
            ((),) if kind is None else tuple((k, *path) for k, child in entries for path in child.paths)
        )

    @property
    def is_leaf(self) -> bool:
        """Whether this is a single array."""
        return self._kind is None

    @property
    def is_list(self) -> bool:
        """Whether this is a list or tuple."""
        return self._kind in (list, tuple)

    def __len__(self) -> int:
        """The number of arrays."""
        return len(self.paths)

    def names(self, name: str) -> list[str]:
        """How errors name each array of a structure of this form."""
        return [describe(name, path) for path in self.paths]

    def find(self, structure: object, name: str) -> list[Any]:
        """As `match`, with a fast path for flat lists: every step calls it.

        The result is a new list: a mapping may create its arrays on access, and another thread may
        change the caller's list, but these arrays must outlive the step.
        """
        if self._kind is None:
            return [structure]
        if self._is_flat_list and type(structure) is list:
            copy = structure.copy()
            if len(copy) == len(self.paths):  # of the copy, which no other thread changes
                return copy
        return self.match(structure, name)

    def match(self, structure: object, name: str) -> list[Any]:
        """The leaves of another structure in the order of this one, found by their keys.

        None instead of a branch stands for None for each of its leaves. The list has as many entries
        as there are arrays, even if another thread changes `structure` meanwhile.

        Raises
        ------
        TypeError, ValueError
            It has another form. The message says where; `name` is what it calls `structure`.
        """
        matched: list[object] = []
        self._match(structure, name, (), matched)
        return matched

    def _match(self, structure: object, name: str, path: Path, matched: list[object]) -> None:
        if self._kind is None:
            matched.append(structure)
            return
        if structure is None:
            matched.extend([None] * len(self.paths))
            return
        entries = self._entries(structure, name, path)
        for key, child, entry in zip(self._keys, self.children, entries, strict=True):
            if child._kind is None:  # a call for each of many arrays would double the time
                matched.append(entry)
            else:
                child._match(entry, name, (*path, key), matched)

    def _entries(self, structure: object, name: str, path: Path) -> list[object]:
        """The entries of a container with the keys of this one, in this one's order."""
        if self._kind is dict:
            if not isinstance(structure, Mapping):
                kind = type(structure).__name__
                raise TypeError(
                    f"{describe(name, path)} must be a dict with the keys of params, not {kind}"
                )
            if structure.keys() != self._key_set:
                differing = {
                    "missing": sorted(map(str, self._key_set - structure.keys())),
                    "unknown": sorted(map(str, structure.keys() - self._key_set)),
                }
                raise ValueError(
                    f"{describe(name, path)} must have the keys of params: "
                    + ", ".join(f"{what} {keys}" for what, keys in differing.items() if keys)
                )
            return [structure[key] for key in self._keys]
        if not isinstance(structure, (list, tuple)):
            kind = type(structure).__name__
            raise TypeError(f"{describe(name, path)} must be a list or tuple like params, not {kind}")
        entries = list(structure)  # a copy first: another thread may change it
        if len(entries) != len(self._keys):
            raise ValueError(
                f"{describe(name, path)} must have {len(self._keys)} entries like params, "
                f"got {len(entries)}"
            )
        return entries

    def build(self, values: Iterable[object]) -> Tree:
        """New lists, tuples and dicts of this form with these leaves, in order."""
        return self._build(iter(values), {})

    def build_read_only(self, values: Iterable[object]) -> Tree:
        """As `build`, with read-only containers."""
        return self._build(iter(values), {list: ReadOnlyList, dict: ReadOnlyDict})

    def _build(self, values: Iterator[object], kinds: dict[type, type]) -> Tree:
        if self._kind is None:
            return next(values)
        kind = kinds.get(self._kind, self._kind)
        entries = [child._build(values, kinds) for child in self.children]
        return kind(zip(self._keys, entries, strict=True) if self._kind is dict else entries)


LEAF = Structure(None, (), ())


def take_apart(structure: object) -> tuple[Structure, list[Any]]:
    """The form of a nested structure, and its leaves in order."""
    leaves: list[Any] = []
    return _form(structure, leaves), leaves


def _form(structure: object, leaves: list[object]) -> Structure:
    if not is_branch(structure):
        leaves.append(structure)
        return LEAF
    if isinstance(structure, Mapping):
        kind: type = dict
        items: list[tuple[object, object]] = list(structure.items())
    else:
        kind = tuple if isinstance(structure, tuple) else list
        items = [*enumerate(structure)]
    keys = tuple(key for key, _ in items)
    return Structure(kind, keys, tuple(_form(child, leaves) for _, child in items))


def leaves(structure: object) -> list[tuple[Path, Any]]:
    """All arrays of a nested structure, each with its path."""
    form, arrays = take_apart(structure)
    return list(zip(form.paths, arrays, strict=True))


def rebuild(structure: object, values: Iterable[object]) -> Tree:
    """A structure of the form of `structure` with other leaves, in order."""
    return take_apart(structure)[0].build(values)


def plain(structure: object) -> Tree:
    """The same arrays in new lists, tuples and dicts."""
    form, arrays = take_apart(structure)
    return form.build(arrays)


def read_only(structure: object) -> Tree:
    """The same arrays in read-only containers."""
    form, arrays = take_apart(structure)
    return form.build_read_only(arrays)


def _refuse(self: object, *args: object, **kwargs: object) -> Never:
    raise TypeError(
        "this shows what an optimizer works on and cannot be changed: write into the arrays "
        "(array[...] = values), or make a new optimizer for others"
    )


class ReadOnlyList(list[Tree]):
    """A read-only list; its copies and pickles are plain lists."""

    __slots__ = ()

    def __reduce__(self) -> tuple[type, tuple[list[object]]]:
        return list, (list(self),)

    append = extend = insert = pop = remove = reverse = sort = clear = _refuse
    __setitem__ = __delitem__ = __iadd__ = __imul__ = _refuse


class ReadOnlyDict(dict[Any, Tree]):
    """A read-only dict; its copies and pickles are plain dicts."""

    __slots__ = ()

    def __reduce__(self) -> tuple[type, tuple[dict[object, object]]]:
        return dict, (dict(self),)

    update = setdefault = pop = popitem = clear = _refuse
    __setitem__ = __delitem__ = __ior__ = _refuse
