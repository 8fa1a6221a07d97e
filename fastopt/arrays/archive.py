"""Arrays with a description in one ``.npz`` file, streamed and replaced atomically."""

from __future__ import annotations

import errno
import json
import os
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np

from fastopt.arrays import placement
from fastopt.arrays.checks import Array
from fastopt.arrays.device_array import AnyArray
from fastopt.arrays.regular_files import open_regular, replacing
from fastopt.codecs.base import DType, flat
from fastopt.codecs.formats import bits_of

DESCRIPTION = "fastopt.json"
LARGEST_DESCRIPTION = 1 << 26  # bytes: a million arrays with paths of 50 characters
IO_CHUNK = 1 << 22  # bytes read or written at a time

_Header: TypeAlias = tuple[tuple[int, ...], bool, DType]


def write_archive(
    path: Path,
    description: Mapping[str, object],
    named: Iterable[tuple[str, Array]],
    like: Path | None = None,
) -> None:
    """Write to a temporary file, then move it into place; `like` is that of `replacing`."""
    text = json.dumps(description).encode()
    if len(text) > LARGEST_DESCRIPTION:
        raise ValueError(
            f"the description of what is saved must have at most {LARGEST_DESCRIPTION} bytes, "
            f"but it has {len(text)}"
        )
    with replacing(path, like) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(DESCRIPTION, text)
        for name, array in named:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                _write_array(member, array)


def _write_array(member: IO[bytes], array: Array) -> None:
    header = np.lib.format.header_data_from_array_1_0(array.view(in_files(array.dtype)))
    np.lib.format.write_array_header_1_0(member, header)
    content = _bytes(array)
    for start in range(0, len(content), IO_CHUNK):
        # A copy, which no other thread can change between its checksum and the write.
        member.write(bytes(content[start : start + IO_CHUNK]))


def in_files(dtype: DType) -> DType:
    """The dtype in files: integers for formats that .npy does not have, such as bfloat16."""
    return bits_of(dtype)


def _bytes(array: Array) -> memoryview:
    content: Any = flat(array).view(np.uint8)  # no Buffer to type checkers before Python 3.12
    return memoryview(content)


class Mismatch(ValueError):
    """The file is intact, but holds other arrays."""


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn the many errors of a damaged file into one ValueError."""
    try:
        yield
    except Mismatch:
        raise
    except Exception as error:
        # A damaged file may have invalid offsets: "invalid argument".
        unrelated = isinstance(error, OSError) and error.errno != errno.EINVAL
        if unrelated or isinstance(error, MemoryError):
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
                size = self._archive.getinfo(DESCRIPTION).file_size
                if size > LARGEST_DESCRIPTION:
                    raise ValueError(f"its description has {size} bytes")
                with self._archive.open(DESCRIPTION) as member:
                    description = json.loads(member.read(size))
                if isinstance(description, dict):
                    return description
        raise ValueError(f"{self._path} was not written by an optimizer's save()")

    def check(self, arrays: Mapping[str, AnyArray]) -> None:
        """Read all that `read_into` would read, and check checksums, shapes and dtypes."""
        members = set(self._archive.namelist())
        for name, array in arrays.items():
            if f"{name}.npy" not in members:
                raise ValueError(f"{self._path} has no array {name!r}")
            with _readable(self._path), self._open(name) as (member, header, size):
                shape, fortran, dtype = header
                if shape != array.shape or dtype != in_files(array.dtype):
                    raise Mismatch(
                        f"{self._path} has {name!r} with shape {shape} and dtype {dtype}, but this "
                        f"optimizer has {array.shape} and {array.dtype}"
                    )
                if size != array.nbytes or (fortran and array.ndim > 1):
                    raise Mismatch(f"{self._path} has {name!r} in another layout than save() writes")
                for _ in _chunks(member, size):
                    pass  # at the end of the member its checksum is compared

    @contextmanager
    def _open(self, name: str) -> Iterator[tuple[IO[bytes], _Header, int]]:
        """A member after its header, the header, and the number of bytes that must follow."""
        with self._archive.open(f"{name}.npy") as member:
            header = _read_header(member)
            yield member, header, self._archive.getinfo(f"{name}.npy").file_size - member.tell()

    def read_into(self, arrays: Mapping[str, AnyArray], first: int = 0) -> None:
        """Fill arrays from the file, which was checked, with its elements from `first` on."""
        for name, array in arrays.items():
            host = array if isinstance(array, np.ndarray) else np.empty(array.shape, array.dtype)
            with _readable(self._path), self._open(name) as (member, _, _):
                member.seek(first * array.itemsize, os.SEEK_CUR)
                content, start = _bytes(host), 0
                for chunk in _chunks(member, len(content)):
                    content[start : start + len(chunk)] = chunk
                    start += len(chunk)
            if host is not array:
                placement.copy(array, host)


def _chunks(member: IO[bytes], size: int) -> Iterator[bytes]:
    """Read this many bytes, or raise if there are fewer."""
    left = size
    while left:
        chunk = member.read(min(left, IO_CHUNK))
        if not chunk:
            raise ValueError(f"a member ends {left} bytes early")
        left -= len(chunk)
        yield chunk


def _read_header(member: IO[bytes]) -> _Header:
    if np.lib.format.read_magic(member) != (1, 0):
        raise ValueError("not version 1.0 of the .npy format")
    header: tuple[tuple[int, ...], bool, DType] = np.lib.format.read_array_header_1_0(member)
    return header


@contextmanager
def read_archive(path: Path) -> Iterator[Archive]:
    """Open a file of `write_archive`."""
    with open_regular(path) as file:
        with _readable(path):
            archive = zipfile.ZipFile(file)
        with archive:
            yield Archive(archive, path)
