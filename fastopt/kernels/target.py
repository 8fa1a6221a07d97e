"""The capabilities of the processor that code is compiled for.

LLVM cannot be asked for a processor's features, so a few instructions are compiled, and their assembly
is inspected.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

from llvmlite import binding, ir
from numba.core.registry import cpu_target

HALF, SINGLE = ir.HalfType(), ir.FloatType()

# What LLVM calls where there is no instruction: functions that nothing in the process provides.
_CONVERSIONS = re.compile(r"__(extendhf|truncsfhf|gnu_h2f|gnu_f2h)")

# Registers of vectors, the widest first, as they are written in assembly; their width; the usual name.
_VECTORS = (
    (r"\bzmm\d", 512, "AVX-512"),
    (r"\bymm\d", 256, "AVX"),
    (r"\bxmm\d", 128, "SSE"),
    (r"\bv\d+\.4s", 128, "NEON"),
)


@cache
def converts_float16() -> bool:
    """Whether it has instructions to convert float16."""

    def emit(builder: ir.IRBuilder, number: ir.Value) -> ir.Value:
        wide = builder.fpext(number, SINGLE)
        return builder.fptrunc(builder.fadd(wide, wide), HALF)

    return _CONVERSIONS.search(_assembly(HALF, emit)) is None


@cache
def estimates_roots() -> bool:
    """Whether fast code divides by a root without the divider."""

    def emit(builder: ir.IRBuilder, number: ir.Value) -> ir.Value:
        flags = "afn", "arcp", "contract"
        kind = ir.FunctionType(number.type, [number.type])
        root = ir.Function(builder.module, kind, "llvm.sqrt.v4f32")
        return builder.fdiv(number, builder.call(root, [number], fastmath=flags), flags=flags)

    return "rsqrt" in _assembly(ir.VectorType(SINGLE, 4), emit)


def widest_vectors() -> tuple[int, str] | None:
    """The width in bits of its widest vector registers, and their name."""
    text = _assembly(ir.VectorType(SINGLE, 16), lambda builder, number: builder.fadd(number, number))
    for pattern, width, usual in _VECTORS:
        if re.search(pattern, text):
            return width, usual
    return None


def _assembly(kind: ir.Type, emit: Callable[[ir.IRBuilder, ir.Value], ir.Value]) -> str:
    """The code of a function of one argument of a type, with a result of the same."""
    module = ir.Module()
    function = ir.Function(module, ir.FunctionType(kind, [kind]), "function")
    set.add(function.attributes, '"prefer-vector-width"="512"')  # as in kernels
    builder = ir.IRBuilder(function.append_basic_block())
    builder.ret(emit(builder, function.args[0]))
    machine = cpu_target.target_context.codegen()._tm
    return str(machine.emit_assembly(binding.parse_assembly(str(module))))
