"""Device arrays of any library, as the rest of fastopt sees them.

A device array is described by a `DeviceArray`: shape, dtype and address, under NumPy's names, so that
the checks treat it like any other array. It keeps a reference to the user's object. Nothing here
imports a CUDA library: the CUDA Array Interface and DLPack are enough. Places other than CUDA register
a function that describes their arrays (`arrays.places`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import cache
from importlib import import_module
from types import SimpleNamespace
from typing import Any, TypeAlias

import numpy as np

from fastopt.arrays import places
from fastopt.arrays.places import CUDA
from fastopt.codecs.base import Array, DType
from fastopt.codecs.floats import floats
from fastopt.codecs.formats import FORMATS

LIBRARIES = "torch", "cupy", "numba"  # whose streams or dtypes are known beyond the interface

CUDA_DEVICE = (2, 13)  # kinds of memory in DLPack: of a device, and managed


class DeviceArray:
    """Shape, dtype, address and owner of an array in device memory.

    Attributes
    ----------
    owner : object
        The user's array, which keeps the memory.
    address : int
        Of the first element.
    stream : int or None
        On which the owner says that the content is being produced.
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
        owner: object,
        shape: tuple[int, ...],
        dtype: DType,
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

    def as_dtype(self, dtype: DType) -> DeviceArray:
        """A view of the same memory with another dtype of the same size."""
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
        """A flat view of the elements from `start` to `stop`, in C order."""
        address = self.address + start * self.itemsize if stop > start else 0
        writeable, shape = self.flags.writeable, (stop - start,)
        return DeviceArray(
            self.owner, shape, self.dtype, address, writeable=writeable, place=self.place
        )

    def __repr__(self) -> str:
        return f"<{self.dtype} {self.shape} on a device>"

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, DType]]:
        """Pickle or copy the owner, as its library does, and describe the result again."""
        return _entered_again, (self.owner, self.dtype)


def _entered_again(owner: object, dtype: DType) -> object:
    entered = enter("array", owner)
    return entered.as_dtype(dtype) if isinstance(entered, DeviceArray) else entered


AnyArray: TypeAlias = Array | DeviceArray


def _alignment(dtype: DType) -> int:
    """The alignment in bytes: the item size, or for a record that of its largest field."""
    fields = [field[0].base.itemsize for field in (dtype.fields or {}).values()]
    return max(fields, default=dtype.itemsize)


def library_of(array: object) -> str:
    """The package that defines an array's type, or for a subclass that of its base."""
    kind: Any = type(array)  # which type checkers do not take for hashable
    return _library_of(kind)


@cache
def _library_of(kind: type) -> str:
    package, *bases = (base.__module__.partition(".")[0] for base in kind.__mro__)
    return next((base for base in bases if base in LIBRARIES), package)


def interface(array: Any) -> dict[str, Any] | None:
    """The array's CUDA Array Interface, None if it has none."""
    if isinstance(array, np.ndarray):
        return None
    if library_of(array) == "torch":
        if not getattr(array, "is_cuda", False):
            return None
        array = array.detach()  # tensors that require a gradient have no interface
        name = str(array.dtype).removeprefix("torch.")
        if name in FORMATS and (bits := FORMATS[name].bits):  # which the interface does not know
            integers = array.view(getattr(import_module("torch"), bits.name.removeprefix("u")))
            return {**integers.__cuda_array_interface__, "typestr": floats(name).dtype}
    described = getattr(array, "__cuda_array_interface__", None)
    if described is None and type(array).__name__ == "FakeCUDAArray":  # of Numba's simulator
        described = getattr(array, "__array_interface__", None)
    return described


def enter(name: str, array: object) -> object:
    """Describe a device array by a `DeviceArray`; return any other array unchanged."""
    if isinstance(array, np.ndarray):
        return array
    described = interface(array)
    if described is None:
        return _from_dlpack(name, array)
    if library_of(array) == "torch" and getattr(array, "is_neg", bool)():  # which no interface tells
        raise ValueError(f"{name} must have its signs in memory: take its resolve_neg()")
    if described.get("mask") is not None:
        raise TypeError(f"{name} must not have a mask: a step would ignore it")
    dtype, shape = _dtype_of(array, described["typestr"]), tuple(described["shape"])
    address, read_only = described["data"]
    return DeviceArray(
        array,
        shape,
        dtype,
        int(address or 0),
        contiguous=is_contiguous(shape, described.get("strides"), dtype.itemsize),
        writeable=not read_only,
        stream=described.get("stream"),
    )


def _dtype_of(array: object, typestr: Any) -> DType:
    """The dtype of an array; for a record, of which the interface gives the size only, the array's."""
    dtype: DType = np.dtype(typestr)
    full: object = getattr(array, "dtype", None)
    if dtype.kind == "V" and isinstance(full, np.dtype) and full.itemsize == dtype.itemsize:
        return full
    return dtype


def _from_dlpack(name: str, array: object) -> object:
    where = getattr(array, "__dlpack_device__", None)
    if where is None or where()[0] not in CUDA_DEVICE:
        entered = places.entered(name, array)
        return array if entered is None else entered
    cuda: Any = places.load(CUDA)
    shape, strides, dtype, address, read_only = cuda.describe_dlpack(array)
    in_bytes = strides and tuple(step * dtype.itemsize for step in strides)
    contiguous = is_contiguous(shape, in_bytes, dtype.itemsize)
    return DeviceArray(array, shape, dtype, address, contiguous=contiguous, writeable=not read_only)


def is_contiguous(shape: tuple[int, ...], strides: Iterable[int] | None, itemsize: int) -> bool:
    """Whether an array is C-contiguous; `strides` are in bytes, or None if it is."""
    expected = itemsize
    if strides is not None and 0 not in shape:
        for length, step in zip(reversed(shape), reversed(tuple(strides)), strict=True):
            if length > 1 and step != expected:
                return False
            expected *= length
    return True


def leave(array: object) -> Any:
    """The user's own array."""
    return array.owner if isinstance(array, DeviceArray) else array


def current_stream(array: Any) -> Callable[[], int] | None:
    """Return a function that gives the current stream of the array's library, None if it has none.

    The function does not keep the array alive, so that its memory can be freed.
    """
    library = library_of(array)
    if library == "torch":
        torch, where = import_module("torch"), array.device
        return lambda: int(torch.cuda.current_stream(where).cuda_stream)
    if library == "cupy":
        cupy = import_module("cupy")
        return lambda: int(cupy.cuda.get_current_stream().ptr)
    return None
