"""The threads of parallel loops: those of Numba's threading layer, which machine code calls.

Numba is not imported for them where nothing configures it and OpenMP is what it would choose: its
module for OpenMP needs nothing else of it. Threads that Numba itself starts later are the same.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from types import ModuleType

from fastopt.kernels.numba_settings import folders_of_numba, is_needed, setting

# What machine code calls: ``parallel_for(task, arguments, counts, steps, data, ...)``, and how many
# threads Numba lets run now.
PARALLEL_FOR, RUNNING_THREADS = "fastopt_parallel_for", "fastopt_running_threads"

# What Numba prefers to OpenMP.
_TBB = {"win32": "tbb12.dll", "darwin": "libtbb.12.dylib"}

is_started = False


def available() -> int:
    """The number of threads that there are."""
    if not is_needed():
        return _usable_cores()
    return int(str(setting("NUMBA_NUM_THREADS")))


@cache
def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return max(1, os.cpu_count() or 1)


@cache
def start() -> str:
    """Start the threads, and return the name of the threading layer."""
    from llvmlite import binding

    from fastopt.kernels.interrupts import interrupts_later
    from fastopt.kernels.machine_code import linking

    global is_started
    with linking, interrupts_later():
        openmp = None if is_needed() else _openmp()
        is_started = True
        if openmp is not None:
            ctypes.CFUNCTYPE(None, ctypes.c_int)(openmp.launch_threads)(available())
            functions, name = (openmp.parallel_for, openmp.get_num_threads), "omp"
        else:
            import numba
            from numba.np.ufunc import parallel

            parallel._launch_threads()
            functions = tuple(map(binding.address_of_symbol, ("numba_parallel_for", "get_num_threads")))
            name = str(numba.threading_layer())
        for symbol, address in zip((PARALLEL_FOR, RUNNING_THREADS), functions, strict=True):
            binding.add_symbol(symbol, address)
        return name


def _openmp() -> ModuleType | None:
    """Numba's module for OpenMP without Numba; None where another layer is to be used."""
    try:
        ctypes.CDLL(_TBB.get(sys.platform, "libtbb.so.12"))
    except OSError:
        folders = [os.path.join(folder, "np", "ufunc") for folder in folders_of_numba()]
        spec = PathFinder.find_spec("omppool", folders)
        if spec is None or spec.loader is None:
            return None
        try:
            module = module_from_spec(spec)
            spec.loader.exec_module(module)
        except ImportError:  # the system has no OpenMP
            return None
        return module
    return None
