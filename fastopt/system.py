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
from fastopt.executors import cache
from fastopt.executors.cuda import availability

# Widest first: what LLVM calls a feature, the width in bits, and the usual name.
_VECTORS = (
    ("avx512f", 512, "AVX-512"),
    ("avx2", 256, "AVX2"),
    ("avx", 256, "AVX"),
    ("sse2", 128, "SSE2"),
    ("neon", 128, "NEON"),
)


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
        "threading layer": _threading_layer(),
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
    features = binding.get_host_cpu_features()
    for feature, bits, name in _VECTORS:
        if features.get(feature):
            return f"{bits} bits ({name}): {bits // 32} float32 in a register"
    return "unknown"


def _threading_layer() -> str:
    from numba.np.ufunc import parallel

    parallel._launch_threads()  # the layer is chosen when the threads start
    return str(numba.threading_layer())


def _cache_folder() -> str:
    folder = cache.folder()
    return "none: turned off by FASTOPT_CACHE=0" if folder is None else str(folder)


def _cache_state() -> str:
    folder = cache.folder()
    if folder is None:
        return "off"
    files = list(folder.glob("*.bin"))
    size = sum(file.stat().st_size for file in files)
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    writable = "writable" if existing.is_dir() and os.access(existing, os.W_OK) else "NOT writable"
    return f"{len(files)} kernels, {size / 1e6:.1f} MB, {writable}"
