"""The operations of `codecs.operations` as LLVM instructions, for the CPU and for devices."""

from __future__ import annotations

from typing import Any, TypeAlias

from llvmlite import ir

from fastopt.codecs.operations import Formula, signed

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
HALF, SINGLE, DOUBLE = ir.HalfType(), ir.FloatType(), ir.DoubleType()


def int32(number: int) -> ir.Constant:
    """A constant of 32 bits, signed or not."""
    return ir.Constant(I32, signed(number))


def _scalar(kind: ir.Type) -> ir.Type:
    """The type of one lane."""
    return kind.element if isinstance(kind, ir.VectorType) else kind


def _like(kind: ir.Type, scalar: ir.Type) -> ir.Type:
    """A type with as many lanes as another has."""
    return ir.VectorType(scalar, kind.count) if isinstance(kind, ir.VectorType) else scalar


def _constant(kind: ir.Type, number: float) -> ir.Constant:
    """A number in each lane of a type."""
    return ir.Constant(kind, [number] * kind.count if isinstance(kind, ir.VectorType) else number)


Operand: TypeAlias = "Emitted | float"


class Emitted:
    """A value, or a vector of them, whose operators emit instructions.

    Codes of 8 bits have no sign; integers of 32 bits have one.
    """

    __slots__ = ("builder", "raw")
    __hash__ = None  # type: ignore[assignment]  # == emits a comparison

    def __init__(self, builder: ir.IRBuilder, raw: ir.Value) -> None:
        self.builder, self.raw = builder, raw

    @property
    def _is_float(self) -> bool:
        return _scalar(self.raw.type) in (HALF, SINGLE, DOUBLE)

    def _operand(self, other: Operand) -> ir.Value:
        return other.raw if isinstance(other, Emitted) else _constant(self.raw.type, other)

    def _emit(self, name: str, other: Operand, *, turned: bool = False) -> Emitted:
        values = (self._operand(other), self.raw) if turned else (self.raw, self._operand(other))
        return Emitted(self.builder, getattr(self.builder, name)(*values))

    def __add__(self, other: Operand) -> Emitted:
        return self._emit("fadd" if self._is_float else "add", other)

    def __sub__(self, other: Operand) -> Emitted:
        return self._emit("fsub" if self._is_float else "sub", other)

    def __rsub__(self, other: Operand) -> Emitted:
        return self._emit("fsub" if self._is_float else "sub", other, turned=True)

    def __mul__(self, other: Operand) -> Emitted:
        return self._emit("fmul" if self._is_float else "mul", other)

    def __and__(self, other: Operand) -> Emitted:
        return self._emit("and_", other)

    def __or__(self, other: Operand) -> Emitted:
        return self._emit("or_", other)

    def __xor__(self, other: Operand) -> Emitted:
        return self._emit("xor", other)

    def __lshift__(self, other: Operand) -> Emitted:
        return self._emit("shl", other)

    def __rshift__(self, other: Operand) -> Emitted:
        return self._emit("ashr", other)

    def _compare(self, how: str, other: Operand) -> Emitted:
        builder = self.builder
        if self._is_float:
            compare = builder.fcmp_ordered
        else:
            compare = builder.icmp_unsigned if _scalar(self.raw.type) == I8 else builder.icmp_signed
        return Emitted(builder, compare(how, self.raw, self._operand(other)))

    def __lt__(self, other: Operand) -> Emitted:
        return self._compare("<", other)

    def __gt__(self, other: Operand) -> Emitted:
        return self._compare(">", other)

    def __ge__(self, other: Operand) -> Emitted:
        return self._compare(">=", other)

    def __eq__(self, other: Operand) -> Emitted:  # type: ignore[override]
        return self._compare("==", other)


class LLVMOperations:
    """The operations of `codecs.operations`, which emit instructions."""

    def __init__(self, builder: ir.IRBuilder) -> None:
        self._builder = builder

    def _of(self, raw: ir.Value) -> Emitted:
        return Emitted(self._builder, raw)

    def _raw(self, value: Operand, kind: ir.Type) -> ir.Value:
        """An operand as a value; a Python number becomes a constant with the lanes of `kind`."""
        if isinstance(value, Emitted):
            return value.raw
        return _constant(_like(kind, SINGLE if type(value) is float else I32), value)

    def where(self, condition: Emitted, one: Operand, other: Operand) -> Emitted:
        lanes = condition.raw.type
        pair = self._raw(one, lanes), self._raw(other, lanes)
        return self._of(self._builder.select(condition.raw, *pair))

    def minimum(self, one: Emitted, other: Operand) -> Emitted:
        return self.where(one < other, one, other)

    def maximum(self, one: Emitted, other: Operand) -> Emitted:
        return self.where(one > other, one, other)

    def as_bits(self, number: Emitted) -> Emitted:
        return self._of(self._builder.bitcast(number.raw, _like(number.raw.type, I32)))

    def as_float(self, bits: Emitted) -> Emitted:
        return self._of(self._builder.bitcast(bits.raw, _like(bits.raw.type, SINGLE)))

    def shift_in_zeros(self, bits: Emitted, count: int) -> Emitted:
        return self._of(self._builder.lshr(bits.raw, _constant(bits.raw.type, count)))

    def is_nan(self, number: Emitted) -> Emitted:
        return self._of(self._builder.fcmp_unordered("uno", number.raw, number.raw))

    def signed_byte(self, bits: Emitted, count: int) -> Emitted:
        # With both bounds it is what processors do as they convert a vector to bytes.
        return self.maximum(self.minimum(bits >> count, 127), -128)

    def multiply_add(self, one: Emitted, other: Emitted, more: Emitted) -> Emitted:
        values = one.raw, other.raw, more.raw
        kind = values[0].type
        function = self._builder.module.declare_intrinsic(
            "llvm.fmuladd", [kind], ir.FunctionType(kind, [kind] * 3)
        )
        return self._of(self._builder.call(function, values))

    def widen(self, code: Emitted) -> Emitted:
        return self._of(self._builder.zext(code.raw, _like(code.raw.type, I32)))

    def widen_signed(self, code: Emitted) -> Emitted:
        return self._of(self._builder.sext(code.raw, _like(code.raw.type, I32)))


def emitted(
    builder: ir.IRBuilder,
    formula: Formula,
    *values: ir.Value,
    operations: type[LLVMOperations] = LLVMOperations,
) -> Any:
    """Emit a formula for LLVM values: its result, or a tuple of them."""
    values_ = (Emitted(builder, value) for value in values)
    result = formula(operations(builder), *values_)
    return tuple(value.raw for value in result) if isinstance(result, tuple) else result.raw


def larger_word(builder: ir.IRBuilder, one: ir.Value, other: ir.Value) -> ir.Value:
    """The larger of two integers without a sign."""
    return builder.select(builder.icmp_unsigned(">", one, other), one, other)
