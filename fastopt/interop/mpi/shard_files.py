"""Checkpoints in a folder: a file for each shard, and an index that is written last.

The index names the files of one save and no others, so whenever a crash comes it stands for a whole
checkpoint: the new one or the last. Shards are ranges of all elements, so that any other number of
ranks finds its own parts in them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastopt.arrays import placement
from fastopt.arrays.archive import LARGEST_DESCRIPTION, Archive, read_archive, write_archive
from fastopt.arrays.checks import Array, check_is_written
from fastopt.arrays.regular_files import open_regular, replacing
from fastopt.codecs.base import BLOCK, DType
from fastopt.codecs.blocks import ITEM
from fastopt.optimizers.checkpoint import arrays, description, start_loading
from fastopt.optimizers.optimizer import Optimizer
from fastopt.optimizers.saved_description import check_description

INDEX = "index.json"
FORMAT = "fastopt shards"
VERSION = 1


class Saved(NamedTuple):
    """A file with the elements from `start` to `stop`."""

    file: str
    start: int
    stop: int


def file_name(save: str, rank: int, ranks: int) -> str:
    """Of one shard; `save` is another word for every save, so that none writes over the last."""
    return f"shard-{save}-{rank:05}-of-{ranks:05}.npz"


def arrays_of(optimizer: Optimizer, flat: Array) -> dict[str, Array]:
    """What a shard consists of: its parameters and all states, by name."""
    named: dict[str, Array] = {"params": flat}
    for name, _, array in arrays(optimizer):
        named[f"state/{name}"] = placement.part(array, slice(0, array.size))
    return named


def write_shard(folder: Path, save: str, saved: Saved, content: Mapping[str, Array]) -> None:
    """Write the file of one rank."""
    description = {"save": save, "start": saved.start, "stop": saved.stop}
    named = ((name, placement.to_host(array)) for name, array in content.items())
    write_archive(folder / saved.file, description, named, like=folder / INDEX)


def write_index(
    folder: Path, save: str, dtype: DType, shards: list[Saved], description: object
) -> None:
    """Make this save the one that the folder stands for."""
    index = {
        "format": FORMAT,
        "version": VERSION,
        "save": save,
        "length": shards[-1].stop,
        "dtype": dtype.name,
        "shards": [shard._asdict() for shard in shards],
        "optimizer": description,
    }
    with replacing(folder / INDEX) as file:
        file.write(json.dumps(index, indent=1).encode() + b"\n")


def remove_others(folder: Path, save: str) -> None:
    """Delete the shards of earlier saves, and the remains of crashed ones.

    The checkpoint is in place by now: what cannot be removed is no error, and belongs to none.
    """
    for path in folder.glob("shard-*"):
        if not path.name.startswith(f"shard-{save}-"):
            with suppress(OSError):
                path.unlink()


class Shards:
    """A checkpoint, opened to read a part of it.

    Parameters
    ----------
    folder : path
    optimizer : Optimizer
        Of the same kind as the one that was saved, over the elements of `part`.
    flat : array
        Its parameters, flat.
    part : slice
        The elements that are wanted.
    length : int
        How many there must be in all.

    Raises
    ------
    FileNotFoundError
        There is no checkpoint, or one of its files is missing.
    TypeError, ValueError
        It is damaged, or belongs to another optimizer. Nothing was changed.
    """

    def __init__(
        self, folder: Path, optimizer: Optimizer, flat: Array, part: slice, length: int
    ) -> None:
        self._folder = folder
        self._optimizer = optimizer
        self._part = part
        self._arrays = arrays_of(optimizer, flat)
        for name, array in self._arrays.items():
            check_is_written(name, array)
        self._index = _read_index(folder)
        self._check_size(length, flat.dtype)
        check_description(self._index["optimizer"], description(optimizer), str(folder / INDEX))
        self._saved = _check_cover(self._index, folder)
        for saved in self._overlapping():
            with ExitStack() as stack:
                self._open(saved, stack)

    def _check_size(self, length: int, dtype: DType) -> None:
        for name, expected in (("length", length), ("dtype", dtype.name)):
            if self._index[name] != expected:
                raise ValueError(
                    f"{self._folder} has parameters of {name} {self._index[name]}, but these have "
                    f"{expected}"
                )

    def _overlapping(self) -> Iterator[Saved]:
        for saved in self._saved:
            if max(saved.start, self._part.start) < min(saved.stop, self._part.stop):
                yield saved

    def _open(self, saved: Saved, stack: ExitStack) -> Archive:
        """Open a file of the checkpoint, after checking all of it."""
        path = self._folder / saved.file
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing, which is a part of the checkpoint")
        archive = stack.enter_context(read_archive(path))
        expected = {"save": self._index["save"], "start": saved.start, "stop": saved.stop}
        if archive.description != expected:
            raise ValueError(
                f"{path} is a part of another checkpoint: {archive.description} is not {expected}"
            )
        size = saved.stop - saved.start
        archive.check(
            {
                name: np.broadcast_to(np.zeros((), array.dtype), -(-size // _block(array)))
                for name, array in self._arrays.items()
            }
        )
        return archive

    def place(self) -> None:
        """Load settings and step counts, then fill parameters and states.

        The optimizer refuses to step until `finish_loading`.
        """
        start_loading(self._optimizer, self._index["optimizer"], [0], str(self._folder / INDEX))
        for saved in self._overlapping():
            start, stop = max(saved.start, self._part.start), min(saved.stop, self._part.stop)
            with read_archive(self._folder / saved.file) as archive:
                for name, array in self._arrays.items():
                    block = _block(array)  # shards begin at the start of one
                    first, last = start - self._part.start, stop - self._part.start
                    part = placement.part(array, slice(first // block, -(-last // block)))
                    archive.read_into({name: part}, (start - saved.start) // block)


def _block(array: Array) -> int:
    """The number of elements in an item of an array."""
    return BLOCK if array.dtype == ITEM else 1


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / INDEX
    try:
        file = open_regular(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no checkpoint in {folder}: it has no {INDEX}") from None
    with file:
        text = file.read(LARGEST_DESCRIPTION + 1)
    try:
        if len(text) > LARGEST_DESCRIPTION:
            raise ValueError(f"it has more than {LARGEST_DESCRIPTION} bytes")
        index = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        raise ValueError(f"{path} was not written by a sharded optimizer's save()")
    if index.get("version") != VERSION:
        raise ValueError(f"{path} has version {index.get('version')!r}, but this one reads {VERSION}")
    missing = {"save", "length", "dtype", "shards", "optimizer"} - index.keys()
    if missing or not isinstance(index["optimizer"], dict):
        raise ValueError(f"{path} is damaged: it lacks {sorted(missing) or 'an optimizer'}")
    return index


def _check_cover(index: Mapping[str, Any], folder: Path) -> list[Saved]:
    """The files of an index, which must hold every element once."""
    try:
        saved = [Saved(str(o["file"]), int(o["start"]), int(o["stop"])) for o in index["shards"]]
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{folder / INDEX} is damaged: its shards are {index['shards']!r}") from error
    position = 0
    for shard in saved:
        if shard.start != position or shard.stop < shard.start or Path(shard.file).name != shard.file:
            raise ValueError(f"{folder / INDEX} is damaged: {shard} does not follow element {position}")
        if shard.start % BLOCK:
            raise ValueError(f"{folder / INDEX} is damaged: {shard} begins within a block of {BLOCK}")
        position = shard.stop
    if position != index["length"]:
        raise ValueError(f"{folder / INDEX} is damaged: its shards end at {position}")
    return saved
