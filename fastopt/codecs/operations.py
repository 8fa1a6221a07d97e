"""The arithmetic that the formulas of codecs are written in.

A formula takes a library of operations, `o`, and values that know Python's operators: integers of
32 bits that wrap around (``+ - * & | ^ <<``, and ``>>`` that keeps the sign), float32 (``+ -``) and
8-bit codes without a sign, all with comparisons. A Python int beside them is an integer, a Python float
a float32. So one text computes arrays with `NUMPY` and emits instructions with
`kernels.llvm_operations`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Protocol, TypeAlias, TypeVar, cast

import numpy as np

Value: TypeAlias = Any  # an array, or a value of the compiler's: what a library computes with
Formula: TypeAlias = Callable[..., Value]
F = TypeVar("F", bound=Formula)


class Operations(Protocol):
    """The operations that a formula uses besides Python's operators."""

    def where(self, condition: Value, one: Value, other: Value) -> Value:
        """`one` where the condition holds, else `other`."""

    def minimum(self, one: Value, other: Value) -> Value:
        """The smaller of two integers."""

    def maximum(self, one: Value, other: Value) -> Value:
        """The larger of two integers."""

    def as_bits(self, number: Value) -> Value:
        """The bits of a float32 as an integer."""

    def as_float(self, bits: Value) -> Value:
        """The float32 that has these bits."""

    def shift_in_zeros(self, bits: Value, count: int) -> Value:
        """Shift right, filling with zeros."""

    def is_nan(self, number: Value) -> Value:
        """Whether a float32 is NaN."""

    def signed_byte(self, bits: Value, count: int) -> Value:
        """``bits >> count``, but at least -128; more than 127 must not come out."""

    def multiply_add(self, one: Value, other: Value, more: Value) -> Value:
        """``one * other + more`` of float32, whose product must be exact: it may be rounded or not."""

    def widen(self, code: Value) -> Value:
        """Zero-extend a code of 8 bits, or 16 bits of a bfloat16, to 32 bits."""

    def widen_signed(self, code: Value) -> Value:
        """Sign-extend an integer of 8 or 16 bits to 32."""


def signed(bits: int) -> int:
    """The signed integer that has these 32 bits."""
    return bits - (1 << 32) if bits >= 1 << 31 else bits


SIGN_BIT, SIZE_BITS = signed(0x80000000), 0x7FFFFFFF  # of a float32


class _NumPy:
    """Operations over arrays."""

    def where(self, condition: Value, one: Value, other: Value) -> Value:
        return np.where(condition, _constant(one), _constant(other))

    def minimum(self, one: Value, other: Value) -> Value:
        return np.minimum(one, other)

    def maximum(self, one: Value, other: Value) -> Value:
        return np.maximum(one, other)

    def as_bits(self, number: Value) -> Value:
        return number.view(np.int32)

    def as_float(self, bits: Value) -> Value:
        return bits.view(np.float32)

    def shift_in_zeros(self, bits: Value, count: int) -> Value:
        return (bits.view(np.uint32) >> np.uint32(count)).view(np.int32)

    def is_nan(self, number: Value) -> Value:
        return np.isnan(number)

    def signed_byte(self, bits: Value, count: int) -> Value:
        return np.maximum(bits >> count, np.int32(-128))

    def multiply_add(self, one: Value, other: Value, more: Value) -> Value:
        return one * other + more

    def widen(self, code: Value) -> Value:
        return code.astype(np.int32)

    def widen_signed(self, code: Value) -> Value:
        return code.view(f"i{code.itemsize}").astype(np.int32)


def _constant(value: Value) -> Value:
    if type(value) is int:
        return np.int32(value)
    return np.float32(value) if type(value) is float else value


NUMPY: Operations = _NumPy()


def quiet(convert: F) -> F:
    """Decorate a conversion to emit no floating-point warnings: the result shows what happened."""

    @wraps(convert)
    def quietly(*args: Value) -> Value:
        with np.errstate(all="ignore"):
            return convert(*args)

    return cast(F, quietly)
