"""Arrays with a description in one ``.npz`` file: streamed, and replaced as a whole."""

from __future__ import annotations

import errno
import json
import os
import uuid
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from fastopt.codecs.floats import name_of
from fastopt.layouts import homes
from fastopt.layouts.arrays import Array

try:
    import fcntl
except ImportError:  # Windows
    LOCKS = False
else:
    LOCKS = True

DESCRIPTION = "fastopt.json"
PIECE = 1 << 22  # bytes read or written at a time


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to aside, which is then moved into place, or taken away if there is an error."""
    path = Path(os.path.realpath(path))  # what a link points to is replaced, and not the link
    if path.exists() and not path.is_file():
        raise ValueError(f"path must name a file, but {path} is a directory or a device")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no directory {path.parent} to save {path.name} in")
    file, aside = _open_aside(path)
    with file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if not LOCKS:
                file.close()  # an open file cannot be moved there
            os.replace(aside, path)
        except BaseException:
            if not LOCKS:
                file.close()
            os.unlink(aside)
            raise
    _sync_folder(path.parent)


def write_archive(
    path: Path, description: Mapping[str, Any], named: Iterable[tuple[str, Array]]
) -> None:
    """Write aside, then move into place."""
    with replacing(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(DESCRIPTION, json.dumps(description))
        for name, array in named:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                _write_array(member, array)


def _open_aside(path: Path) -> tuple[IO[bytes], Path]:
    """A file beside `path` to write to first, and its name.

    The name is the same every time, so that what a kill leaves is overwritten by the next save. If
    another thread or process is saving there right now, which a lock tells, another name is taken.
    """
    usual = path.with_name(f"{path.name}.saving")
    if LOCKS:
        file = _open_to_write(usual)
        if _is_ours(file, usual):
            file.truncate(0)
            return file, usual
        file.close()
    other = path.with_name(f"{path.name}.{uuid.uuid4().hex}.saving")
    return _open_to_write(other), other


def _open_to_write(path: Path) -> IO[bytes]:
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    return os.fdopen(os.open(path, flags, 0o666), "wb")


def _is_ours(file: IO[bytes], path: Path) -> bool:
    """Lock the file, until it is closed; whether that worked and it still is the one at `path`."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except OSError:
        return False


def _write_array(member: IO[bytes], array: Array) -> None:
    header = np.lib.format.header_data_from_array_1_0(array.view(in_files(array.dtype)))
    np.lib.format.write_array_header_1_0(member, header)
    content = _bytes(array)
    for start in range(0, len(content), PIECE):
        member.write(content[start : start + PIECE])


def in_files(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype that files have: the format of .npy files does not know bfloat16."""
    return np.dtype(np.uint16) if name_of(dtype) == "bfloat16" else dtype


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


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Damage shows in many ways: here they become one error."""
    try:
        yield
    except Exception as error:
        # A damaged file may point to impossible places: "invalid argument".
        elsewhere = isinstance(error, OSError) and error.errno != errno.EINVAL
        if elsewhere or isinstance(error, MemoryError):
            raise
        raise ValueError(f"{path} is damaged or no .npz file: {error}") from error


class Archive:
    """An open file of `write_archive`."""

    def __init__(self, archive: zipfile.ZipFile, path: Path) -> None:
        self._archive = archive
        self._path = path
        self.description = self._read_description()

    def _read_description(self) -> dict[str, Any]:
        with _readable(self._path):
            if DESCRIPTION in self._archive.namelist():
                found = json.loads(self._archive.read(DESCRIPTION))
                if isinstance(found, dict):
                    return found
        raise ValueError(f"{self._path} was not written by an optimizer's save()")

    def check(self, own: Mapping[str, Array]) -> None:
        """See that the file is whole, and holds arrays like these."""
        with _readable(self._path):
            damaged = self._archive.testzip()
        if damaged is not None:
            raise ValueError(f"{self._path} is damaged: {damaged} does not match its checksum")
        held = set(self._archive.namelist())
        for name, array in own.items():
            if f"{name}.npy" not in held:
                raise ValueError(f"{self._path} has no array {name!r}")
            with _readable(self._path), self._archive.open(f"{name}.npy") as member:
                shape, fortran, dtype = _read_header(member)
                size = self._archive.getinfo(f"{name}.npy").file_size - member.tell()
            if shape != array.shape or dtype != in_files(array.dtype):
                raise ValueError(
                    f"{self._path} has {name!r} with shape {shape} and dtype {dtype}, but this "
                    f"optimizer has {array.shape} and {array.dtype}"
                )
            if size != array.nbytes or (fortran and array.ndim > 1):
                raise ValueError(f"{self._path} has {name!r} in another layout than save() writes")

    def read_into(self, own: Mapping[str, Array], first: int = 0) -> None:
        """Fill the arrays from the file, which was checked; with its elements from `first` on."""
        for name, array in own.items():
            in_memory = isinstance(array, np.ndarray)
            host = array if in_memory else np.empty(array.shape, array.dtype)
            with self._archive.open(f"{name}.npy") as member:
                _read_header(member)
                member.seek(first * array.itemsize, os.SEEK_CUR)
                content = _bytes(host)
                for start in range(0, len(content), PIECE):
                    piece = content[start : start + PIECE]
                    piece[:] = member.read(len(piece))
            if not in_memory:
                homes.copy(array, host)


def _read_header(member: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    if np.lib.format.read_magic(member) != (1, 0):
        raise ValueError("not version 1.0 of the .npy format")
    return np.lib.format.read_array_header_1_0(member)


@contextmanager
def read_archive(path: Path) -> Iterator[Archive]:
    """Open a file of `write_archive`."""
    with _readable(path):
        archive = zipfile.ZipFile(path)
    with archive:
        yield Archive(archive, path)
