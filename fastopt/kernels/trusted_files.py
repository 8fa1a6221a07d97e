"""Reading and writing files with code that is run, with checks of who can have written them.

Whoever can write to a cache file can make this process run what they like. So it is read only where
nobody but this user and root can have written it, whoever else may use the folder: the way of OpenSSH
with its keys. What is checked is the open file, not its name. Windows has no owners and modes that
could be read without its access lists; there nothing but the kind of file is checked.
"""

from __future__ import annotations

import os
import stat
import warnings
from contextlib import suppress
from pathlib import Path

# Without following a link at the end of the path, without waiting for a writer of a FIFO, and without
# taking a terminal.
_FLAGS = ("O_NOFOLLOW", "O_NONBLOCK", "O_NOCTTY", "O_BINARY")
_READ = sum(getattr(os, flag, 0) for flag in _FLAGS) | os.O_RDONLY
_CREATE = sum(getattr(os, flag, 0) for flag in _FLAGS) | os.O_WRONLY | os.O_CREAT | os.O_EXCL

_warned = False


def read(path: Path) -> bytes | None:
    """The content of a file, or None where there is none that may be read and run.

    A file that is there and must not be run is warned of, once in a process.
    """
    try:
        if not _is_trusted(path.parent):
            return None
        handle = os.open(path, _READ)
        try:
            doubt = _doubt_about_file(os.fstat(handle))
            if doubt is not None:
                _warn(path, doubt)
                return None
            with open(handle, "rb", closefd=False) as file:
                return file.read()
        finally:
            os.close(handle)
    except OSError:
        return None  # no file, or no access to it


def write(path: Path, content: bytes) -> None:
    """Write aside and move into place, where the result would be read again.

    Readers see the old file or the new one. Others may read it, and nobody but this user may write to
    it, whatever the umask allows. Where there is no space or no right to write, nothing happens.
    """
    try:
        _make_folder(path.parent)
        if not _is_trusted(path.parent):
            return
        aside = path.with_name(f"{os.urandom(8).hex()}.tmp")
        with open(os.open(aside, _CREATE, 0o644), "wb") as file:
            try:
                file.write(content)
                file.close()  # an open file cannot be moved everywhere
                os.replace(aside, path)
            except BaseException:
                file.close()
                os.unlink(aside)
                raise
    except OSError:
        return  # costs the next process a compilation, nothing else


def doubt_about_folder(folder: Path) -> str | None:
    """Why files in a folder must not be run, or None if they may be.

    Raises
    ------
    OSError
        There is no such folder, or no access to it.
    """
    status = os.stat(folder)
    if status.st_mode & stat.S_ISVTX:
        return None  # nobody can replace files of others, and files are checked too
    return _doubt(status)


def _is_trusted(folder: Path) -> bool:
    # Who exchanges the folder after this gains nothing: the file itself is checked when it is open.
    doubt = doubt_about_folder(folder)
    if doubt is not None:
        _warn(folder, doubt)
    return doubt is None


def _doubt_about_file(status: os.stat_result) -> str | None:
    return _doubt(status) if stat.S_ISREG(status.st_mode) else "it is not a regular file"


def _doubt(status: os.stat_result) -> str | None:
    if os.name != "posix":
        return None
    if status.st_uid not in (os.geteuid(), 0):
        return f"it belongs to another user (uid {status.st_uid})"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"others may write to it (mode {stat.S_IMODE(status.st_mode):03o})"
    return None


def _make_folder(folder: Path) -> None:
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        with suppress(FileExistsError):  # another process was faster
            path.mkdir(0o755)


def _warn(path: Path, doubt: str) -> None:
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(
            f"fastopt does not use the compiled code in {str(path)!r}, because {doubt}. "
            "FASTOPT_CACHE_DIR chooses another folder; the page on threads, forks and caches says "
            "which ones are used.",
            RuntimeWarning,
            stacklevel=2,
        )
