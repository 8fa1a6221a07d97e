"""The loops in C, compiled for this very machine, where it has a compiler."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

SOURCE = Path(__file__).with_name("loops.c")
FLAGS = ("-O3", "-march=native", "-fopenmp", "-fno-math-errno")
REAL = {np.dtype(np.float32): "float", np.dtype(np.float64): "double"}


@cache
def compiler() -> str | None:
    """The C compiler: ``CC``, or the first one found."""
    chosen = os.environ.get("CC")
    return next(filter(None, map(shutil.which, [chosen] if chosen else ["gcc", "cc", "clang"])), None)


@cache
def version() -> str | None:
    """The compiler's name and version with the flags, or None without a compiler that takes them."""
    if library(np.dtype(np.float32)) is None:
        return None
    process = subprocess.run(
        [compiler() or "", "--version"], capture_output=True, text=True, check=True
    )
    return " ".join([process.stdout.splitlines()[0], *FLAGS])


@cache
def library(dtype: np.dtype[Any]) -> ctypes.CDLL | None:
    """The compiled loops for a dtype; None where they cannot be compiled."""
    command = compiler()
    if command is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "loops.so"
        arguments = [*FLAGS, f"-DREAL={REAL[dtype]}", "-shared", "-fPIC"]
        run = [command, *arguments, str(SOURCE), "-o", str(target), "-lm"]
        if subprocess.run(run, capture_output=True, check=False).returncode != 0:
            return None
        return ctypes.CDLL(str(target))
