"""Checks on arrays: what fastopt accepts, and errors that say what came instead."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any, TypeAlias

import numpy as np

from fastopt.arrays.device_array import AnyArray, DeviceArray
from fastopt.arrays.object_layout import data_address
from fastopt.arrays.tree import plain
from fastopt.codecs.base import Array as Array
from fastopt.codecs.base import DType
from fastopt.codecs.formats import FORMATS, name_of, partners_of
from fastopt.text import listed

Range: TypeAlias = tuple[int, int, str]


def address(array: object) -> int:
    """The address of the first element."""
    if isinstance(array, DeviceArray):
        return array.address
    return data_address(array)


def memory_range(name: str, array: AnyArray) -> Range:
    """An array's first address, the address after its end, and its name."""
    start = address(array)
    return start, start + array.nbytes, name


def loaded(module: str, name: str) -> Any:
    """An attribute of a module if that is imported, else None.

    For modules that take long to import: without one, no object of its types exists. Another thread
    may be importing it at this moment, so the attribute can be missing.
    """
    return getattr(sys.modules.get(module), name, None)


def is_masked(array: object) -> bool:
    """Whether this is a masked array of NumPy."""
    masked = loaded("numpy.ma", "MaskedArray")
    return masked is not None and isinstance(array, masked)


def check_kind(name: str, array: object) -> None:
    if is_masked(array):
        raise TypeError(f"{name} must not be a masked array: a step would ignore the mask")
    if not isinstance(array, (np.ndarray, DeviceArray)):
        kind = type(plain(array)).__name__  # "list" of whatever is shown as one
        raise TypeError(f"{name} must be a NumPy array, not {kind}{_instead(array)}")


def _instead(value: object) -> str:
    """A hint for the error: how to get an array from a value that is none."""
    if isinstance(value, Iterator):
        return (
            ": make a list of it; for model.parameters() of PyTorch, "
            "fastopt.interop.torch has optimizers"
        )
    for module, name in (("torch", "Tensor"), ("torch.nn", "Module")):
        kind = loaded(module, name)
        if kind is not None and isinstance(value, kind):
            return (
                ": tensor.numpy() shares the memory of a tensor on the CPU, and fastopt.interop.torch "
                "has optimizers for PyTorch's models and tensors"
            )
    if hasattr(value, "__array__"):
        return ": pass it through numpy.asarray"
    return ""


def _cast(array: AnyArray, dtype: str | DType) -> str:
    """A hint for the error: how to cast the array, if a cast is possible."""
    return f"; .astype({name_of(np.dtype(dtype))!r}) makes it so" if array.dtype.kind in "biuf" else ""


def check_memory(name: str, array: AnyArray) -> None:
    """Check for native byte order, C order and alignment, which compiled code relies on."""
    if not array.dtype.isnative:
        raise ValueError(f"{name} must be in native byte order, not {array.dtype.str!r}")
    if not array.flags.c_contiguous:
        raise ValueError(
            f"{name} must be C-contiguous, got shape {array.shape} with strides {array.strides}; "
            "numpy.ascontiguousarray makes a copy that is"
        )
    if not array.flags.aligned:
        raise ValueError(f"{name} must be aligned to its item size of {array.itemsize} bytes")


def check_readable(name: str, array: AnyArray, formats: Collection[str] = FORMATS) -> None:
    """Check that compiled code can read an array by its address."""
    check_kind(name, array)
    if name_of(array.dtype) not in formats:
        raise TypeError(f"{name} must be {listed(formats)}, not {array.dtype}{_cast(array, 'float64')}")
    check_memory(name, array)


def check_writeable(name: str, array: AnyArray, formats: Collection[str] = FORMATS) -> None:
    """Check a parameter, or another array that the step writes."""
    check_readable(name, array, formats)
    check_is_written(name, array)


def check_is_written(name: str, array: AnyArray) -> None:
    """Check that an array is writeable."""
    if not array.flags.writeable:
        raise ValueError(f"{name} must be writeable: it is read-only, and is written in place")


def check_kept(name: str, array: AnyArray, kept: Any, written: bool, moved: str) -> None:
    """Check that an array is as it was: `kept` has its address, shape and dtype of then.

    Raises
    ------
    ValueError
        It is not; `moved` says what has happened to it if it is elsewhere.
    """
    for what in "shape", "dtype":
        noted, now = getattr(kept, what), getattr(array, what)
        if now != noted:
            raise ValueError(f"{name} must keep the {what} {noted} that it had, got {now}")
    if address(array) != kept.address:
        raise ValueError(f"{name} must keep its memory, but {moved}")
    check_memory(name, array)
    if written:
        check_is_written(name, array)


def check_shape(name: str, array: AnyArray, param: AnyArray) -> None:
    """Check for the shape of the parameter."""
    if array.shape != param.shape:
        raise ValueError(f"{name} must have the parameter's shape {param.shape}, got {array.shape}")


