"""The floating-point formats that arrays can have: a row for each, and which go together."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np


class Format(NamedTuple):
    """One format. Its name is also that of torch's dtype.

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
    own.name: own
    for own in (
        Format("float16", 2, cut=13, dlpack=2, mpi="FLOAT16_T"),
        Format("bfloat16", 2, cut=16, dlpack=4, mpi=None),
        Format("float32", 4, cut=0, dlpack=2, mpi="FLOAT"),
        Format("float64", 8, cut=0, dlpack=2, mpi="DOUBLE"),
    )
}
NAMES = tuple(FORMATS)
SINGLE = tuple(name for name in NAMES if name != "float64")  # float32 holds all of their numbers


@lru_cache
def name_of(dtype: np.dtype[Any]) -> str | None:
    """The name of a floating-point format that can be computed with, in whatever byte order."""
    name = dtype.newbyteorder("=").name
    return name if name in FORMATS else None


def compute_dtype(name: str) -> np.dtype[Any]:
    """What parameters of a format are computed in: 16 bits are too few for arithmetic."""
    return np.dtype(np.float64 if name == "float64" else np.float32)


def outputs_of(dtype: np.dtype[Any]) -> tuple[str, ...]:
    """The formats in which new parameters of `dtype` can be written to a copy."""
    # float64 to 16 bits would be rounded twice.
    return ("float32", "float64") if dtype == np.float64 else NAMES


def partners_of(dtype: np.dtype[Any]) -> tuple[str, ...]:
    """The formats of gradients and states that go with parameters of `dtype`."""
    return ("float64",) if dtype == np.float64 else SINGLE


def listed(names: tuple[str, ...]) -> str:
    """For errors: "float16, float32 or float64"."""
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))
