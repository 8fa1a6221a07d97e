"""Arrays on a device, of whichever library, as the rest of fastopt sees them.

An array enters as a `DeviceArray`: its shape, dtype and address, with the names that NumPy has for
them, so that checks treat it like any other. The object that it came from stays with it.
Nothing here imports a CUDA library: what an array says of itself is enough. Other places than CUDA
say how their arrays enter when they register (`arrays.places`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import numpy as np

from fastopt.arrays import places
from fastopt.codecs.floats import floats

CUDA = "cuda"
LIBRARIES = "torch", "cupy", "numba"  # of which more is known than that there is an interface

CUDA_DEVICE = (2, 13)  # kinds of memory in DLPack: of a device, and managed


class DeviceArray:
    """What is known of an array in the memory of a device.

    Attributes
    ----------
    owner : object
        The user's array, which keeps the memory.
    address : int
        Where the first element is.
    stream : int or None
        On which the owner says that the content is produced.
    place : str
        As registered in `arrays.places`.
    """

    __slots__ = (
        "address",
        "dtype",
        "flags",
        "itemsize",
        "nbytes",
        "ndim",
        "owner",
        "place",
        "shape",
        "size",
        "stream",
    )

    def __init__(
        self,
        owner: Any,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        address: int,
        *,
        contiguous: bool = True,
        writeable: bool = True,
        stream: int | None = None,
        place: str = CUDA,
    ) -> None:
        self.owner, self.shape, self.dtype, self.address = owner, shape, dtype, address
        self.ndim, self.size, self.itemsize = len(shape), math.prod(shape), dtype.itemsize
        self.nbytes = self.size * self.itemsize
        aligned = address % _alignment(dtype) == 0
        self.flags = SimpleNamespace(c_contiguous=contiguous, aligned=aligned, writeable=writeable)
        self.stream, self.place = stream, place

    @property
    def strides(self) -> str:
        """For the message that the array is not contiguous."""
        return "that leave gaps"

    def as_dtype(self, dtype: np.dtype[Any]) -> DeviceArray:
        """The same memory, if it is in this dtype or its bits."""
        return DeviceArray(
            self.owner,
            self.shape,
            dtype,
            self.address,
            contiguous=self.flags.c_contiguous,
            writeable=self.flags.writeable,
            stream=self.stream,
            place=self.place,
        )

    def part(self, start: int, stop: int) -> DeviceArray:
        """The elements from `start` to `stop`, of all in a row."""
        address = self.address + start * self.itemsize if stop > start else 0
        writeable, shape = self.flags.writeable, (stop - start,)
        return DeviceArray(
            self.owner, shape, self.dtype, address, writeable=writeable, place=self.place
        )

    def __repr__(self) -> str:
        return f"<{self.dtype} {self.shape} on a device>"

    def __reduce__(self) -> Any:
        """A copy is of the owner's kind: how that is copied, its library says."""
        return _entered_again, (self.owner, self.dtype)


def _entered_again(owner: Any, dtype: np.dtype[Any]) -> Any:
    entered = enter("array", owner)
    return entered.as_dtype(dtype) if isinstance(entered, DeviceArray) else entered


def _alignment(dtype: np.dtype[Any]) -> int:
    """By what addresses must be divisible: the item size; of a record, that of its largest number."""
    own = [dtype[name].base.itemsize for name in dtype.names or ()]
    return max(own, default=dtype.itemsize)


def library_of(array: Any) -> str:
    """The package that an array comes from, which for subclasses is that of their base."""
    kind: Any = type(array)
    return _library_of(kind)


@cache
def _library_of(kind: type) -> str:
    own, *bases = (base.__module__.partition(".")[0] for base in kind.__mro__)
    return next((base for base in bases if base in LIBRARIES), own)


def interface(array: Any) -> dict[str, Any] | None:
    """The array's description of itself in the CUDA Array Interface, None if it has none."""
    if isinstance(array, np.ndarray):
        return None
    if library_of(array) == "torch":
        if not getattr(array, "is_cuda", False):
            return None
        array = array.detach()  # what requires a gradient refuses to be described
        if str(array.dtype) == "torch.bfloat16":  # which the interface does not know
            bits = array.view(import_module("torch").int16).__cuda_array_interface__
            return {**bits, "typestr": floats("bfloat16").dtype}
    found = getattr(array, "__cuda_array_interface__", None)
    if found is None and type(array).__name__ == "FakeCUDAArray":  # of Numba's simulator
        found = getattr(array, "__array_interface__", None)
    return found


def enter(name: str, array: Any) -> Any:
    """An array as it is used inside: one on a device as a `DeviceArray`, any other as it is."""
    if isinstance(array, np.ndarray):
        return array
    found = interface(array)
    if found is None:
        return _from_dlpack(name, array)
    if found.get("mask") is not None:
        raise TypeError(f"{name} must not have a mask: a step would ignore it")
    dtype, shape = _dtype_of(array, found["typestr"]), tuple(found["shape"])
    address, read_only = found["data"]
    return DeviceArray(
        array,
        shape,
        dtype,
        int(address or 0),
        contiguous=is_contiguous(shape, found.get("strides"), dtype.itemsize),
        writeable=not read_only,
        stream=found.get("stream"),
    )


def _dtype_of(array: Any, typestr: Any) -> np.dtype[Any]:
    """The dtype of an interface; of a record it only says the size, and the array knows the fields."""
    dtype: np.dtype[Any] = np.dtype(typestr)
    own: Any = getattr(array, "dtype", None)
    is_record = dtype.kind == "V" and isinstance(own, np.dtype) and own.itemsize == dtype.itemsize
    return np.dtype(own) if is_record else dtype


def _from_dlpack(name: str, array: Any) -> Any:
    where = getattr(array, "__dlpack_device__", None)
    if where is None or where()[0] not in CUDA_DEVICE:
        found = places.entered(name, array)
        return array if found is None else found
    cuda: Any = places.load(CUDA)
    shape, strides, dtype, address, read_only = cuda.describe_dlpack(array)
    gaps = strides and tuple(step * dtype.itemsize for step in strides)
    contiguous = is_contiguous(shape, gaps, dtype.itemsize)
    return DeviceArray(array, shape, dtype, address, contiguous=contiguous, writeable=not read_only)


def is_contiguous(shape: tuple[int, ...], strides: Any, itemsize: int) -> bool:
    """Whether elements follow each other in C order; `strides` in bytes, None says so."""
    expected = itemsize
    if strides is not None and 0 not in shape:
        for length, step in zip(reversed(shape), reversed(tuple(strides)), strict=True):
            if length > 1 and step != expected:
                return False
            expected *= length
    return True


def leave(array: Any) -> Any:
    """An array as the user knows it."""
    return array.owner if isinstance(array, DeviceArray) else array


def current_stream(array: Any) -> Callable[[], int] | None:
    """What tells the stream that the array's library works on by then, where it has one of its own.

    It does not hold the array: memory is to be free for others when its owner is done with it.
    """
    library = library_of(array)
    if library == "torch":
        torch, where = import_module("torch"), array.device
        return lambda: int(torch.cuda.current_stream(where).cuda_stream)
    if library == "cupy":
        cupy = import_module("cupy")
        return lambda: int(cupy.cuda.get_current_stream().ptr)
    return None
