"""The identity of code in every cache: the content of a function with its closure, and of fastopt.

`frozen` copies a function with its helpers, globals and closed-over values, and returns the same copy
for equal content: caches with the copy as key go by content, and a later compilation uses the function
as it was. `content` has its digest, which identifies it on disk together with `package`, the digest of
fastopt's own files. The user's source files are not needed: functions may be typed into a notebook.
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
from importlib.resources.abc import Traversable
from types import FunctionType
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

import llvmlite
import numpy as np

from fastopt.kernels import numba_settings
from fastopt.kernels.closure import Closure, python_of


@dataclass(frozen=True)
class Content:
    """The digest of a function with all that it uses.

    Attributes
    ----------
    digest : str
    lasts : bool
        Whether it means the same in another process: not if some object is described by its identity
        only.
    """

    digest: str
    lasts: bool


_contents: WeakKeyDictionary[FunctionType, Content] = WeakKeyDictionary()  # of frozen functions
_frozen: WeakValueDictionary[str, FunctionType] = WeakValueDictionary()  # by digest
# Frozen copies of fastopt's own functions, which only an edit of its files changes: describing them
# again would take as long as the rest of a one-shot call.
_frozen_once: dict[FunctionType, FunctionType] = {}


def frozen(function: object) -> FunctionType:
    """A copy of a function with all that it uses now; functions of equal content share one copy.

    Raises
    ------
    TypeError
        It is not a Python function.
    """
    if type(function) is FunctionType and function in _frozen_once:
        return _frozen_once[function]
    function = python_of(function)
    if not isinstance(function, FunctionType):
        raise TypeError(f"a transform must be made of plain Python functions, not {function!r}")
    if function in _contents:
        return function
    closure = Closure()
    text, copy = closure.describe(function)
    described = Content(digest(text), closure.lasts)
    copy = _frozen.setdefault(described.digest, copy)
    _contents.setdefault(copy, described)
    if _is_own(function):
        _frozen_once[function] = copy
    return copy


def content(function: object) -> Content:
    """The content of a function as it is now, or as it was when it was frozen."""
    return _contents[frozen(function)]


def _is_own(function: FunctionType) -> bool:
    """Whether a module of fastopt defines a function; such globals do not change."""
    name = str(function.__globals__.get("__name__"))
    module = sys.modules.get(name) if name.startswith("fastopt.") else None
    return module is not None and vars(module) is function.__globals__


def digest(*texts: str) -> str:
    """A short hash."""
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def origin(functions: Iterable[object], *what: str) -> str:
    """A file name for the cache, from where functions are defined: it survives edits of them."""
    origins, names = [], []
    for function in map(python_of, functions):
        file = function.__code__.co_filename
        # A cell of a notebook has another "file" in every session.
        file = file if os.path.isfile(file) and "ipykernel" not in file else ""
        origins.append(f"{file}:{function.__module__}.{function.__qualname__}")
        names.append(function.__name__.removesuffix("_update"))
    readable = "".join(c if c.isalnum() or c in "-_" else "_" for c in "-".join(names))[:80]
    return f"{readable}-{digest(*what, *origins)}"


# Modules and folders that do not reach machine code on disk: those that import the compiler, and
# transforms, which are identified by the content of their functions.
APART = {
    "__main__",
    "cli",
    "demo",
    "interop",
    "minimization",
    "optimizers",
    "schedules",
    "system",
    "transforms",
}


_SUFFIXES = tuple(machinery.all_suffixes())


def _files(folder: Traversable, within: str = "") -> Iterator[tuple[str, Traversable]]:
    """The modules of fastopt and their names, source or bytecode, in a folder or a zip."""
    for entry in sorted(folder.iterdir(), key=lambda entry: str(entry.name)):
        name = (within + entry.name).partition(".")[0]
        if name in APART or entry.name == "__pycache__":
            continue
        if entry.name.endswith(_SUFFIXES):
            yield name, entry
        elif "." not in entry.name and entry.is_dir():
            yield from _files(entry, f"{name}/")


def digest_of(folder: Traversable) -> str | None:
    """A digest of the files in fastopt's folder that affect machine code; None if one is unreadable.

    All but those in `APART` count, among them the version.
    """
    this = __name__.removeprefix("fastopt.").replace(".", "/")
    return _digest_of(_files(folder), this)


def _digest_of(files: Iterable[tuple[str, Traversable]], needed: str) -> str | None:
    """A digest of files with their names; None if one is unreadable, or the needed one is missing."""
    sums = hashlib.sha256()
    names = []
    try:
        for name, file in files:
            code = file.read_bytes()
            sums.update(f"{name} {len(code)} ".encode() + code)
            names.append(name)
    except OSError:
        return None
    return sums.hexdigest()[:32] if needed in names else None


@cache
def package() -> str | None:
    """A digest of fastopt's own code; None if it is unreadable, and then nothing is kept on disk."""
    return digest_of(resources.files("fastopt"))


@cache
def of_module(module: str) -> str | None:
    """A digest of what functions of a module of fastopt's are compiled from; None as of `package`.

    Of one that is in `APART` the files beside it count too: it may use what they define.
    """
    files = package()
    _, top, *_ = module.split(".")
    if files is None or top not in APART:
        return files
    folder, path = module.rpartition(".")[0], module.replace(".", "/")
    beside = _digest_of(_files(resources.files(folder), f"{path.rpartition('/')[0]}/"), path)
    return None if beside is None else digest(files, beside)


def of_compiled(function: Any) -> str | None:
    """The identity of one of fastopt's own functions that is compiled by itself.

    From the files of the package, that of its module, which may be one of `APART`, and the values that
    it uses; None if one of them is unreadable.
    """
    module = sys.modules[function.__module__]
    spec = module.__spec__
    try:
        code: bytes = spec.loader.get_data(spec.origin)  # type: ignore[union-attr]
    except (AttributeError, OSError, TypeError):
        return None
    text, _ = Closure(trusts_types=True).describe(function)
    if (files := package()) is None:
        return None
    return digest(files, hashlib.sha256(code).hexdigest(), text)


_OPTIONS = (
    "OPT",
    "BOUNDSCHECK",
    "DEBUGINFO_DEFAULT",
    "LOOP_VECTORIZE",
    "SLP_VECTORIZE",
    "USING_SVML",
)


def compiler() -> tuple[object, ...]:
    """The identity of the compiler: versions, and Numba's environment options that change code."""
    python = platform.python_version(), sys.implementation.cache_tag, getattr(sys, "abiflags", "")
    versions = numba_settings.version(), llvmlite.__version__, np.__version__
    return *python, *versions, *(str(numba_settings.setting(name)) for name in _OPTIONS)


package()  # at import: after an update the code in this process is still the old one
