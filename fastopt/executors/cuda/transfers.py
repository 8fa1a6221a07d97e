"""Filling and copying arrays on a device, done when the functions return."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastopt.executors.cuda import device
from fastopt.layouts.device import DeviceArray


def empty(like: DeviceArray, shape: tuple[int, ...], dtype: np.dtype[Any]) -> DeviceArray:
    """A new array on the device of another."""
    with device.on(device.ordinal(like)):
        return device.allocate(shape, dtype)


def repeat(target: DeviceArray, item: Any) -> None:
    """Fill an array with the same item, a NumPy array of one element, over and over."""
    with device.on(device.ordinal(target)):
        device.to_device(target.address, item[: target.size])
        done = item.nbytes
        while done < target.nbytes:  # what is there is copied behind itself, and so doubled
            more = min(done, target.nbytes - done)
            device.across(target.address + done, target.address, more)
            done += more
        device.synchronize()


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
