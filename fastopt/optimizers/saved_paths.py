"""The arrays of a checkpoint are known by their paths: the keys that lead to them in `params`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import TypeAlias

from fastopt.arrays import tree
from fastopt.arrays.tree import Tree
from fastopt.validation import choice

Key: TypeAlias = "str | int | tuple[Key, ...]"
Path: TypeAlias = tuple[Key, ...]
SavedPath: TypeAlias = "list[str | int | SavedPath]"
SHOWN = 5  # paths in an error

PATH, POSITION = "path", "position"
OFFER = f'match="{POSITION}" takes the arrays in the order in which they were saved'


def paths_of(params: object) -> list[Path]:
    """The path of each array, of what a file can hold: str, int, and tuples of these.

    Raises
    ------
    TypeError
        A key is something else.
    """
    return [tuple(map(_plain, path)) for path, _ in tree.leaves(params)]


def _plain(key: object) -> Key:
    if isinstance(key, str):
        return str.__str__(key)  # of a member of an enumeration, the value
    if isinstance(key, Integral):
        return int(key)
    if isinstance(key, tuple):
        return tuple(map(_plain, key))
    raise TypeError(
        "params must have keys of str or int, or tuples of these, to be saved or loaded by them: "
        f"got {key!r} of type {type(key).__name__}"
    )


def as_saved(paths: Sequence[Path]) -> list[SavedPath]:
    """Paths as they are in a file and in a state dict: lists, as JSON has them."""
    return [_as_list(path) for path in paths]


def _as_list(path: Path) -> SavedPath:
    return [_as_list(key) if isinstance(key, tuple) else key for key in path]


def read_paths(saved: object, count: int, what: str) -> list[Path]:
    """The paths of `count` arrays from a file or a state dict."""
    try:
        if not isinstance(saved, list):
            raise TypeError
        paths = [_as_path(path) for path in saved]
        if len(set(paths)) != count or len(paths) != count:
            raise ValueError
    except (TypeError, ValueError):
        raise ValueError(
            f"{what} must have the paths of {count} arrays, all different, not {saved!r:.200}"
        ) from None
    return paths


def _as_path(saved: object) -> Path:
    if not isinstance(saved, (list, tuple)):
        raise TypeError
    return tuple(_as_path(key) if isinstance(key, (list, tuple)) else _plain(key) for key in saved)


def check_match(match: object) -> None:
    """Check that `match` is a way to find arrays."""
    choice("match", match, (PATH, POSITION))


def order_of(current: Sequence[Path], saved: Sequence[Path], match: str, what: str) -> list[int]:
    """For each of the current arrays the number of the saved one."""
    if match == POSITION:
        if len(current) != len(saved):
            raise ValueError(f"{what} is for {len(saved)} arrays, but params has {len(current)} arrays")
        return list(range(len(current)))
    places = {path: index for index, path in enumerate(saved)}
    missing = [path for path in current if path not in places]
    unknown = sorted(set(saved) - set(current), key=places.__getitem__)
    if missing or unknown:
        offer = f"; {OFFER}" if len(current) == len(saved) else ""
        raise ValueError(
            f"{what} is for arrays of other paths: "
            f"missing {_listed(missing)}, unknown {_listed(unknown)}{offer}"
        )
    return [places[path] for path in current]


def _listed(paths: Sequence[Path]) -> str:
    shown = ", ".join(tree.describe("params", path) for path in paths[:SHOWN])
    more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
    return f"{shown}{more}" if paths else "none"


def check_positions_tell(
    params: object, contents: Sequence[object], lags: Sequence[int], what: str
) -> None:
    """See that arrays saved without paths can be told apart: the order of a dict's keys may differ.

    Parameters
    ----------
    contents : sequence
        For each array of `params` the formats of its states, in which saved ones are told apart.
    """
    lag_of: dict[object, int] = {}
    for (path, _), content, lag in zip(tree.leaves(params), contents, lags, strict=True):
        if not _below_a_dict(params, path):
            continue
        if content in lag_of and (content or lag_of[content] != lag):
            raise ValueError(
                f"{what} was saved without the paths of its arrays, and some of them have the same "
                f"shapes, so that another order of keys would not be noticed; if params has the "
                f"order that it was saved with, {OFFER}"
            )
        lag_of[content] = lag


def _below_a_dict(structure: Tree, path: Path) -> bool:
    for key in path:
        if isinstance(structure, Mapping):
            return True
        structure = structure[key]
    return False
