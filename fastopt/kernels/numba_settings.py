"""Numba's version and settings, without its import where nothing changes them.

That import takes four fifths of the time of a first step whose machine code is on disk. It is left to
what compiles, and to processes in which Numba is configured.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from types import ModuleType

from fastopt.kernels.interrupts import interrupts_later

# The settings that are asked for, where neither the environment nor a file says otherwise. One that
# another version of Numba has otherwise is noticed: code that was compiled with it is not found so.
USUAL: dict[str, object] = {
    "BOUNDSCHECK": None,
    "CPU_FEATURES": None,
    "CPU_NAME": None,
    "DEBUGINFO_DEFAULT": 0,
    "DISABLE_JIT": 0,
    "ENABLE_AVX": True,
    "ENABLE_CUDASIM": 0,
    "LOOP_VECTORIZE": 1,
    "OPT": "_OptLevel(3)",
    "SLP_VECTORIZE": 0,
    "USING_SVML": False,
}

_ELSEWHERE = {"NUMBA_CACHE_DIR"}  # has no part in compilation
_FILE = ".numba_config.yaml"
_SVML = {"darwin": "libsvml.dylib", "win32": "svml_dispmd"}


def is_needed() -> bool:
    """Whether Numba is to be asked: it is imported already, or something configures it."""
    return "numba" in sys.modules or _is_configured()


@cache
def _is_configured() -> bool:
    names = {name for name in os.environ if name.startswith("NUMBA_")} - _ELSEWHERE
    return bool(names) or os.path.isfile(_FILE) or _has_svml()


def _has_svml() -> bool:
    """Whether Intel's SVML is installed, a library of vector functions that Numba lets LLVM call."""
    from llvmlite import binding

    try:
        binding.load_library_permanently(_SVML.get(sys.platform, "libsvml.so"))
    except RuntimeError:
        return False
    return True


def folders_of_numba() -> list[str]:
    """Where Numba's modules are, of which some need no others."""
    spec = find_spec("numba")
    return list(spec.submodule_search_locations or ()) if spec else []


def setting(name: str) -> object:
    """A value of `numba.config`."""
    if not is_needed():
        return USUAL[name]
    return getattr(_numba().config, name)


def compiles() -> bool:
    """Whether anything is compiled: not with NUMBA_DISABLE_JIT."""
    return not setting("DISABLE_JIT")


@cache
def version() -> str:
    """Numba's version."""
    for folder in [] if is_needed() else folders_of_numba():
        path = os.path.join(folder, "_version.py")
        spec = spec_from_file_location("_numba_version", path)
        if spec is not None and spec.loader is not None and os.path.isfile(path):
            module = module_from_spec(spec)
            spec.loader.exec_module(module)
            return str(module.get_versions()["version"])
    return str(_numba().__version__)


def _numba() -> ModuleType:
    with interrupts_later():
        return import_module("numba")