def check_rows(name: str, rows: Any, param: AnyArray) -> Array:
    """Check indices of rows of `param`, and return them as a copy in int64."""
    check_kind(name, rows)
    if param.ndim == 0:
        raise ValueError(f"{name} must be for a parameter that has rows, but its shape is ()")
    if rows.dtype.kind not in "iu" or rows.ndim != 1:
        raise TypeError(
            f"{name} must be a one-dimensional array of whole numbers, "
            f"not {rows.dtype} with shape {rows.shape}"
        )
    count, rows = param.shape[0], np.array(rows)  # a copy first: another thread may change it
    if rows.size and (rows.min() < 0 or rows.max() >= count):
        raise ValueError(
            f"{name} must be from 0 to {count - 1}, got {rows.min()} to {rows.max()}: "
            f"the parameter has {count} rows"
        )
    indices: Array = rows.astype(np.int64, copy=False)
    return indices


def check_values(name: str, array: AnyArray, param: AnyArray, rows: int) -> None:
    """Check the gradients of this number of rows of `param`."""
    check_kind(name, array)
    shape = rows, *param.shape[1:]
    if array.shape != shape:
        raise ValueError(f"{name} must have the shape {shape}, for {rows} rows, got {array.shape}")
    _check_compatible(name, array, param)
    check_memory(name, array)


def check_like(name: str, array: AnyArray, param: AnyArray) -> None:
    """Check for the shape and dtype of the parameter."""
    check_shape(name, array, param)
    if array.dtype.newbyteorder("=") != param.dtype:
        raise TypeError(f"{name} must have the parameter's dtype {param.dtype}, not {array.dtype}")


def check_input(name: str, array: AnyArray, param: AnyArray) -> None:
    """Check an input array: only read, of the parameter's shape and dtype."""
    check_kind(name, array)
    check_like(name, array, param)
    check_memory(name, array)


def check_stored(name: str, array: AnyArray, shape: tuple[int, ...], dtype: DType) -> None:
    """Check an array that the caller provides for a state, of the codec's shape and dtype."""
    check_kind(name, array)
    if array.shape != shape:
        raise ValueError(f"{name} must have the shape {shape}, got {array.shape}")
    if array.dtype.newbyteorder("=") != dtype:
        raise TypeError(f"{name} must have the dtype {dtype}, not {array.dtype}")
    check_memory(name, array)
    check_is_written(name, array)


def check_gradient(name: str, grad: AnyArray, param: AnyArray) -> None:
    """Check a gradient for `param`: only read, of the same shape and a compatible dtype."""
    check_kind(name, grad)
    check_shape(name, grad, param)
    _check_compatible(name, grad, param)
    check_memory(name, grad)
    if grad.size and not address(grad):
        raise freed(name)


def freed(name: str) -> ValueError:
    """The error about an array whose address is 0 although it has elements."""
    return ValueError(f"{name} must have memory, and its memory was freed: the address is 0")


def _check_compatible(name: str, grad: AnyArray, param: AnyArray) -> None:
    formats = partners_of(param.dtype)
    if name_of(grad.dtype) not in formats:
        raise TypeError(
            f"{name} must have dtype {listed(formats)} for a parameter of {param.dtype}, "
            f"not {grad.dtype}{_cast(grad, param.dtype)}"
        )


def check_distinct(ranges: Iterable[Range]) -> None:
    """Check that no two written arrays share memory."""
    ordered = sorted(r for r in ranges if r[0] < r[1])
    for (_, stop, name), (start, _, other) in pairwise(ordered):
        if start < stop:
            raise ValueError(f"{name} and {other} must not share memory: one step would write it twice")


def overlaps(start: int, stop: int, starts: Sequence[int], stops: Sequence[int]) -> bool:
    """Whether memory from `start` to `stop` overlaps one of the spans, whose starts and stops ascend.

    The only overlap rule: Numba compiles it for the checks of every step.
    """
    # By bisection: the first span that ends after `start` must not begin before `stop`. Not by NumPy's
    # searchsorted, since Numba's version of it makes a new process import scipy.linalg.
    low, high = 0, len(stops)
    while low < high:
        middle = (low + high) // 2
        if stops[middle] > start:
            high = middle
        else:
            low = middle + 1
    return start < stop and low < len(stops) and starts[low] < stop


class Guarded:
    """Memory ranges that other arrays must not overlap, with names for errors.

    Parameters
    ----------
    ranges : iterable of Range

    Attributes
    ----------
    starts, stops : list of int
        Of all ranges that are not empty, for `overlaps`.
    """

    def __init__(self, ranges: Iterable[Range]) -> None:
        self._ranges = [(start, stop, name) for start, stop, name in ranges if start < stop]
        spans = sorted((start, stop) for start, stop, _ in self._ranges)
        self.starts = [start for start, _ in spans]
        # Arrays that are only read may overlap: let the stops ascend too, for the bisection.
        self.stops = list(accumulate((stop for _, stop in spans), max))

    def meets(self, start: int, stop: int) -> bool:
        """Whether memory from `start` to `stop` overlaps one of the ranges."""
        return overlaps(start, stop, self.starts, self.stops)

    def check_apart(self, name: str, array: AnyArray) -> None:
        """Check that an array overlaps none of the ranges."""
        start, stop, _ = memory_range(name, array)
        if self.meets(start, stop):
            other = next(
                label for first, end, label in self._ranges if overlaps(start, stop, [first], [end])
            )
            raise ValueError(f"{name} must not share memory with {other}: a step writes one of them")
