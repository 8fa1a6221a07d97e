"""Whether CUDA can be used, and how to install it."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version
from importlib.util import find_spec

import numpy as np

from fastopt.kernels.numba_settings import setting

INSTALL = "pip install 'numba-cuda[cu13]' (or 'numba-cuda[cu12]' for a driver that knows CUDA 12 only)"


@cache
def missing() -> str | None:
    """Why CUDA cannot be used, and how to install it, in a sentence; None if it can.

    Whether it can compile is not looked into: code that is on disk needs no compiler.
    """
    if not _is_installed():
        return f"the package numba-cuda is not installed: {INSTALL}"
    try:
        from fastopt.executors.cuda import device
    except Exception as error:  # of many kinds, by what does not fit together
        return _clash(error)
    problem = device.problem()
    if problem is None:
        return None
    if "driver" in problem.lower() and "found" in problem.lower():
        return f"there is no CUDA driver ({problem}): install NVIDIA's driver for the GPU"
    if "no cuda-capable device" in problem.lower() or "NO_DEVICE" in problem:
        return (
            f"no CUDA device is visible ({problem}): see nvidia-smi, and the environment variable "
            "CUDA_VISIBLE_DEVICES"
        )
    return f"CUDA does not work ({problem}): see nvidia-smi, and reinstall with {INSTALL}"


def _is_installed() -> bool:
    return bool(setting("ENABLE_CUDASIM")) or find_spec("numba_cuda") is not None


@cache
def missing_compiler() -> str | None:
    """Why nothing can be compiled for CUDA, in a sentence; None if it can."""
    try:
        from fastopt.executors.cuda import device

        device.load_compiler()
    except Exception as error:  # as above
        return _clash(error)
    return None


def _clash(error: Exception) -> str:
    """Why numba-cuda cannot be imported: another NumPy than it expects, or its own parts."""
    if "numpy" not in str(error).lower():
        return f"numba-cuda cannot be imported ({error}): {INSTALL}"
    package = "numba-cuda" if find_spec("numba_cuda") else "numba"  # which has a simulator too
    newer = ".".join(np.__version__.split(".")[:2])
    return (
        f"{package} {version(package)} does not work with NumPy {np.__version__} ({error}): "
        f"pip install --upgrade {package}, or 'numpy<{newer}' if there is no newer one"
    )


def require() -> None:
    """Check that CUDA can be used.

    Raises
    ------
    RuntimeError
        It cannot; the message says what is missing and how to get it.
    """
    _refuse(missing())


def require_compiler() -> None:
    """Check that kernels can be compiled, before Numba fails within its own code.

    Raises
    ------
    RuntimeError
        They cannot; the message says what does not fit together.
    """
    _refuse(missing_compiler())


def _refuse(problem: str | None) -> None:
    if problem is not None:
        raise RuntimeError(f"arrays on a CUDA device cannot be stepped: {problem}")


def describe() -> str:
    """The report of `fastopt info` on CUDA."""
    problem = (missing_compiler() if _is_installed() else None) or missing()
    if problem is not None:
        return f"not available: {problem}"
    from fastopt.executors.cuda import device

    return device.facts()
