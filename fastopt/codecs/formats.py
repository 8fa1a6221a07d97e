"""The table of floating-point formats of arrays, and which formats are compatible."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np


class Format(NamedTuple):
    """A floating-point format; its name is also that of torch's dtype.

    Attributes
    ----------
    name : str
    itemsize : int
        Bytes an element.
    cut : int
        Bits of a float32 that are not kept.
    dlpack : int
        DLPack's code of its kind.
    mpi : str or None
        MPI's type for sums.
    """

    name: str
    itemsize: int
    cut: int
    dlpack: int
    mpi: str | None


FORMATS = {
    row.name: row
    for row in (
        Format("float16", 2, cut=13, dlpack=2, mpi="FLOAT16_T"),
        Format("bfloat16", 2, cut=16, dlpack=4, mpi=None),
        Format("float32", 4, cut=0, dlpack=2, mpi="FLOAT"),
        Format("float64", 8, cut=0, dlpack=2, mpi="DOUBLE"),
    )
}
NAMES = tuple(FORMATS)
SINGLE = tuple(name for name in NAMES if name != "float64")  # float32 represents all of their values


@lru_cache
def name_of(dtype: np.dtype[Any]) -> str | None:
    """The name of a dtype's format in any byte order, or None if it is not one of `FORMATS`."""
    name = dtype.newbyteorder("=").name
    return name if name in FORMATS else None


def compute_dtype(name: str) -> np.dtype[Any]:
    """The dtype of the arithmetic for parameters of a format: at least float32."""
    return np.dtype(np.float64 if name == "float64" else np.float32)


def outputs_of(dtype: np.dtype[Any]) -> tuple[str, ...]:
    """The formats in which new parameters of `dtype` can be written to a copy."""
    # float64 to 16 bits would be rounded twice.
    return ("float32", "float64") if dtype == np.float64 else NAMES


def partners_of(dtype: np.dtype[Any]) -> tuple[str, ...]:
    """The formats of gradients and states for parameters of `dtype`."""
    return ("float64",) if dtype == np.float64 else SINGLE


def listed(names: tuple[str, ...]) -> str:
    """Join names for an error: "float16, float32 or float64"."""
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))
