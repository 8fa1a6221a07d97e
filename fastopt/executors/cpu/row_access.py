"""Functions of compiled code that take a row of the table of arrays, emitted as instructions.

Numba takes 4 ms to compile an element of a two-dimensional array, and LLVM none for an address.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastopt.executors.cpu.columns import (
    COUNT,
    COUNTS,
    FIRST,
    GRAD,
    HYPER,
    KERNEL,
    LAG,
    LENGTH,
    PARAM,
    STEPS,
)
from fastopt.executors.cpu.pointers import LINE, element_pointer, emit_call, prefetch_line
from fastopt.kernels.intrinsics import Builder, Context, Signature, Type, Typed, TypingContext, Value
from fastopt.kernels.llvm_operations import I8, I64


def load_word(builder: Builder, address: Value, offset: int = 0, kind: ir.Type = I64) -> Value:
    """Load an integer from an address."""
    at = builder.add(address, ir.Constant(I64, offset))
    return builder.load(builder.inttoptr(at, kind.as_pointer()))


class Row:
    """The words of a row, to be loaded and stored by their columns."""

    def __init__(self, builder: Builder, first: Value, columns: Value) -> None:
        self._builder, self._first, self.columns = builder, first, columns

    def pointer(self, column: int | Value) -> Value:
        """The pointer to a word."""
        index = ir.Constant(I64, column) if isinstance(column, int) else column
        return self._builder.gep(self._first, [index], inbounds=True)

    def load(self, column: int | Value) -> Value:
        """Load a word."""
        return self._builder.load(self.pointer(column))

    def change(self, column: int, value: Value) -> None:
        """Store a word if it differs: a write takes the line from the caches of other threads."""
        differs = self._builder.icmp_signed("!=", self.load(column), value)
        with self._builder.if_then(differs, likely=False):
            self._builder.store(value, self.pointer(column))


class Rows:
    """A table, whose type and value an intrinsic function got as its first argument."""

    def __init__(
        self, context: Context, builder: Builder, signature: Signature, args: list[Value]
    ) -> None:
        self._builder = builder
        self._array = context.make_array(signature.args[0])(context, builder, args[0])
        self.count, self._columns = cgutils.unpack_tuple(builder, self._array.shape, 2)

    def __getitem__(self, number: Value) -> Row:
        first = self._builder.gep(self._array.data, [self._builder.mul(number, self._columns)])
        return Row(self._builder, first, self._columns)


@intrinsic  # type: ignore[untyped-decorator]
def run_row(typing_context: TypingContext, rows: Type, row: Type, start: Type, stop: Type) -> Typed:
    """``run_row(rows, row, start, stop)``: run the kernel of an array on a stretch of its elements.

    It prefetches the first lines of the next array: the processor fetches ahead by itself, but only
    within an array. A thousand arrays take 4 % less time so where they lie scattered, 1 % where one
    after the other, and no less with four lines each.
    """

    def emit(context: Context, builder: Builder, signature: Signature, args: list[Value]) -> Value:
        table, (number, start, stop) = Rows(context, builder, signature, args), args[1:]
        following = builder.add(number, ir.Constant(I64, 1))
        is_last = builder.icmp_signed(">=", following, table.count)
        other = table[builder.select(is_last, number, following)]
        last = builder.sub(other.columns, ir.Constant(I64, 1))
        for address in (other.load(PARAM), other.load(GRAD), other.load(last)):
            for line in range(2):
                pointer = element_pointer(builder, I8, address, ir.Constant(I64, line * LINE))
                prefetch_line(builder, pointer, written=False)
        this = table[number]
        addresses = builder.ptrtoint(this.pointer(FIRST), I64)
        emit_call(builder, this.load(KERNEL), [addresses, this.load(HYPER), start, stop])
        return context.get_dummy_value()

    return types.void(rows, types.intp, types.int64, types.int64), emit


@intrinsic  # type: ignore[untyped-decorator]
def count_step(typing_context: TypingContext, rows: Type, row: Type) -> Typed:
    """``count_step(rows, row)``: count a step of one array, or one without its gradient."""

    def emit(context: Context, builder: Builder, signature: Signature, args: list[Value]) -> Value:
        this = Rows(context, builder, signature, args)[args[1]]
        is_stepped = builder.icmp_signed("==", this.load(COUNT), this.load(LENGTH))
        which = builder.select(is_stepped, ir.Constant(I64, STEPS), ir.Constant(I64, LAG))
        count = element_pointer(builder, I64, this.load(COUNTS), which)
        builder.store(builder.add(builder.load(count), ir.Constant(I64, 1)), count)
        return context.get_dummy_value()

    return types.void(rows, types.intp), emit
