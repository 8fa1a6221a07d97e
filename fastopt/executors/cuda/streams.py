"""The handles of CUDA streams of any library."""

from __future__ import annotations

from collections.abc import Callable
from typing import SupportsInt

from fastopt.arrays.device_array import DeviceArray, current_stream

ACCEPTED = (
    "a stream of Numba, CuPy, torch or cuda.core, an object with __cuda_stream__, or a handle "
    "as a whole number"
)


def handle(stream: object) -> int:
    """The handle of a caller's stream.

    Raises
    ------
    TypeError
        It is none.
    """
    if isinstance(stream, int) and not isinstance(stream, bool):
        return stream
    protocol = getattr(stream, "__cuda_stream__", None)
    if protocol is not None:
        return int((protocol() if callable(protocol) else protocol)[1])
    for name in ("cuda_stream", "ptr", "handle"):  # torch, CuPy, Numba before that protocol
        address = getattr(stream, name, None)
        if isinstance(address, SupportsInt):
            return int(address)
    raise TypeError(f"stream must be {ACCEPTED}, not {stream!r}")


def default(gradient: DeviceArray | None) -> Callable[[], int]:
    """Return a function that gives the stream of steps without an explicit one.

    What the library of the gradients works on now; else the stream on which the gradients say that
    they are produced; else the default stream.
    """
    if gradient is None:
        return lambda: 0
    named = int(gradient.stream or 0)
    return current_stream(gradient.owner) or (lambda: named)
