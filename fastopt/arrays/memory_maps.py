"""New states: in memory, or in the files of a folder, where they may be larger than memory."""

from __future__ import annotations

import errno
import math
import os
from contextlib import suppress
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from fastopt.arrays.aligned import zeros
from fastopt.arrays.archive import in_files
from fastopt.arrays.checks import Array
from fastopt.codecs.base import DType
from fastopt.validation import as_path

# Errors of file systems that cannot reserve space, though there may be enough of it.
CANNOT_RESERVE = errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS

NAME_LENGTH = 100  # of the readable part; names of files may have 255 bytes, or fewer

WRITTEN = 1 << 20  # bytes of zeros at a time


class StateFiles:
    """Create arrays as files in a folder, or in memory without one; delete the files on an error.

    Parameters
    ----------
    folder : path or None
        New or empty: existing files are never overwritten.
    """

    def __init__(self, folder: object) -> None:
        self.folder = None if folder is None else as_path("state_dir", folder)
        self._files: list[Path] = []
        self._folders: list[Path] = []
        if self.folder is None or not self.folder.exists():
            return
        if not self.folder.is_dir():
            raise ValueError(f"state_dir must be a folder, but {self.folder} is a file")
        if any(self.folder.iterdir()):
            raise ValueError(f"state_dir must be a new or empty folder, but {self.folder} has files")

    def zeros(self, name: str, shape: tuple[int, ...], dtype: DType) -> Array:
        """An array of zeros.

        Raises
        ------
        OSError
            There is no space for it, or its file cannot be made.
        """
        if self.folder is None:
            return zeros(shape, dtype)
        self._make_folder(self.folder)
        path = self.folder / file_name(len(self._files), name)
        descr = np.lib.format.dtype_to_descr(in_files(dtype))
        with path.open("xb", buffering=0) as file:
            self._files.append(path)
            header = {"descr": descr, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            try:
                _reserve(file, math.prod(shape) * dtype.itemsize)
            except OSError as error:
                error.filename = str(path)
                raise
        array: Array = np.lib.format.open_memmap(path, "r+")
        return array.view(dtype)

    def _make_folder(self, folder: Path) -> None:
        missing = [path for path in (folder, *folder.parents) if not path.is_dir()]
        for path in reversed(missing):
            try:
                path.mkdir()
            except FileExistsError:  # another process was faster, for instance another rank
                if not path.is_dir():
                    raise
            else:
                self._folders.append(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            return
        # Failing to remove a file, or a folder that others use now, must not hide the error.
        for path in self._files:
            with suppress(OSError):
                path.unlink()
        for folder in reversed(self._folders):
            with suppress(OSError):
                folder.rmdir()


def file_name(number: int, name: str) -> str:
    """A file name that is valid on every file system, and differs from those of other numbers."""
    readable = "".join(c if (c.isascii() and c.isalnum()) or c in "-_" else "_" for c in name)
    return f"{number:03}-{readable.strip('_')[:NAME_LENGTH]}.npy"


def _reserve(file: FileIO, size: int) -> None:
    """Append zeros, with space on the disk for all of them.

    A hole in a file gets its space when it is written through a map, and where there is none the system
    kills the process.
    """
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file.fileno(), 0, file.tell() + size)
        except OSError as error:
            if error.errno not in CANNOT_RESERVE:
                raise
        else:
            return
    zeros = memoryview(bytes(WRITTEN))
    while size > 0:
        size -= file.write(zeros[:size])
    os.fsync(file.fileno())  # a network may learn only now that there is no space
