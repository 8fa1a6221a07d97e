"""Filling and copying arrays on a device, done when the functions return."""

from __future__ import annotations

from functools import cache
from typing import Any

import numba
import numpy as np
from numba import types

from fastopt.codecs.floats import compute_dtype, name_of
from fastopt.executors.cuda import access, device
from fastopt.executors.cuda.launches import Launch
from fastopt.layouts.device import DeviceArray


def full(like: DeviceArray, dtype: np.dtype[Any], value: float) -> DeviceArray:
    """A new array with the shape of another and on its device, filled with `value`."""
    with device.on(device.ordinal(like)):
        made = device.allocate(like.shape, dtype)
        if made.size:
            name = str(name_of(dtype))
            program = _fill(name, device.architecture())
            launch = Launch(program, 2, np.array([value], compute_dtype(name)), (0,))
            launch.words[:] = made.size, made.address
            threads = program.block()
            launch.start(-(-made.size // threads), threads, 0)
            device.synchronize()
    return made


@cache
def _fill(dtype: str, architecture: tuple[int, int]) -> device.Program:
    compute = compute_dtype(dtype)
    store = access.storer(compute.name, dtype)
    scope = {"cuda": device.cuda, "store": store, "__name__": __name__}
    text = "def fill(length, at, value):\n    i = cuda.grid(1)\n    if i < length:\n"
    exec(text + "        store(at, i, value)\n", scope)
    number = numba.from_dtype(compute)
    return device.Program(scope["fill"], (types.int64, types.int64, number), architecture)


def copy(target: DeviceArray, source: Any) -> None:
    """Copy from an array of the same shape and dtype, in memory or on a device."""
    with device.on(device.ordinal(target)):
        device.synchronize()  # what fills the source may be under way, on any stream
        if isinstance(source, DeviceArray):
            device.across(target.address, source.address, target.nbytes)
        else:
            device.to_device(target.address, np.ascontiguousarray(source))
        device.synchronize()


def read(host: Any, source: DeviceArray) -> None:
    """Fill an array in memory."""
    with device.on(device.ordinal(source)):
        device.synchronize()
        device.to_host(host, source.address)
