"""The interface of a place for arrays other than memory, such as CUDA, and the registry of places.

Nothing here depends on CUDA: `executors.places` registers a function that loads it when the first
device array is seen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from fastopt.arrays.device_array import DeviceArray
    from fastopt.codecs.base import Array, DType

CUDA = "cuda"  # the name of the place of CUDA's arrays


class Place(Protocol):
    """Operations on arrays of a place, each a `DeviceArray`; all of them are synchronous."""

    EXECUTORS: tuple[str, ...]
    """The executors that step arrays of this place."""

    def where(self, array: DeviceArray) -> str:
        """Where an array is, in words for messages."""

    def empty(self, like: DeviceArray, shape: tuple[int, ...], dtype: DType) -> DeviceArray:
        """A new uninitialized array on the device of another."""

    def repeat(self, target: DeviceArray, item: Array) -> None:
        """Fill an array with the same item, a NumPy array of one element."""

    def copy(self, target: DeviceArray, source: Array | DeviceArray) -> None:
        """Copy from an array of the same shape and dtype, in memory or on a device."""

    def read(self, host: Array, source: DeviceArray) -> None:
        """Copy an array of this place to one in memory."""

    def clear(self, array: DeviceArray) -> None:
        """Fill with zeros."""

    def synchronize(self, array: DeviceArray) -> None:
        """Wait until the device of an array has finished all its work."""


Loader = Callable[[], Place]
Enter: TypeAlias = Callable[[str, object], object]

_loaders: dict[str, Loader] = {}
_entrances: list[Enter] = []


def register(name: str, load: Loader, enter: Enter | None = None) -> None:
    """Register a place under a name.

    Parameters
    ----------
    name : str
        The ``DeviceArray.place`` of its arrays.
    load : callable
        Returns the place; raises RuntimeError if it cannot be used.
    enter : callable, optional
        ``enter(label, array)`` returns a `DeviceArray` for an array of this place, else None.
    """
    _loaders[name] = load
    if enter is not None:
        _entrances.append(enter)


def load(name: str) -> Place:
    """The place registered under a name.

    Raises
    ------
    RuntimeError
        It cannot be used here; the message says what is missing.
    """
    return _loaders[name]()


def entered(label: str, array: object) -> object:
    """The `DeviceArray` for an array that one of the registered places knows, else None."""
    for enter in _entrances:
        device_array = enter(label, array)
        if device_array is not None:
            return device_array
    return None
