"""Where arrays on a device are that are like one that was checked: asked for in each step.

To describe itself an array makes a dict, and to check it all takes 30 us. What can differ from step to
step is compared here by the attributes that its library has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from fastopt.arrays.device_array import library_of

Reader: TypeAlias = Callable[[Any], int]

OTHER = -1  # it is not like the one that was checked, or does not say so: check it anew


def absent(array: Any) -> int:
    """For the place of a gradient that there was not."""
    return 0 if array is None else OTHER


def reader(array: Any) -> Reader:
    """What gives the address of another array if it is like this one, and else `OTHER`."""
    make = _MAKERS.get(library_of(array), _reader_of_interfaces)
    try:
        return make(array)
    except AttributeError:  # some other array of that library
        return _reader_of_interfaces(array)


def is_fixed(array: Any) -> bool:
    """Whether an object stays on its memory, so that it need not be asked again, and may be kept."""
    return library_of(array) not in ("torch", "cupy")


def _torch_reader(array: Any) -> Reader:
    kind, shape, dtype, device = type(array), array.shape, array.dtype, array.device
    strides = array.stride()

    def read(other: Any) -> int:
        if (
            type(other) is kind
            and other.dtype is dtype
            and other.shape == shape
            and other.stride() == strides
            and other.device == device
            and not other.is_neg()
        ):
            return int(other.data_ptr())
        return OTHER

    return read


def _cupy_reader(array: Any) -> Reader:
    kind, shape, strides, dtype = type(array), array.shape, array.strides, array.dtype

    def read(other: Any) -> int:
        if (
            type(other) is kind
            and other.shape == shape
            and other.strides == strides
            and other.dtype == dtype
        ):
            return int(other.data.ptr)
        return OTHER

    return read


def _numba_reader(array: Any) -> Reader:
    kind, shape, strides, dtype = type(array), array.shape, array.strides, array.dtype
    stream = array.stream

    def read(other: Any) -> int:
        if (
            type(other) is kind
            and other.shape == shape
            and other.strides == strides
            and other.dtype == dtype
            and other.stream is stream
        ):
            return int(other.device_ctypes_pointer.value or 0)
        return OTHER

    return read


def _reader_of_interfaces(array: Any) -> Reader:
    kind, name = type(array), "__cuda_array_interface__"
    if not hasattr(array, name):
        return lambda other: OTHER
    _, read_only = getattr(array, name)["data"]
    like = {**getattr(array, name), "data": None}

    def read(other: Any) -> int:
        if type(other) is not kind:
            return OTHER
        found = other.__cuda_array_interface__
        address, own = found["data"]
        same = own == read_only and {**found, "data": None} == like
        return int(address or 0) if same else OTHER

    return read


_MAKERS = {"torch": _torch_reader, "cupy": _cupy_reader, "numba": _numba_reader}
