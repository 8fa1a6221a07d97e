"""Arrays with a description in one ``.npz`` file: streamed, and replaced as a whole."""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from fastopt.layouts.arrays import Array

DESCRIPTION = "fastopt.json"
PIECE = 1 << 22  # bytes read or written at a time


def write_archive(
    path: Path, description: Mapping[str, Any], named: Iterable[tuple[str, Array]]
) -> None:
    """Write aside, then move into place."""
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                archive.writestr(DESCRIPTION, json.dumps(description))
                for name, array in named:
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                        _write_array(member, array)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        os.unlink(aside)
        raise
    _sync_folder(path.parent)


def _write_array(member: IO[bytes], array: Array) -> None:
    header = np.lib.format.header_data_from_array_1_0(array)
    np.lib.format.write_array_header_1_0(member, header)
    content = _bytes(array)
    for start in range(0, len(content), PIECE):
        member.write(content[start : start + PIECE])


def _bytes(array: Array) -> memoryview:
    content: Any = array.reshape(-1).view(np.uint8)
    return memoryview(content)


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":  # so that the new name survives a power cut
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


class Archive:
    """An open file of `write_archive`."""

    def __init__(self, archive: zipfile.ZipFile, path: Path) -> None:
        self._archive = archive
        self._path = path
        self.description = self._read_description()

    def _read_description(self) -> dict[str, Any]:
        try:
            found = json.loads(self._archive.read(DESCRIPTION))
        except (KeyError, ValueError, zipfile.BadZipFile) as error:
            raise ValueError(f"{self._path} was not written by an optimizer's save()") from error
        if not isinstance(found, dict):
            raise ValueError(f"{self._path} was not written by an optimizer's save()")
        return found

    def _open(self, name: str) -> IO[bytes]:
        try:
            return self._archive.open(f"{name}.npy")
        except KeyError as error:
            raise ValueError(f"{self._path} has no array {name!r}") from error

    def check(self, own: Mapping[str, Array]) -> None:
        """See that the file is whole, and holds arrays like these."""
        damaged = self._archive.testzip()
        if damaged is not None:
            raise ValueError(f"{self._path} is damaged: {damaged} does not match its checksum")
        for name, array in own.items():
            with self._open(name) as member:
                shape, dtype = _read_header(member)
            if shape != array.shape or dtype != array.dtype:
                raise ValueError(
                    f"{self._path} has {name!r} with shape {shape} and dtype {dtype}, but this "
                    f"optimizer has {array.shape} and {array.dtype}"
                )

    def read_into(self, own: Mapping[str, Array]) -> None:
        """Fill the arrays from the file."""
        for name, array in own.items():
            with self._open(name) as member:
                _read_header(member)
                content = _bytes(array)
                for start in range(0, len(content), PIECE):
                    piece = content[start : start + PIECE]
                    piece[:] = member.read(len(piece))


def _read_header(member: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    np.lib.format.read_magic(member)
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(member)
    if fortran and len(shape) > 1:
        raise ValueError("arrays must be saved in C order")
    return shape, dtype


@contextmanager
def read_archive(path: Path) -> Iterator[Archive]:
    """Open a file of `write_archive`."""
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is not a whole .npz file: {error}") from error
    with archive:
        yield Archive(archive, path)
