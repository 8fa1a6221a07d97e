"""Operations on arrays that are in memory or on a device: allocate, copy, fill, synchronize."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastopt.arrays import device_array
from fastopt.arrays.checks import Array
from fastopt.arrays.device_array import AnyArray, DeviceArray
from fastopt.arrays.places import Place, load
from fastopt.codecs.base import Codec, DType, flat
from fastopt.codecs.formats import bits_of


def place_of(array: DeviceArray) -> Place:
    """The place of an array on a device."""
    return load(array.place)


def enter(name: str, array: object) -> Any:
    """Describe a device array by a `DeviceArray`; return any other array unchanged.

    Raises
    ------
    RuntimeError
        It is on a device, and that cannot be used here.
    """
    entered = device_array.enter(name, array)
    if isinstance(entered, DeviceArray):
        place_of(entered)
    return entered


def enter_like(name: str, array: object, like: AnyArray) -> Any:
    """As `enter`, for an array that must have the dtype of `like`.

    Libraries describe formats that they lack, such as bfloat16, as integers.
    """
    entered = enter(name, array)
    if isinstance(entered, DeviceArray) and entered.dtype.kind == "u":
        return entered.as_dtype(like.dtype) if entered.dtype == bits_of(like.dtype) else entered
    return entered


def check_one_place(named: Sequence[tuple[str, Any]]) -> str | None:
    """Check that all arrays are in memory or on one device; return the name of its place, or None.

    Raises
    ------
    ValueError
        They are not; the message names two that differ.
    """
    if not any(isinstance(array, DeviceArray) for _, array in named):
        return None
    first: tuple[str, str] | None = None
    common: str | None = None
    for name, array in sorted(named, key=lambda pair: _is_anywhere(pair[1])):
        if first is not None and _is_anywhere(array) and array.place == common:
            continue
        place = where(array)
        if first is None:
            first, common = (name, place), array.place if isinstance(array, DeviceArray) else None
        if place != first[1]:
            raise ValueError(
                f"{name} must be where {first[0]} is: it is {place}, and {first[0]} is {first[1]}"
            )
    return common


def _is_anywhere(array: object) -> bool:
    """Whether an array is on any device of its place: without elements it has no memory."""
    return isinstance(array, DeviceArray) and not array.size


MEMORY = "in memory"


def where(array: object) -> str:
    """Where an array is, in words for messages."""
    if not isinstance(array, DeviceArray):
        return MEMORY
    return place_of(array).where(array)


def is_on_device(array: object) -> bool:
    """Whether an array that was entered is on a device."""
    return isinstance(array, DeviceArray)


def new_state(
    param: DeviceArray, codec: Codec, start: float | Array | DeviceArray, folder: object
) -> DeviceArray:
    """A new state on the device of a parameter, filled with a number or with those of an array."""
    if folder is not None:
        raise ValueError("state_dir is for params in memory: states on a device are not in files")
    place = place_of(param)
    state = place.empty(param, codec.shape(param.shape), codec.dtype)
    if isinstance(start, DeviceArray) and codec.dtype == start.dtype:
        copy(state, start)
    elif isinstance(start, (DeviceArray, np.ndarray)):  # numbers in another format
        host = np.empty(state.shape, codec.dtype)
        codec.store(host, to_host(start))
        copy(state, host)
    else:
        item = np.empty(1, codec.dtype)
        codec.fill(item, start)
        place.repeat(state, item)
    return state


def part(array: AnyArray, span: slice) -> Any:
    """A flat view of the elements in a slice, in C order."""
    if isinstance(array, DeviceArray):
        return array.part(span.start, span.stop)
    return flat(array)[span]


def empty(like: AnyArray, size: int, dtype: DType | None = None) -> AnyArray:
    """A new uninitialized flat array where another is, by default of its dtype."""
    dtype = like.dtype if dtype is None else dtype
    if not isinstance(like, DeviceArray):
        return np.empty(size, dtype)
    return place_of(like).empty(like, (size,), dtype)


def clear(array: AnyArray) -> None:
    """Fill with zeros, and wait until that is done."""
    if isinstance(array, DeviceArray):
        place_of(array).clear(array)
    else:
        array.fill(0)


def synchronize(array: object) -> None:
    """Wait until the device of an array, if it is on one, has finished all its work."""
    if isinstance(array, DeviceArray):
        place_of(array).synchronize(array)


def copy(target: AnyArray, source: AnyArray) -> None:
    """Copy all elements between memory and devices, and wait until that is done."""
    if isinstance(target, DeviceArray):
        place_of(target).copy(target, source)
    else:
        target[...] = to_host(source)


def to_host(array: AnyArray) -> Array:
    """The array itself if it is in memory, else a copy in memory."""
    if not isinstance(array, DeviceArray):
        result: Array = array
        return result
    host = np.empty(array.shape, array.dtype)
    place_of(array).read(host, array)
    return host
