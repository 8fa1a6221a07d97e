"""The interface of a place that arrays can be in beside memory, and which one there is.

Nothing here knows CUDA: `executors.places` registers how its place is loaded, when the first array
on a device comes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np


class Place(Protocol):
    """What is done with arrays on a device. All is done when a function returns."""

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

    def describe_dlpack(self, array: Any) -> tuple[Any, Any, Any, int, bool]:
        """Shape, strides in elements, dtype, address and whether it is read-only, of a DLPack array."""


_loaders: list[Callable[[], Place]] = []


def register(load: Callable[[], Place]) -> None:
    """Say how the place of arrays on a device is loaded; `load` raises RuntimeError if it cannot be."""
    _loaders[:] = [load]


def device_place() -> Place:
    """The place of arrays on a device.

    Raises
    ------
    RuntimeError
        It cannot be used here; the message says what is missing.
    """
    (load,) = _loaders
    return load()
