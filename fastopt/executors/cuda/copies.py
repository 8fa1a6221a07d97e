"""Copies and pickles of Numba's device arrays, which have neither of their own.

They are made known to `copy` and `pickle`: an optimizer is copied with all that it holds, and the
same array in two places of what is copied stays one array.
"""

from __future__ import annotations

import copyreg
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from fastopt.codecs.base import Array
from fastopt.executors.cuda import availability


@cache
def register() -> None:
    """Register copies and pickles of device arrays, unless Numba supports them."""
    from fastopt.executors.cuda import device

    kind = device.array_type()
    if kind is not None and kind.__reduce__ is object.__reduce__:
        copyreg.pickle(kind, _reduce)


class _Content:
    """The content of an array: copied on its device, pickled as an array in memory."""

    def __init__(self, array: Any, is_copy: bool = False) -> None:
        self.array, self.is_copy = array, is_copy

    def __deepcopy__(self, memo: dict[int, object]) -> _Content:
        from fastopt.arrays.device_array import DeviceArray, enter
        from fastopt.executors.cuda import place

        source = enter("array", self.array)
        assert isinstance(source, DeviceArray)
        if not source.flags.c_contiguous:
            return _from_host(self.array.copy_to_host())
        copied = place.empty(source, source.shape, source.dtype)
        place.copy(copied, source)
        return _Content(copied.owner, is_copy=True)

    def __reduce__(self) -> tuple[Callable[..., _Content], tuple[Array]]:
        return _from_host, (self.array.copy_to_host(),)


def _from_host(host: Array) -> _Content:
    """On the device that is there.

    Raises
    ------
    RuntimeError
        There is none; the message says what is missing.
    """
    availability.require()
    from fastopt.executors.cuda import device

    copied = device.allocate(host.shape, host.dtype)
    device.to_device(copied.address, np.ascontiguousarray(host))
    return _Content(copied.owner, is_copy=True)


def _reduce(array: object) -> tuple[Callable[..., Any], tuple[_Content]]:
    return _opened, (_Content(array),)


def _opened(content: _Content) -> Any:
    """The array; another one with the same memory where a copy is shallow."""
    array = content.array
    if content.is_copy:
        return array
    return type(array)(array.shape, array.strides, array.dtype, array.stream, array.gpu_data)
