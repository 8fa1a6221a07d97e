"""The headers of the caller's arrays, as they were when the optimizer was built.

An array object can be changed later: resized, which frees its memory, given another shape or dtype, or
made read-only. Compiled code uses addresses, so each step first checks that the headers are unchanged:
in machine code (`executors.cpu.header_check`), and here to raise the error where they differ.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fastopt.arrays import checks
from fastopt.arrays.checks import Array
from fastopt.arrays.object_layout import ALIGNED, CONTIGUOUS, WRITEABLE

# The words of a header, as compiled code reads them; the lengths of the dimensions follow.
(
    OBJECT,  # address of the array object
    DATA,  # address of the first element
    DTYPE,  # address of the dtype object
    FLAGS,  # that it must have
    NDIM,
) = range(LENGTHS := 5)


class Header(NamedTuple):
    """An array, and the content of its header."""

    name: str  # for errors
    array: Array
    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    flags: int
    is_base: bool  # only its memory matters: an array is a view of it

    def check(self) -> None:
        """Raise ValueError if the array's header has changed."""
        name, array = self.name, self.array
        if self.is_base:
            if checks.address(array) != self.address or array.nbytes < self._nbytes:
                raise ValueError(f"{name} must keep its memory, but was resized")
            return
        checks.check_kept(name, array, self, bool(self.flags & WRITEABLE), "was resized")

    @property
    def _nbytes(self) -> int:
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def words(self) -> list[int]:
        """The header as integers, for compiled code."""
        head = [id(self.array), self.address, id(self.dtype), self.flags, len(self.shape)]
        return [*head, *self.shape]


def headers_of(name: str, array: Array, written: bool) -> list[Header]:
    """The header of an array, and for a view that of the array that owns the memory."""
    flags = CONTIGUOUS | ALIGNED | (WRITEABLE if written else 0)
    headers = [Header(name, array, checks.address(array), array.shape, array.dtype, flags, False)]
    base: object = array.base
    while isinstance(base, memoryview) or (isinstance(base, np.ndarray) and not base.flags.owndata):
        base = base.obj if isinstance(base, memoryview) else base.base
    if isinstance(base, np.ndarray):
        shown = f"the array that {name} is a view of"
        headers.append(Header(shown, base, checks.address(base), base.shape, base.dtype, 0, True))
    return headers
