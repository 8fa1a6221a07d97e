"""What code is, for every cache: the content of a function with all that it uses, and of fastopt.

`frozen` copies a function with its helpers, globals and closed-over values, and equal content gives
one and the same copy: caches that go by the copy go by content, and what is compiled later is compiled
from what the function was then. `content` has a digest of it for the disk, where it stands beside
`package`, the digest of fastopt's own files. No source files of the user are needed: functions may be
typed into a notebook.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import machinery, resources
from types import FunctionType
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

import llvmlite
import numba
import numpy as np

from fastopt.kernels.closure import Look, python_of


@dataclass(frozen=True)
class Content:
    """What a function and all that it uses amount to.

    Attributes
    ----------
    digest : str
    lasts : bool
        Whether it means the same in another process: it does not where an object was met that is known
        by its identity only.
    """

    digest: str
    lasts: bool


_contents: WeakKeyDictionary[Any, Content] = WeakKeyDictionary()  # of frozen functions
_frozen: WeakValueDictionary[str, Any] = WeakValueDictionary()  # by digest
# Frozen copies of fastopt's own functions, which only an edit of its files changes: looking at them
# anew would take as long as the rest of a one-shot call.
_own: dict[Any, Any] = {}


def frozen(function: Any) -> Any:
    """A copy of a function with all that it uses, as it is now: the same one for equal content.

    Raises
    ------
    TypeError
        It is not a Python function.
    """
    if type(function) is FunctionType and function in _own:
        return _own[function]
    function = python_of(function)
    if not isinstance(function, FunctionType):
        raise TypeError(f"a transform must be made of plain Python functions, not {function!r}")
    if function in _contents:
        return function
    look = Look()
    text, copy = look.at(function)
    made = Content(digest(text), look.lasts)
    copy = _frozen.setdefault(made.digest, copy)
    _contents.setdefault(copy, made)
    if _is_own(function):
        _own[function] = copy
    return copy


def content(function: Any) -> Content:
    """What a function amounts to as it is now, or as it was when it was frozen."""
    return _contents[frozen(function)]


def _is_own(function: FunctionType) -> bool:
    """Whether fastopt's own module defines a function, whose globals stay what they are."""
    name = str(function.__globals__.get("__name__"))
    module = sys.modules.get(name) if name.startswith("fastopt.") else None
    return module is not None and vars(module) is function.__globals__


def digest(*texts: str) -> str:
    """A short hash."""
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def origin(functions: Iterable[Any], *what: str) -> str:
    """A file name for the cache that survives edits: where functions come from."""
    origins, names = [], []
    for function in map(python_of, functions):
        file = function.__code__.co_filename
        # A cell of a notebook has another "file" in every session.
        file = file if os.path.isfile(file) and "ipykernel" not in file else ""
        origins.append(f"{file}:{function.__module__}.{function.__qualname__}")
        names.append(function.__name__.removesuffix("_update"))
    readable = "".join(c if c.isalnum() or c in "-_" else "_" for c in "-".join(names))[:80]
    return f"{readable}-{digest(*what, *origins)}"


# What stands above the compiler, so that nothing of it is compiled in; and what is identified
# otherwise: transforms by the content of their functions, and CUDA kernels, which no disk holds.
APART = {
    "__main__",
    "cli",
    "demo",
    "executors/cuda",
    "interop",
    "minimization",
    "optimizers",
    "schedules",
    "system",
    "transforms",
}


_SUFFIXES = tuple(machinery.all_suffixes())


def _files(folder: Any, within: str = "") -> Iterator[tuple[str, Any]]:
    """The modules of fastopt, source or bytecode, with their names; from a folder or from a zip."""
    for entry in sorted(folder.iterdir(), key=lambda entry: str(entry.name)):
        name = (within + entry.name).partition(".")[0]
        if name in APART or entry.name == "__pycache__":
            continue
        if entry.name.endswith(_SUFFIXES):
            yield name, entry
        elif "." not in entry.name and entry.is_dir():
            yield from _files(entry, f"{name}/")


def digest_of(folder: Any) -> str | None:
    """A digest of what reaches machine code in a folder with fastopt; None if it cannot be read.

    Whatever is not named in `APART` counts, the version among it.
    """
    sums = hashlib.sha256()
    names = []
    try:
        for name, file in _files(folder):
            code = file.read_bytes()
            sums.update(f"{name} {len(code)} ".encode() + code)
            names.append(name)
    except OSError:
        return None
    own = __name__.removeprefix("fastopt.").replace(".", "/")
    return sums.hexdigest()[:32] if own in names else None


@cache
def package() -> str | None:
    """A digest of fastopt's own code; None where it cannot be read: then nothing is kept on disk."""
    return digest_of(resources.files("fastopt"))


def of_compiled(function: Any) -> str | None:
    """What identifies one of fastopt's own functions that is compiled by itself.

    The files of the package, that of its module, which may be one of `APART`, and the values that it
    uses. None where that cannot be read.
    """
    module = sys.modules[function.__module__]
    spec = module.__spec__
    try:
        code: bytes = spec.loader.get_data(spec.origin)  # type: ignore[union-attr]
    except (AttributeError, OSError, TypeError):
        return None
    text, _ = Look(own=True).at(function)
    known = package()
    return known and digest(known, hashlib.sha256(code).hexdigest(), text)


_OPTIONS = (
    "OPT",
    "BOUNDSCHECK",
    "DEBUGINFO_DEFAULT",
    "LOOP_VECTORIZE",
    "SLP_VECTORIZE",
)


def compiler() -> tuple[Any, ...]:
    """What compiles: versions, and Numba's options by environment that change the code."""
    python = platform.python_version(), sys.implementation.cache_tag, getattr(sys, "abiflags", "")
    versions = numba.__version__, llvmlite.__version__, np.__version__
    return *python, *versions, *(str(getattr(numba.config, name, None)) for name in _OPTIONS)


package()  # now: an update while this process runs must not pass what it loaded before for the new
