"""Regular files: read without blocking on pipes and devices, and replaced atomically."""

from __future__ import annotations

import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows
    LOCKS = False
else:
    LOCKS = True

# A pipe without a writer would block open(); O_NONBLOCK does nothing to a regular file.
_COMMON_FLAGS = sum(
    getattr(os, name, 0) for name in ("O_NONBLOCK", "O_BINARY", "O_CLOEXEC", "O_NOCTTY")
)


def open_regular(path: Path) -> IO[bytes]:
    """Open a file to read, following links.

    Raises
    ------
    FileNotFoundError
        There is none.
    ValueError
        It is a directory, a device, a pipe or a socket.
    """
    _check_regular(path, os.stat(path))  # opening a device can have effects
    file = os.fdopen(os.open(path, os.O_RDONLY | _COMMON_FLAGS), "rb")
    try:
        _check_regular(path, os.fstat(file.fileno()))  # it may have been replaced since
    except BaseException:
        file.close()
        raise
    return file


def _check_regular(path: Path, status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise ValueError(f"path must name a file, but {path} is a directory")
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"path must name a file, but {path} is a device, a pipe or a socket")


@contextmanager
def replacing(path: Path, like: Path | None = None) -> Iterator[IO[bytes]]:
    """Write to a temporary file, which then replaces `path`, or is deleted if there is an error.

    A file that is replaced hands on its permissions, and its owner where that is allowed; a new one
    takes those of the file `like`, if there is one.
    """
    path = Path(os.path.realpath(path))  # what a link points to is replaced, and not the link
    replaced = _status(path)
    if replaced is not None:
        _check_regular(path, replaced)
    elif not path.parent.is_dir():
        raise FileNotFoundError(f"there is no directory {path.parent} to save {path.name} in")
    elif like is not None:
        replaced = _status(like)
    file, temporary = _open_temporary(path, replaced)
    with file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if not LOCKS:
                file.close()  # Windows does not move an open file
            os.replace(temporary, path)
        except BaseException:
            if not LOCKS:
                file.close()
            with suppress(FileNotFoundError):  # interrupted right after it was moved
                os.unlink(temporary)
            raise
    _sync_folder(path.parent)


def _status(path: Path) -> os.stat_result | None:
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None


def _open_temporary(path: Path, replaced: os.stat_result | None) -> tuple[IO[bytes], Path]:
    """An empty file beside `path` to write to first, and its name.

    The name is the same every time, so that what a kill leaves is overwritten by the next save. If
    another thread or process is saving there right now, which a lock tells, another name is taken.
    """
    if LOCKS:
        usual = path.with_name(f"{path.name}.saving")
        with suppress(PermissionError):  # it is another user's
            file = _open_to_write(usual, replaced)
            if _is_ours(file, usual):
                file.truncate(0)
                return file, usual
            file.close()
    other = path.with_name(f"{path.name}.{uuid.uuid4().hex}.saving")
    return _open_to_write(other, replaced), other


def _open_to_write(path: Path, replaced: os.stat_result | None) -> IO[bytes]:
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | _COMMON_FLAGS
    # What replaces a private file is private from the start.
    mode = 0o666 if replaced is None else replaced.st_mode & 0o666
    file = os.fdopen(os.open(path, flags, mode), "wb")
    try:
        _check_regular(path, os.fstat(file.fileno()))
        if replaced is not None and LOCKS:
            _take_permissions(file.fileno(), replaced)
    except BaseException:
        file.close()
        raise
    return file


def _take_permissions(handle: int, replaced: os.stat_result) -> None:
    """Give a file the owner, the group and the permissions of the one that it replaces."""
    mode = replaced.st_mode & 0o777
    status = os.fstat(handle)
    if (status.st_uid, status.st_gid) != (replaced.st_uid, replaced.st_gid):
        try:
            os.fchown(handle, replaced.st_uid, replaced.st_gid)
        except OSError:
            try:
                os.fchown(handle, -1, replaced.st_gid)
            except OSError:
                mode &= ~stat.S_IRWXG  # permissions of one group are not for another
    os.fchmod(handle, mode)


def _is_ours(file: IO[bytes], path: Path) -> bool:
    """Lock the file, until it is closed; whether that worked and it still is the one at `path`."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except OSError:
        return False


def _sync_folder(folder: Path) -> None:
    """Make the rename durable, where the system lets this user open the folder.

    Errors are ignored, because the file has been replaced already.
    """
    if os.name != "posix":
        return
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
