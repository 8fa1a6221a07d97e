"""Names that numba-cuda uses of NumPy and the newest NumPy no longer has."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from fastopt.codecs.base import Array

_LOCK = threading.RLock()


def row_stack(arrays: Sequence[Array]) -> Array:
    """Stand in for ``numpy.row_stack``: NumPy 2.5 removed it, and numba-cuda 0.30.4 registers it.

    A function of its own: ``numpy.vstack`` itself would be registered twice.
    """
    return np.vstack(arrays)


@contextmanager
def older_numpy() -> Iterator[None]:
    """Give NumPy, for as long as numba-cuda's modules are imported, the names that they refer to.

    Deprecations are ignored meanwhile: what numba-cuda's modules do when imported is not the user's
    fault, and where warnings are errors CUDA could not be used.
    """
    # One thread must not remove the name while another one's import needs it.
    with _LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        is_missing = not hasattr(np, row_stack.__name__)
        if is_missing:
            setattr(np, row_stack.__name__, row_stack)
        try:
            yield
        finally:
            if is_missing:
                delattr(np, row_stack.__name__)
