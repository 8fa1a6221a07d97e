"""Loops over the numbers of threads, on one core or by a call of Numba's threading layer.

Numba's own `prange` compiles the body of a loop apart, with a schedule that is allocated at every run,
and takes the interpreter's lock before the threads start.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TypeAlias

import numba
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.compiler import CompileResult
from numba.core.dispatcher import Dispatcher
from numba.extending import intrinsic

from fastopt.executors.thread_pool import PARALLEL_FOR, RUNNING_THREADS
from fastopt.kernels.intrinsics import (
    Builder,
    Context,
    Intrinsic,
    Signature,
    Type,
    Typed,
    TypingContext,
    Value,
)
from fastopt.kernels.llvm_operations import I8, I64

# What emits a loop over the numbers of threads: its context, its body, and its values.
Emit: TypeAlias = Callable[[Context, Builder, CompileResult, Value, list[Value]], None]

_POINTER, _WORDS = I8.as_pointer(), I64.as_pointer()
# What a threading layer calls: with pointers to arguments, numbers of iterations, steps, and data.
_TASK = ir.FunctionType(ir.VoidType(), [_POINTER.as_pointer(), _WORDS, _WORDS, _POINTER])
_PARALLEL_FOR = ir.FunctionType(ir.VoidType(), [*(_POINTER,) * 5, *(I64,) * 3])


def serial_loop(body: Dispatcher) -> Intrinsic:
    """``loop(threads, *arguments)``: call ``body(thread, threads, *arguments)`` for each thread.

    `body` is a `helper` that returns nothing and cannot fail.
    """
    return _loop(body, _emit_serial)


def parallel_loop(body: Dispatcher) -> Intrinsic:
    """The same on as many threads as Numba has now, which share the numbers between them.

    Numba's threads must be started before what calls it is compiled or loaded (`threads.layer`).
    """
    return _loop(body, _emit_parallel)


def _loop(body: Dispatcher, emit_loop: Emit) -> Intrinsic:
    if numba.config.DISABLE_JIT:

        def interpreted(threads: int, *arguments: object) -> None:
            for thread in range(threads):
                body(thread, threads, *arguments)

        return interpreted

    def loop(typing_context: TypingContext, threads: Type, *arguments: Type) -> Typed:
        kinds = types.int64, types.int64, *map(types.unliteral, arguments)
        body.compile(kinds)
        compiled = body.overloads[kinds]

        def emit(context: Context, builder: Builder, signature: Signature, args: list[Value]) -> Value:
            context.add_linking_libs([compiled.library])
            emit_loop(context, builder, compiled, args[0], args[1:])
            return context.get_dummy_value()

        return types.void(*kinds[1:]), emit

    # Numba passes as many arguments as a definition says that it takes.
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    names = ["typing_context", *list(inspect.signature(body.py_func).parameters)[1:]]
    parameters = [inspect.Parameter(name, kind) for name in names]
    loop.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    function: Intrinsic = intrinsic(loop)
    return function


def _emit_serial(
    context: Context, builder: Builder, body: CompileResult, threads: Value, values: list[Value]
) -> None:
    function = context.declare_function(builder.module, body.fndesc)
    kinds = body.fndesc.argtypes
    with cgutils.for_range(builder, threads) as loop:
        arguments = [loop.index, threads, *values]
        context.call_conv.call_function(builder, function, types.none, kinds, arguments)


def _emit_parallel(
    context: Context, builder: Builder, body: CompileResult, threads: Value, values: list[Value]
) -> None:
    module = builder.module
    data = cgutils.alloca_once_value(builder, cgutils.pack_struct(builder, [threads, *values]))
    task = _task(context, module, body, data.type)
    # The address of a task's argument is the number of a thread.
    first, step = (cgutils.alloca_once_value(builder, value) for value in (_POINTER(None), I64(1)))
    count = cgutils.alloca_once_value(builder, threads)
    pointers = [builder.bitcast(each, _POINTER) for each in (task, first, count, step, data)]
    layer = cgutils.get_or_insert_function(module, _PARALLEL_FOR, PARALLEL_FOR)
    running = cgutils.get_or_insert_function(module, ir.FunctionType(I64, []), RUNNING_THREADS)
    builder.call(layer, [*pointers, I64(0), I64(1), builder.call(running, [])])


def _task(context: Context, module: ir.Module, body: CompileResult, data: ir.Type) -> ir.Function:
    """The function that the threading layer calls for some of the threads' numbers."""
    task = ir.Function(module, _TASK, module.get_unique_name("task"))
    task.linkage = "internal"
    builder = ir.IRBuilder(task.append_basic_block())
    first, count, _, packed = task.args
    threads, *values = cgutils.unpack_tuple(builder, builder.load(builder.bitcast(packed, data)))
    start = builder.ptrtoint(builder.load(first), I64)
    function = context.declare_function(module, body.fndesc)
    kinds = body.fndesc.argtypes
    pairs = zip(kinds[2:], values, strict=True)
    values = [_borrowed(context, builder, kind, value) for kind, value in pairs]
    with cgutils.for_range(builder, builder.load(count)) as loop:
        arguments = [builder.add(start, loop.index), threads, *values]
        context.call_conv.call_function(builder, function, types.none, kinds, arguments)
    builder.ret_void()
    return task


def _borrowed(context: Context, builder: Builder, kind: Type, value: Value) -> Value:
    """An argument; an array without what counts references to it, which its caller holds."""
    if not isinstance(kind, types.Array):
        return value
    array = context.make_array(kind)(context, builder, value)
    array.meminfo = array.meminfo.type(None)
    return array._getvalue()
