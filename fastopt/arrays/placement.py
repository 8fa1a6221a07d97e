"""Where arrays live, in memory or on a device, and what is done differently there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from fastopt.arrays import device_array
from fastopt.arrays.checks import Array
from fastopt.arrays.device_array import DeviceArray
from fastopt.arrays.places import Place, load
from fastopt.codecs.base import Codec
from fastopt.codecs.formats import name_of


def place_of(array: DeviceArray) -> Place:
    """Where an array on a device is."""
    return load(array.place)


def enter(name: str, array: Any) -> Any:
    """An array as it is used inside: one on a device as a `DeviceArray`, any other as it is.

    Raises
    ------
    RuntimeError
        It is on a device, and that cannot be used here.
    """
    entered = device_array.enter(name, array)
    if isinstance(entered, DeviceArray):
        place_of(entered)
    return entered


def enter_like(name: str, array: Any, own: Any) -> Any:
    """The same, for what is to have the dtype of another array.

    On a device bfloat16 shows as its bits, to libraries that do not know it.
    """
    entered = enter(name, array)
    if isinstance(entered, DeviceArray) and entered.dtype == np.uint16:
        return entered.as_dtype(own.dtype) if name_of(own.dtype) == "bfloat16" else entered
    return entered


def check_one_home(named: Iterable[tuple[str, Any]]) -> str | None:
    """See that all arrays are in memory, or all on one device; the name of its place, None in memory.

    Raises
    ------
    ValueError
        They are not. The message names one of each.
    """
    first: tuple[str, str] | None = None
    found: str | None = None
    for name, array in named:
        place = where(array)
        if first is None:
            first, found = (name, place), array.place if isinstance(array, DeviceArray) else None
        if place != first[1]:
            raise ValueError(
                f"{name} must be where {first[0]} is: it is {place}, and {first[0]} is {first[1]}"
            )
    return found


MEMORY = "in memory"


def where(array: Any) -> str:
    """The place of an array, for people."""
    if not isinstance(array, DeviceArray):
        return MEMORY
    return place_of(array).where(array)


def is_on_device(array: Any) -> bool:
    """Whether an array, as it is used inside, is on a device."""
    return isinstance(array, DeviceArray)


def new_state(param: Any, codec: Codec, value: float | str, folder: Any) -> Any:
    """A state beside a parameter on a device, filled with a number or with the parameter."""
    if folder is not None:
        raise ValueError("state_dir is for params in memory: states on a device are not in files")
    place = place_of(param)
    made = place.empty(param, codec.shape(param.shape), codec.dtype)
    if isinstance(value, str) and codec.dtype == param.dtype:
        copy(made, param)
    elif isinstance(value, str):  # an average of parameters in another format
        host = np.empty(made.shape, codec.dtype)
        codec.store(host, to_host(param))
        copy(made, host)
    else:
        item = np.empty(1, codec.dtype)
        codec.fill(item, value)
        place.repeat(made, item)
    return made


def part(array: Any, own: slice) -> Any:
    """A stretch of all elements in a row, in the same memory."""
    return array.part(own.start, own.stop) if isinstance(array, DeviceArray) else array.reshape(-1)[own]


def empty(like: Any, size: int, dtype: Any = None) -> Any:
    """A new flat array in the home of another, by default of its dtype; its content is undefined."""
    dtype = like.dtype if dtype is None else dtype
    if not isinstance(like, DeviceArray):
        return np.empty(size, dtype)
    return place_of(like).empty(like, (size,), dtype)


def clear(array: Any) -> None:
    """Fill with zeros; done when it returns."""
    if isinstance(array, DeviceArray):
        place_of(array).clear(array)
    else:
        array.fill(0)


def synchronize(array: Any) -> None:
    """Wait for all that the device of an array was given to do, if it is on one."""
    if isinstance(array, DeviceArray):
        place_of(array).synchronize(array)


def copy(target: Any, source: Any) -> None:
    """Copy all elements, from wherever to wherever; done when it returns."""
    if isinstance(target, DeviceArray):
        place_of(target).copy(target, source)
    else:
        target[...] = to_host(source)


def to_host(array: Any) -> Array:
    """The array itself if it is in memory, else a copy that is."""
    if not isinstance(array, DeviceArray):
        result: Array = array
        return result
    host = np.empty(array.shape, array.dtype)
    place_of(array).read(host, array)
    return host
