"""The table of floating-point formats of arrays, and which formats are compatible."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from fastopt.codecs import half_precision, split
from fastopt.codecs.base import DType, FloatDType
from fastopt.codecs.operations import Formula


class Format(NamedTuple):
    """A floating-point format: a row of the table is all that fastopt knows of one.

    NumPy and the compiler convert the format themselves, or it is stored as bits that formulas over
    `codecs.operations` convert; then its dtype is one of ml_dtypes.

    Attributes
    ----------
    name : str
        That of its dtype, in NumPy or ml_dtypes and in torch.
    itemsize : int
        Bytes an element.
    dlpack : int
        DLPack's code of its kind.
    mpi : str or None
        MPI's type for sums, None if it has none.
    cut : int
        Bits of a float32 that are not kept, which stochastic rounding replaces by noise.
    number : function or None
        ``number(o, bits)``: the stored bits as a float32.
    nearest : function or None
        ``nearest(o, number)``: the stored bits of the number nearest to a float32, ties to even.
    stochastic : function or None
        ``stochastic(o, number, noise)``: a float32 as the bits of one of its two neighbours, with
        `cut` bits of noise; as a float32 where `nearest` is None.
    quiet_nearest, quiet_stochastic : function or None
        The same with fewer instructions, where every NaN is quiet and a number of the format.
    join, divide : function or None
        With 16 bits: how a wider number is kept in two arrays, see `codecs.split`.
    """

    name: str
    itemsize: int
    dlpack: int
    mpi: str | None = None
    cut: int = 0
    number: Formula | None = None
    nearest: Formula | None = None
    stochastic: Formula | None = None
    quiet_nearest: Formula | None = None
    quiet_stochastic: Formula | None = None
    join: Formula | None = None
    divide: Formula | None = None

    @property
    def formulas(self) -> tuple[Formula, ...]:
        rounding = self.nearest, self.stochastic, self.quiet_nearest, self.quiet_stochastic
        return tuple(filter(None, (self.number, *rounding, self.join, self.divide)))

    @property
    def bits(self) -> DType | None:
        """The dtype of the stored bits, None if NumPy knows the format itself."""
        return np.dtype(f"uint{8 * self.itemsize}") if self.number else None


FORMATS: dict[str, Format] = {}  # in the order of their numbers in compiled code


def register(row: Format) -> None:
    """Add a format, before the first array of it is used.

    Raises
    ------
    ValueError
        There is another one of this name, or formulas are missing or not for its size.
    """
    if (row.number is None) != (row.nearest is None) or (row.cut > 0) != (row.stochastic is not None):
        raise ValueError(f"{row.name} must have number with nearest, and cut with stochastic")
    if (row.join is None) != (row.divide is None) or (row.join is not None and row.itemsize != 2):
        raise ValueError(f"{row.name} must have join with divide, and 16 bits for them")
    if FORMATS.setdefault(row.name, row) != row:
        raise ValueError(f"there is another format with the name {row.name}")
    name_of.cache_clear()


@lru_cache
def name_of(dtype: DType) -> str | None:
    """The name of a dtype's format in any byte order, or None if it is not one of `FORMATS`."""
    name = dtype.newbyteorder("=").name
    return name if name in FORMATS else None


def bits_of(dtype: DType) -> DType:
    """The dtype of stored elements: integers for formats that NumPy itself does not know."""
    name = name_of(dtype)
    bits = FORMATS[name].bits if name else None
    return dtype if bits is None else bits


def number_of(name: str) -> int:
    """The number of a format in compiled code."""
    return list(FORMATS).index(name)


@lru_cache
def compute_dtype(name: str) -> FloatDType:
    """The dtype of the arithmetic for parameters of a format: at least float32."""
    return np.dtype(np.float64) if name == "float64" else np.dtype(np.float32)


def outputs_of(dtype: DType) -> tuple[str, ...]:
    """The formats in which new parameters of `dtype` can be written to a copy."""
    # float64 to 16 bits would be rounded twice.
    return ("float32", "float64") if dtype == np.float64 else tuple(FORMATS)


def partners_of(dtype: DType) -> tuple[str, ...]:
    """The formats of gradients and states for parameters of `dtype`: float32 has all their values."""
    if dtype == np.float64:
        return ("float64",)
    return tuple(name for name in FORMATS if name != "float64")


for _row in (
    Format(
        "float16",
        2,
        dlpack=2,
        mpi="FLOAT16_T",
        cut=half_precision.FLOAT16_CUT,
        stochastic=half_precision.float16_neighbour,
        join=split.join_float16,
        divide=split.divide_float16,
    ),
    Format(
        "bfloat16",
        2,
        dlpack=4,
        cut=half_precision.BFLOAT16_CUT,
        number=half_precision.from_bfloat16,
        nearest=half_precision.nearest_bfloat16,
        stochastic=half_precision.random_bfloat16,
        quiet_nearest=half_precision.quiet_nearest_bfloat16,
        quiet_stochastic=half_precision.quiet_random_bfloat16,
        join=split.join_bfloat16,
        divide=split.divide_bfloat16,
    ),
    Format("float32", 4, dlpack=2, mpi="FLOAT"),
    Format("float64", 8, dlpack=2, mpi="DOUBLE"),
):
    register(_row)
