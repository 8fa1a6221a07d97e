"""CUDA as a place of arrays (`arrays.places`); all functions are synchronous."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import types

from fastopt.arrays.device_array import DeviceArray
from fastopt.codecs.base import Array, DType
from fastopt.codecs.formats import compute_dtype, name_of
from fastopt.executors.cuda import device, element_access
from fastopt.executors.cuda.launches import Launch
from fastopt.executors.cuda.programs import Program
from fastopt.kernels.kernel_identity import identified_by_package

EXECUTORS: tuple[str, ...] = ("auto", "cuda")


def where(array: DeviceArray) -> str:
    """The device of an array, in words for messages."""
    return f"on CUDA device {device.ordinal(array)}"


def empty(like: DeviceArray, shape: tuple[int, ...], dtype: DType) -> DeviceArray:
    """A new array on the device of another."""
    with device.on(device.ordinal(like)):
        return device.allocate(shape, dtype)


def repeat(target: DeviceArray, item: Array) -> None:
    """Fill an array with the same item, a NumPy array of one element, over and over."""
    with device.on(device.ordinal(target)):
        device.to_device(target.address, item[: target.size])
        done = item.nbytes
        while done < target.nbytes:  # the filled part is copied after itself, and so doubled
            more = min(done, target.nbytes - done)
            device.across(target.address + done, target.address, more)
            done += more
        device.synchronize()


def convert(target: DeviceArray, source: DeviceArray, stream: int) -> None:
    """Convert to an array of another format, in stream order."""
    with device.on(device.ordinal(target)):
        if target.size:
            names = str(name_of(source.dtype)), str(name_of(target.dtype))
            program = _convert(*names, device.architecture())
            launch = Launch(program, 3)
            launch.words[:] = target.size, source.address, target.address
            threads = program.block()
            launch.start(-(-target.size // threads), threads, stream)


@cache
def _convert(source: str, target: str, architecture: tuple[int, int]) -> Program:
    compute = compute_dtype(target).name

    def make() -> Any:
        scope = {"cuda": device.cuda, "__name__": __name__}
        scope |= {
            "load": element_access.loader(compute, source),
            "store": element_access.storer(compute, target),
        }
        text = "def convert(length, source, target):\n    i = cuda.grid(1)\n    if i < length:\n"
        exec(text + "        store(target, i, load(source, i))\n", scope)
        return scope["convert"]

    identity = identified_by_package(f"convert-{source}-{target}", [source, target])
    return Program(identity, make, [types.int64] * 3, architecture)


def copy(target: DeviceArray, source: Array | DeviceArray) -> None:
    """Copy from an array of the same shape and dtype, in memory or on a device."""
    with device.on(device.ordinal(target)):
        device.synchronize()  # the source may still be written, on any stream
        if isinstance(source, DeviceArray):
            device.across(target.address, source.address, target.nbytes)
        else:
            device.to_device(target.address, np.ascontiguousarray(source))
        device.synchronize()


def clear(array: DeviceArray) -> None:
    """Fill with zeros."""
    with device.on(device.ordinal(array)):
        device.clear(array.address, array.nbytes)
        device.synchronize()


def read(host: Array, source: DeviceArray) -> None:
    """Copy an array of the device to one in memory."""
    with device.on(device.ordinal(source)):
        device.synchronize()
        device.to_host(host, source.address)


def synchronize(array: DeviceArray) -> None:
    """Wait until the device of an array has finished all its work."""
    with device.on(device.ordinal(array)):
        device.synchronize()


def describe_dlpack(array: object) -> tuple[Any, Any, Any, int, bool]:
    """Shape, strides in elements, dtype, address and whether it is read-only, of a DLPack array."""
    from cuda.core.utils import StridedMemoryView

    device.cuda.current_context()
    view = StridedMemoryView.from_dlpack(array, stream_ptr=-1)
    return tuple(view.shape), view.strides, np.dtype(view.dtype), int(view.ptr), bool(view.readonly)
