"""Arrays of what was unpickled: those in the memory of files and of other buffers are copied."""

from __future__ import annotations

from operator import is_
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def owned(value: Any) -> Any:
    """The same lists, tuples and dicts, with copies of arrays that are read-only or views of a file.

    Unpickled arrays can be views of a file (``joblib.load(..., mmap_mode=...)``) or of buffers that
    were handed over (protocol 5). What needs no copy stays the same object.
    """
    if isinstance(value, np.ndarray):
        return np.array(value, order="C") if _is_foreign(value) else value
    if type(value) in (list, tuple):
        items = [owned(item) for item in value]
        return value if all(map(is_, items, value)) else type(value)(items)
    if type(value) is dict:
        items = [owned(item) for item in value.values()]
        if all(map(is_, items, value.values())):
            return value
        return dict(zip(value, items, strict=True))
    return value


def _is_foreign(array: NDArray[np.generic]) -> bool:
    """Whether the memory may be someone else's; unpickling makes NumPy's own, bytes or bytearrays."""
    if not (array.flags.writeable and array.flags.aligned):
        return True
    base: object = array.base
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, memoryview):
        base = base.obj
    return base is not None and not isinstance(base, (bytes, bytearray))
