"""Facts about the machine that explain its numbers, and none that name it or its user."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy as np
from llvmlite import binding

import fastopt
from bench import native

# Facts that are the same at every run on a machine: its name may be that of others.
LIKE = "cpu", "architecture", "family_model_stepping", "cores", "caches_bytes"


SYSTEM = Path("/sys/devices/system/cpu")


def facts(cpu: Mapping[str, Any]) -> dict[str, Any]:
    """Machine and software; `cpu` is what py-cpuinfo says."""
    return {
        "cpu": _short(cpu.get("brand_raw") or platform.processor() or platform.machine()),
        "architecture": platform.machine(),
        "microarchitecture": binding.get_host_cpu_name(),
        "family_model_stepping": [cpu.get(key) for key in ("family", "model", "stepping")],
        "cores": cores(),
        "caches_bytes": _caches(cpu),
        "memory_gb": _memory_gb(),
        "os": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "numba": numba.__version__,
        "llvmlite": llvmlite.__version__,
        "fastopt": fastopt.__version__,
        "libraries": {name: version_of(name) for name in ("numexpr", "torch", "jax", "optax", "keras")},
        "c_compiler": native.version(),
        "threads": fastopt.get_num_threads(),
        "threading_layer": _threading_layer(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def version_of(library: str) -> str | None:
    """The version of an installed library, None if it is not there."""
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def name(machine: Mapping[str, Any]) -> str:
    """What the result file of a machine is called: the same at every run on one like it."""
    words = f"{machine['cpu']} {machine['microarchitecture']} {machine['cores']} cores"
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")


def _short(brand: str) -> str:
    return " ".join(re.sub(r"\((R|TM|tm)\)|CPU @.*", "", brand).split())


def cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _caches(cpu: Mapping[str, Any]) -> dict[str, int]:
    """Bytes of all cores' caches by level; py-cpuinfo takes one level for another on some machines."""
    sizes: dict[str, dict[str, int]] = {}
    for folder in SYSTEM.glob("cpu[0-9]*/cache/index*"):
        level, kind, size, shared_by = (
            (folder / name).read_text().strip() for name in ("level", "type", "size", "shared_cpu_list")
        )
        if kind != "Instruction":
            title = {"1": "l1_data"}.get(level, f"l{level}")
            sizes.setdefault(title, {})[shared_by] = int(size.removesuffix("K")) << 10
    if sizes:
        return {level: sum(sizes[level].values()) for level in sorted(sizes)}
    reported = {level: cpu.get(f"{level}_cache_size") for level in ("l1_data", "l2", "l3")}
    return {level: size for level, size in reported.items() if isinstance(size, int)}


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (AttributeError, ValueError, OSError):
        return None  # not a POSIX system


def commit() -> str | None:
    """The commit that is checked out, with a ``+`` if files differ from it; None without git."""
    command = ["git", "describe", "--always", "--exclude=*", "--abbrev=7", "--dirty=+"]
    try:
        process = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return process.stdout.strip()


def busy_cores() -> float | None:
    """How many cores the machine had at work in the last minute: before a run, its neighbours'."""
    try:
        return round(os.getloadavg()[0], 1)
    except (AttributeError, OSError):
        return None  # not a POSIX system


def _threading_layer() -> str | None:
    some = np.zeros(8, np.float32)
    fastopt.SGD(some, executor="parallel").step(some.copy())  # it is known from the first use on
    try:
        return str(numba.threading_layer())
    except ValueError:
        return None  # nothing ran in parallel
