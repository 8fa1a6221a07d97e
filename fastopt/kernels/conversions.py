"""Conversions of LLVM values between the stored formats and the dtype of the arithmetic.

The formulas are those of `fastopt.codecs`.
"""

from __future__ import annotations

from typing import Any

from fastopt.codecs import floats, rounding
from fastopt.kernels.llvm_operations import DOUBLE, HALF, I16, I32, SINGLE, emitted
from fastopt.kernels.target import converts_float16, processor

# By name: Numba has neither float16 nor bfloat16 on the CPU. LLVM's bfloat is not llvmlite's: bits.
STORED = {"float16": HALF, "bfloat16": I16, "float32": SINGLE, "float64": DOUBLE}
WIDTHS = [HALF, SINGLE, DOUBLE]


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


def resize(builder: Any, number: Any, target: Any) -> Any:
    """Convert to another floating-point type, rounding to nearest, ties to even."""
    if number.type == target:
        return number
    narrower = WIDTHS.index(target) < WIDTHS.index(number.type)
    return builder.fptrunc(number, target) if narrower else builder.fpext(number, target)


def decode(builder: Any, stored: str, raw: Any, target: Any) -> Any:
    """Convert a loaded number to the type `target`."""
    number = emitted(builder, floats.from_bfloat16, raw) if stored == "bfloat16" else raw
    return resize(builder, number, target)


def encode(builder: Any, stored: str, number: Any, noise: Any) -> Any:
    """Convert a number to its stored format; `noise` is None or has the random bits to add."""
    if stored == "bfloat16":
        if noise is None:
            bits = emitted(builder, floats.nearest_bfloat16, number)
        else:
            bits = emitted(builder, floats.random_bfloat16, number, noise)
        return builder.trunc(bits, I16)
    if noise is not None and stored == "float16":
        number = emitted(builder, floats.float16_neighbour, number, noise)
    return resize(builder, number, STORED[stored])


def hashed(builder: Any, number: Any) -> Any:
    """A hash of 32 bits of an integer of 64."""
    return emitted(builder, rounding.mixed, builder.trunc(number, I32))
