"""What `fastopt info` shows: the machine as fastopt sees it."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import llvmlite
import numba
import numpy as np
from llvmlite import binding

import fastopt
from fastopt.executors import threads
from fastopt.executors.cuda import availability
from fastopt.kernels import disk_cache, target
from fastopt.kernels.trusted_files import doubt_about_folder


def facts() -> dict[str, str]:
    """Names and values, in the order to be shown."""
    return {
        "fastopt": fastopt.__version__,
        "Python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "NumPy": np.__version__,
        "Numba": f"{numba.__version__} with llvmlite {llvmlite.__version__}",
        "CPU": cpu_model(),
        "cores": str(usable_cores()),
        "threads": str(fastopt.get_num_threads()),
        "threading layer": threads.layer(),
        "vector width": vector_width(),
        "CUDA": availability.describe(),
        "cache folder": _cache_folder(),
        "cache": _cache_state(),
    }


def cpu_model() -> str:
    """The name on the box where the system tells it, else what LLVM calls the family."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else f"{platform.machine()} ({binding.get_host_cpu_name()})"


def usable_cores() -> int:
    """The cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def vector_width() -> str:
    """The widest vector registers that the compiler may use."""
    widest = target.widest_vectors()
    if widest is None:
        return "unknown"
    bits, name = widest
    return f"{bits} bits ({name}): {bits // 32} float32 in a register"


def _cache_folder() -> str:
    folder = disk_cache.folder()
    if folder is not None:
        return _printable(folder)
    if os.environ.get("FASTOPT_CACHE") == "0":
        return "none: turned off by FASTOPT_CACHE=0"
    return "none: this user has no home folder (FASTOPT_CACHE_DIR chooses a folder)"


def _printable(path: Path) -> str:
    """A path that any terminal can show, whatever its bytes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _cache_state() -> str:
    folder = disk_cache.folder()
    if folder is None:
        return "off"
    sizes = []
    try:
        doubt = doubt_about_folder(folder)
        if doubt is not None:
            return f"NOT used, because {doubt}"
        sizes = [file.stat().st_size for file in folder.glob("*.bin")]
    except (FileNotFoundError, NotADirectoryError):
        pass  # it is made when there is something to keep
    except OSError as error:
        return f"NOT usable: {error.strerror}"
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    writable = existing.is_dir() and os.access(existing, os.W_OK)
    text = f"{len(sizes)} kernels, {sum(sizes) / 1e6:.1f} MB"
    return f"{text}, {'writable' if writable else 'NOT writable'}"
