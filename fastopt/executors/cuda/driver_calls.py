"""What compiled code needs to call the driver by itself."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import numpy as np

from fastopt.arrays.checks import Array
from fastopt.executors.cuda import device
from fastopt.executors.launching import TAKEN, interpreter

PER_THREAD = "CUDA_PYTHON_CUDA_PER_THREAD_DEFAULT_STREAM"  # what the driver's bindings ask
CALLED = "cuStreamIsCapturing, cuMemcpyHtoDAsync or cuLaunchKernel"
SINCE = 12000  # the version of CUDA whose functions are meant

_NAMES = (
    b"cuCtxGetCurrent",
    b"cuStreamIsCapturing",
    b"cuLaunchKernel",
    b"cuMemcpyHtoDAsync",
    b"cuEventSynchronize",
    b"cuEventRecord",
)


@cache
def calls(ordinal: int) -> Array | None:
    """Addresses of functions, and the context of the current device (`launching`), None without one.

    Kernels are loaded in the context of the first call.
    """
    if device.SIMULATED:
        return None
    device.cuda.current_context()
    driver, call = _driver(), device._call
    stream = 2 if os.environ.get(PER_THREAD, "0") != "0" else 0
    functions = [int(call(driver.cuGetProcAddress, name, SINCE, stream)[0]) for name in _NAMES]
    return np.array([*functions, int(call(driver.cuCtxGetCurrent)), *interpreter(), 0], np.int64)


def _driver() -> Any:
    return vars(device)["binding"]  # not there on the simulator


def was_taken(status: int) -> bool:
    """Whether compiled code took a step, or leaves it to Python; raises what the driver says."""
    if status > 0:
        name = _driver().CUresult(status).name
        raise device.CudaError(f"{CALLED} failed: {name}")
    return status == TAKEN
