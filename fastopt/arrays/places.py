"""The interface of a place for arrays other than memory, such as CUDA, and the registry of places.

Nothing here depends on CUDA: `executors.places` registers a function that loads it when the first
device array is seen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

CUDA = "cuda"  # the name of the place of CUDA's arrays


class Place(Protocol):
    """Operations on arrays of a place, each a `DeviceArray`; all of them are synchronous."""

    EXECUTORS: tuple[str, ...]
    """The executors that step arrays of this place."""

    def where(self, array: Any) -> str:
        """Where an array is, in words for messages."""

    def empty(self, like: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """A new uninitialized array on the device of another."""

    def repeat(self, target: Any, item: Any) -> None:
        """Fill an array with the same item, a NumPy array of one element."""

    def copy(self, target: Any, source: Any) -> None:
        """Copy from an array of the same shape and dtype, in memory or on a device."""

    def read(self, host: Any, source: Any) -> None:
        """Copy an array of this place to one in memory."""

    def clear(self, array: Any) -> None:
        """Fill with zeros."""

    def synchronize(self, array: Any) -> None:
        """Wait until the device of an array has finished all its work."""


Loader = Callable[[], Place]
Enter = Callable[[str, Any], Any]

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


def entered(label: str, array: Any) -> Any:
    """The `DeviceArray` for an array that one of the registered places knows, else None."""
    for enter in _entrances:
        device_array = enter(label, array)
        if device_array is not None:
            return device_array
    return None
