"""Compiled code on disk: a file for each kernel, valid while the code it was made from is unchanged.

Numba's own cache goes by time stamps of source files and by pickled closures; kernels here are
generated and their parts come from several files, or from no file at all. So the file is named after
where the parts come from, and inside stands a stamp of what they contain: a new process finds it,
an edit makes it a miss, and the next save goes to the same file, which keeps the newest few, so that
the folder does not grow.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from fastopt.kernels import trusted_files
from fastopt.kernels.identity import compiler
from fastopt.kernels.interrupts import interrupts_later
from fastopt.kernels.machine_code import MachineCode, link, linking
from fastopt.kernels.processor import target


def folder() -> Path | None:
    """The cache folder, or None if caching is off or the user has no folder for caches.

    ``FASTOPT_CACHE=0`` turns it off; ``FASTOPT_CACHE_DIR`` and Numba's ``NUMBA_CACHE_DIR`` move it.
    """
    if os.environ.get("FASTOPT_CACHE") == "0":
        return None
    chosen = os.environ.get("FASTOPT_CACHE_DIR") or os.environ.get("NUMBA_CACHE_DIR")
    if chosen:
        return Path(chosen) / "fastopt"
    try:
        return _caches_of_user() / "fastopt"
    except RuntimeError:  # neither HOME nor an entry in the table of users, as in some containers
        return None


def _caches_of_user() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


CHECKSUM = 32  # bytes

# Functions of one name in a file, for closures that differ in what they close over, and for
# environments that share a folder.
KEPT = 8


def _checksum(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


T = TypeVar("T")
Stamp: TypeAlias = tuple[object, ...]


class CacheFile:
    """A file with the newest few compiled functions of one name.

    Parameters
    ----------
    name : str
        Of the file.
    content : str or None
        What a function was made from, None if that cannot be identified: then nothing is kept.
    """

    def __init__(self, name: str, content: str | None) -> None:
        base = folder() if content else None
        # A file system may take ASCII alone, and 255 bytes; names have a hash of what they stand for.
        name = name.encode("ascii", "replace").decode().replace("?", "_")
        self.path = base / f"{name}.bin" if base else None
        self._content = content

    def _stamp(self, target: Sequence[object]) -> Stamp:
        return *compiler(), *target, self._content

    def _entries(self) -> list[tuple[Stamp, bytes]]:
        """Stamps and compiled functions in the file, the newest first."""
        if self.path is None:
            return []
        raw = trusted_files.read(self.path) or b""
        content = raw[CHECKSUM:]
        if raw[:CHECKSUM] != _checksum(content):
            return []  # not what was written, and it would be run as machine code
        try:
            return [(stamp, payload) for stamp, payload in pickle.loads(content)]
        except Exception:  # of any kind: it is not what is written here, and the next save replaces it
            return []

    def find(self, target: Sequence[object], read: Callable[[Any], T]) -> T | None:
        """What `read` makes of the code for a target, or None if it must be compiled."""
        stamp = self._stamp(target)
        for entry_stamp, payload in self._entries():
            if entry_stamp == stamp:
                try:
                    return read(pickle.loads(payload))
                except Exception:  # as above
                    return None
        return None

    def save(self, target: Sequence[object], payload: bytes) -> None:
        """Put pickled code for a target in front of the others in the file."""
        if self.path is None:
            return
        stamp = self._stamp(target)
        others = [entry for entry in self._entries() if entry[0] != stamp]
        content = pickle.dumps([(stamp, payload), *others[: KEPT - 1]])
        trusted_files.write(self.path, _checksum(content) + content)


def obtain(name: str, content: str | None, compile_: Callable[[], MachineCode]) -> int:
    """The address of compiled code, from disk, or compiled now and kept there.

    Parameters
    ----------
    name : str
        Of the file.
    content : str or None
        What the code is made from, as for `CacheFile`.
    compile_ : callable
    """
    file = CacheFile(name, content)

    def linked(parts: tuple[bytes, str, tuple[str, ...], bool]) -> int:
        return link(MachineCode(*parts))

    with linking:
        address = file.find(target(), linked)
        if address is not None:
            return address
        with interrupts_later():
            from fastopt.kernels.compiler import start

            # There may be code for settings that only Numba knows, or that imports what only Numba has.
            compiled_for = start()
            address = file.find(compiled_for, linked)
            if address is None:
                code = compile_()
                address = link(code)
                if code.lasts:
                    file.save(compiled_for, pickle.dumps(tuple(code)))
        return address
