"""Conversions of LLVM values between the stored formats and the dtype of the arithmetic.

The formulas are those of `fastopt.codecs`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from llvmlite import ir

from fastopt.codecs import rounding
from fastopt.codecs.formats import FORMATS
from fastopt.codecs.operations import Formula
from fastopt.kernels.llvm_operations import (
    DOUBLE,
    HALF,
    I16,
    I32,
    SINGLE,
    Emitted,
    LLVMOperations,
    emitted,
)
from fastopt.kernels.processor import processor
from fastopt.kernels.target import converts_float16

WIDTHS = {2: HALF, 4: SINGLE, 8: DOUBLE}  # by item size


def stored_type(name: str) -> ir.Type:
    """LLVM's type of what is stored: a float that it converts, or the bits."""
    itemsize = FORMATS[name].itemsize
    return ir.IntType(8 * itemsize) if FORMATS[name].bits else WIDTHS[itemsize]


def require_conversion(stored: str) -> None:
    """Check that the target processor converts a format: LLVM would end the process.

    Raises
    ------
    RuntimeError
        It does not.
    """
    if stored == "float16" and not converts_float16():
        raise RuntimeError(
            "float16 needs instructions that convert it (F16C on x86), and the processor that code is "
            f"compiled for, {processor()!r}, lacks them: use bfloat16 or float32 (or see whether "
            "NUMBA_CPU_NAME and NUMBA_CPU_FEATURES are what they should be)"
        )


def resize(builder: ir.IRBuilder, number: ir.Value, target: ir.Type) -> ir.Value:
    """Convert to another floating-point type, rounding to nearest, ties to even."""
    if number.type == target:
        return number
    widths = list(WIDTHS.values())
    narrower = widths.index(target) < widths.index(number.type)
    return builder.fptrunc(number, target) if narrower else builder.fpext(number, target)


def decode(builder: ir.IRBuilder, stored: str, raw: ir.Value, target: ir.Type) -> ir.Value:
    """Convert a loaded number to the type `target`."""
    convert = FORMATS[stored].number
    return resize(builder, emitted(builder, convert, raw) if convert else raw, target)


def encode(
    builder: ir.IRBuilder, stored: str, number: ir.Value, noise: ir.Value | None, quiet: bool = False
) -> ir.Value:
    """Convert a number to its stored format; `noise` is None or has the random bits to add.

    `quiet` says that every NaN is a quiet one of the format, which has formulas for that.
    """
    row, kind = FORMATS[stored], stored_type(stored)
    nearest, stochastic = row.nearest, row.stochastic
    if quiet:
        nearest, stochastic = row.quiet_nearest, row.quiet_stochastic
    if nearest:
        number = resize(builder, number, SINGLE)
    if stochastic and noise is not None:
        number = emitted(builder, stochastic, number, noise)
    elif nearest:
        number = emitted(builder, nearest, number)
    return builder.trunc(number, kind) if row.bits else resize(builder, number, kind)


def join(builder: ir.IRBuilder, stored: str, parts: Sequence[ir.Value], width: int) -> ir.Value:
    """The float32 of a 16-bit number, given by its bits, and its correction of this width."""
    formula = FORMATS[stored].join
    assert formula is not None
    return emitted(builder, partial(_with_width, formula, width), *parts)


def divide(builder: ir.IRBuilder, stored: str, number: ir.Value, width: int) -> list[ir.Value]:
    """The bits of a 16-bit number and of its correction, from a float32."""
    formula = FORMATS[stored].divide
    assert formula is not None
    parts = emitted(builder, partial(_with_width, formula, width), number)
    kinds = I16, ir.IntType(width)
    return [builder.trunc(part, kind) for part, kind in zip(parts, kinds, strict=True)]


def _with_width(formula: Formula, width: int, o: LLVMOperations, *values: Emitted) -> Any:
    return formula(o, *values, width)


def hashed(builder: ir.IRBuilder, number: ir.Value) -> ir.Value:
    """A hash of 32 bits of an integer of 64."""
    return emitted(builder, rounding.mixed, builder.trunc(number, I32))
