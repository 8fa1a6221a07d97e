"""Whether CUDA can be used here, and what to do where it cannot."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

import numba

INSTALL = "pip install 'fastopt[cuda13]' (or 'fastopt[cuda12]' for a driver that knows CUDA 12 only)"


@cache
def missing() -> str | None:
    """What stands in the way of CUDA and how to get it, in a sentence; None if nothing does."""
    if not numba.config.ENABLE_CUDASIM and find_spec("numba_cuda") is None:
        return f"the package numba-cuda is not installed: {INSTALL}"
    try:
        from fastopt.executors.cuda import device
    except ImportError as error:
        return f"numba-cuda cannot be imported ({error}): {INSTALL}"
    found = device.problem()
    if found is None:
        return None
    if "driver" in found.lower() and "found" in found.lower():
        return f"there is no CUDA driver ({found}): install NVIDIA's driver for the GPU"
    if "no cuda-capable device" in found.lower() or "NO_DEVICE" in found:
        return (
            f"no CUDA device is visible ({found}): see nvidia-smi, and the environment variable "
            "CUDA_VISIBLE_DEVICES"
        )
    return f"CUDA does not work ({found}): see nvidia-smi, and reinstall with {INSTALL}"


def require() -> None:
    """See that CUDA can be used.

    Raises
    ------
    RuntimeError
        It cannot; the message says what is missing and how to get it.
    """
    found = missing()
    if found is not None:
        raise RuntimeError(f"arrays on a CUDA device cannot be stepped: {found}")


def describe() -> str:
    """What `fastopt info` says of CUDA."""
    found = missing()
    if found is not None:
        return f"not available: {found}"
    from fastopt.executors.cuda import device

    return device.facts()
