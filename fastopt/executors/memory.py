"""Loads and stores by address, for kernels.

Indexing an array costs a test for negative indices and makes LLVM check at run time whether arrays
overlap; it gives up on vector code when there are more than four or five of them. These helpers take
an address and an index, and tell LLVM that two slots of a kernel never overlap, which the wrapper
has checked. A chain of any length so compiles to one vector loop without checks.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

I64 = ir.IntType(64)
LINE = 64  # bytes in a cache line
ITEMSIZE = {"float16": 2, "float32": 4, "float64": 8}
# By name: Numba has no float16 on the CPU, LLVM has.
FLOATS = {
    "float16": ir.HalfType(),
    "float32": ir.FloatType(),
    "float64": ir.DoubleType(),
}


def _element(builder: Any, element: Any, address: Any, index: Any) -> Any:
    pointer = builder.inttoptr(address, element.as_pointer())
    return builder.gep(pointer, [index], inbounds=True)


def _convert(builder: Any, number: Any, target: Any) -> Any:
    """Another floating-point format, rounded to nearest, ties to even."""
    source, widths = number.type, [ir.HalfType(), ir.FloatType(), ir.DoubleType()]
    if source == target:
        return number
    narrower = widths.index(target) < widths.index(source)
    return builder.fptrunc(number, target) if narrower else builder.fpext(number, target)


def _tell_apart(module: Any, instruction: Any, slot: int, slots: int) -> None:
    domain = module.add_metadata([ir.MetaDataString(module, "fastopt")])
    scopes = [
        module.add_metadata([ir.MetaDataString(module, f"slot {i}"), domain]) for i in range(slots)
    ]
    others = [scope for i, scope in enumerate(scopes) if i != slot]
    instruction.set_metadata("alias.scope", module.add_metadata([scopes[slot]]))
    instruction.set_metadata("noalias", module.add_metadata(others))


@cache
def slot_access(dtype: str, stored: str, slot: int, slots: int) -> tuple[Any, Any]:
    """``load(address, index)`` and ``store(address, index, value)`` for one of `slots` arrays.

    The loop computes in `dtype`, the array holds `stored`.
    """
    number, element = getattr(types, dtype), FLOATS[stored]

    @intrinsic  # type: ignore[untyped-decorator]
    def load(typing_context: Any, address: Any, index: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            value = builder.load(_element(builder, element, *args))
            _tell_apart(builder.module, value, slot, slots)
            return _convert(builder, value, FLOATS[dtype])

        return number(types.intp, types.int64), emit

    @intrinsic  # type: ignore[untyped-decorator]
    def store(typing_context: Any, address: Any, index: Any, value: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = _element(builder, element, args[0], args[1])
            value = _convert(builder, args[2], element)
            _tell_apart(builder.module, builder.store(value, pointer), slot, slots)
            return context.get_dummy_value()

        return types.void(types.intp, types.int64, number), emit

    return load, store


def ask_for(builder: Any, place: Any, written: bool) -> None:
    """Emit the instruction that fetches a cache line ahead of its use."""
    pointer, i32 = ir.IntType(8).as_pointer(), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [pointer, i32, i32, i32])
    hint = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    # To write or to read, to be kept in all caches, data rather than code.
    how = [ir.Constant(i32, number) for number in (int(written), 3, 1)]
    builder.call(hint, [builder.bitcast(place, pointer), *how])


@cache
def prefetch(stored: str, count: int, written: bool) -> Any:
    """``fetch(address, index)``: ask for the cache lines of `count` elements from `index` on.

    It is only a hint: an address behind the end of the array does no harm.
    """
    element = FLOATS[stored]
    per_line = LINE // ITEMSIZE[stored]

    @intrinsic  # type: ignore[untyped-decorator]
    def fetch(typing_context: Any, address: Any, index: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            first = _element(builder, element, *args)
            for start in range(0, count, per_line):
                ask_for(builder, builder.gep(first, [ir.Constant(I64, start)]), written)
            return context.get_dummy_value()

        return types.void(types.intp, types.int64), emit

    return fetch


def _word(dtype: Any) -> Any:
    @intrinsic  # type: ignore[untyped-decorator]
    def read(typing_context: Any, address: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            word = context.get_data_type(dtype)
            return builder.load(builder.inttoptr(args[0], word.as_pointer()))

        return dtype(types.intp), emit

    return read


read_word = _word(types.intp)
read_int = _word(types.int32)


@intrinsic  # type: ignore[untyped-decorator]
def call_kernel(
    typing_context: Any, kernel: Any, addresses: Any, hyper: Any, start: Any, stop: Any
) -> Any:
    """Call the compiled kernel at an address, on the elements from `start` up to `stop`."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        function_type = ir.FunctionType(ir.VoidType(), [I64] * 4)
        builder.call(builder.inttoptr(args[0], function_type.as_pointer()), args[1:])
        return context.get_dummy_value()

    words = types.intp, types.intp, types.intp, types.int64, types.int64
    return types.void(*words), emit
