"""The interface of a place that arrays can be in beside memory, and which places there are.

Nothing here knows CUDA: `executors.places` registers how its place is loaded, when the first array
on a device comes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np


class Place(Protocol):
    """What is done with arrays on a device, each a `DeviceArray`; done when a function returns."""

    EXECUTORS: tuple[str, ...]
    """Which ones step there."""

    def where(self, array: Any) -> str:
        """The place of an array, for people."""

    def empty(self, like: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """A new array on the device of another; its content is undefined."""

    def repeat(self, target: Any, item: Any) -> None:
        """Fill an array with the same item, a NumPy array of one element."""

    def copy(self, target: Any, source: Any) -> None:
        """Copy from an array of the same shape and dtype, in memory or on a device."""

    def read(self, host: Any, source: Any) -> None:
        """Fill an array in memory."""

    def clear(self, array: Any) -> None:
        """Fill with zeros."""

    def synchronize(self, array: Any) -> None:
        """Wait for all that the device of an array was given to do."""


Loader = Callable[[], Place]
Enter = Callable[[str, Any], Any]

_loaders: dict[str, Loader] = {}
_entrances: list[Enter] = []


def register(name: str, load: Loader, enter: Enter | None = None) -> None:
    """Make a place known.

    Parameters
    ----------
    name : str
        What arrays there have as ``DeviceArray.place``.
    load : callable
        Gives the place; raises RuntimeError if it cannot be used.
    enter : callable, optional
        ``enter(label, array)`` gives a `DeviceArray` for an array of the place's own, else None.
    """
    _loaders[name] = load
    if enter is not None:
        _entrances.append(enter)


def load(name: str) -> Place:
    """The place of this name.

    Raises
    ------
    RuntimeError
        It cannot be used here; the message says what is missing.
    """
    return _loaders[name]()


def entered(label: str, array: Any) -> Any:
    """A `DeviceArray` for an array of one of the registered places, else None."""
    for enter in _entrances:
        found = enter(label, array)
        if found is not None:
            return found
    return None
