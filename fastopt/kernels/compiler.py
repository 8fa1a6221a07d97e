"""Compiling functions, and checking the types of transforms first."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numba
import numpy as np
from numba.core import errors, types
from numba.core.compiler import CompileResult, Flags, compile_extra
from numba.core.compiler_lock import global_compiler_lock
from numba.core.cpu import CPUTargetOptions
from numba.core.dispatcher import Dispatcher
from numba.core.registry import cpu_target
from numba.core.runtime import rtsys

from fastopt.kernels.disk_cache import obtain
from fastopt.kernels.identity import of_compiled
from fastopt.kernels.intrinsics import Intrinsic, Signature, Type
from fastopt.kernels.lean_compilation import LinkedCompiler, ObjectLibrary, import_array_functions
from fastopt.kernels.machine_code import python_function
from fastopt.kernels.python_entry import emit_entry
from fastopt.kernels.terms import Term, lengths
from fastopt.transforms.base import Part, sums_in

T = TypeVar("T")

# "numpy": division by zero gives infinity; Python's check for it would stop vectorization.
OPTIONS: dict[str, object] = {"error_model": "numpy"}

# Fused multiply-adds, and for division by a root the processor's estimate of the inverse root with one
# step of Newton's method: the divider works out roots and quotients one after the other, and what is in
# the caches waits for it. RMSProp in float32 takes 0.28 ns an element there, and 0.48 without.
FAST = {**OPTIONS, "fastmath": {"contract", "arcp", "afn"}}


def helper(function: object, options: dict[str, object] = OPTIONS) -> Intrinsic:
    """Compile a function that only compiled code calls: without the wrappers to call it from Python."""
    bare = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, "pipeline_class": LinkedCompiler}
    compiled: Intrinsic = numba.njit(**bare, **options)(function)
    return compiled


class Definition(NamedTuple):
    """What is compiled for Python to call: a function of fastopt's own for one signature."""

    python: Callable[..., object]
    signature: Signature
    nogil: bool = True


@cache
def start() -> tuple[str, str, str]:
    """Register what compiled code imports of Numba's runtime, and return the target of the compiler.

    Settings of the target that change later have no effect.
    """
    context = cpu_target.target_context
    rtsys.initialize(context)
    triple, processor, features = context.codegen().magic_tuple()
    return triple, processor, features


def function_library(definition: Definition) -> ObjectLibrary:
    """Compile a function for Python to call."""
    with global_compiler_lock:
        library, result = _unfinished(definition.python, definition.signature, OPTIONS)
        how = result.target_context, library, result.fndesc
        library.entry = emit_entry(*how, nogil=definition.nogil)
        library.finalize()
    return library


def c_library(
    python: Callable[..., object], arguments: tuple[Type, ...], options: dict[str, object]
) -> ObjectLibrary:
    """Compile a function without a result, for machine code to call as one of C."""
    with global_compiler_lock:
        library, result = _unfinished(python, types.void(*arguments), options)
        how = library, result.fndesc, result.environment, result.call_helper
        result.target_context.create_cfunc_wrapper(*how)
        library.entry = result.fndesc.llvm_cfunc_wrapper_name
        library.finalize()
    return library


def _unfinished(
    python: Callable[..., object], signature: Signature, options: dict[str, object]
) -> tuple[ObjectLibrary, CompileResult]:
    """A library with a compiled function and without its entry."""
    import_array_functions()
    flags = Flags()
    CPUTargetOptions.parse_as_flags(flags, options)
    flags.no_cpython_wrapper = flags.no_cfunc_wrapper = flags.no_compile = True
    flags.enable_pyobject = False
    typing_context, context = cpu_target.typing_context, cpu_target.target_context
    library = ObjectLibrary(context.codegen(), python.__qualname__)
    kinds = signature.args, signature.return_type
    how: tuple[object, ...] = typing_context, context, python, *kinds, flags, {}, library
    return library, compile_extra(*how)


# The type that a compiled function returns for arguments of these.
ResultType: TypeAlias = Callable[[Any, tuple[Type, ...]], Type]


def result_type(function: Dispatcher, arguments: tuple[Type, ...]) -> Type:
    function.compile(arguments)
    return function.overloads[arguments].signature.return_type


def check_types(
    parts: tuple[Part, ...], functions: Sequence[object], number: Type, result_type: ResultType
) -> None:
    """Compile each transform by itself, and check that it returns numbers of the dtype."""
    for part, function in zip(parts, functions, strict=True):
        state = types.Tuple((number,) * part.read)
        arguments = number, number, state, types.Tuple((number,) * part.hypers)
        what = f"transform {part.name!r}"
        try:
            returned = result_type(function, arguments)
        except errors.NumbaError as error:
            raise TypeError(
                f"{what} cannot be compiled{_cause(error)}: it may use arithmetic on numbers, "
                "comparisons, math and helper functions of the same kind, but no arrays and no "
                f"Python objects.\n{error}"
            ) from error
        if returned == types.Tuple((number, types.Tuple((number,) * part.written))):
            continue
        if types.float64 in _leaves(returned):
            raise TypeError(
                f"{what} turns {number} into float64: write integer constants in arithmetic as floats "
                "(1.0 - beta, not 1 - beta), name constants of modules in your own (PI = math.pi), "
                "and pass what is the same for the whole step in hyper"
            )
        if isinstance(returned, types.Optional):
            raise TypeError(f"{what} must return (update, state) in every branch: one returns nothing")
        integers = any(isinstance(leaf, types.Integer) for leaf in _leaves(returned))
        raise TypeError(
            f"{what} must return {number} numbers as (update, state), but returns {returned}"
            + ("; write 1.0 for 1" if integers else "")
        )


def check_terms(
    terms: Sequence[Term],
    parts: Sequence[Part],
    functions: Sequence[object],
    result_type: ResultType,
) -> None:
    """Compile the function of each term by itself, and check that it returns a number."""
    number = types.float64
    for term, function in zip(terms, functions, strict=True):
        what = term.what
        state, hyper = (types.Tuple((number,) * length) for length in lengths(term, parts))
        try:
            returned = result_type(function, (number, number, state, hyper))
        except errors.NumbaError as error:
            raise TypeError(
                f"{what} cannot be compiled{_cause(error)}: its function may use arithmetic on "
                f"numbers, comparisons, math and helper functions of the same kind.\n{error}"
            ) from error
        if not isinstance(returned, (types.Number, types.Boolean)):
            raise TypeError(f"{what} must return a number, but returns {returned}")


def check_from_sums(part: Part, function: object, result_type: ResultType) -> None:
    """Compile `from_sums` of a transform, and check that it returns what it returned to Python."""
    sums = sums_in(part)
    what = f"from_sums of transform {part.name!r}"
    lengths = sums.from_host, len(sums.names), len(sums.carried)
    try:
        returned = result_type(function, tuple(types.Tuple((types.float64,) * n) for n in lengths))
    except errors.NumbaError as error:
        raise TypeError(
            f"{what} cannot be compiled{_cause(error)}: it may use arithmetic on numbers, comparisons, "
            "math and helper functions of the same kind, and must return as many numbers in every "
            f"branch.\n{error}"
        ) from error
    counts = [len(each) if isinstance(each, types.BaseTuple) else -1 for each in _items(returned)]
    if counts[:2] != [part.hypers, len(sums.carried)] or len(counts) != 2 + sums.skips:
        raise TypeError(
            f"{what} must always return tuples of {part.hypers} hyperparameters and "
            f"{len(sums.carried)} carried numbers{', and a flag' if sums.skips else ''}, but returns "
            f"{returned}"
        )
    for leaf in _leaves(returned):
        if not isinstance(leaf, (types.Number, types.Boolean)):
            raise TypeError(f"{what} must return numbers, but returns {returned}")


def _items(numba_type: Type) -> list[Type]:
    return list(numba_type) if isinstance(numba_type, types.BaseTuple) else []


def _cause(error: errors.NumbaError) -> str:
    """The function that Numba cannot compile for numbers, if its error names one."""
    match = re.search(r"Function\(<(?:built-in )?(?:function|ufunc) '?(\w+)", str(error))
    if match is None:
        return ""
    name = match[1]
    instead = {"clip": "min(max(x, low), high)", "where": "a if condition else b"}
    return f", because of {name}" + (f" (write {instead[name]})" if name in instead else "")


def _leaves(numba_type: Type) -> list[Type]:
    if isinstance(numba_type, types.BaseTuple):
        return [leaf for item in numba_type for leaf in _leaves(item)]
    return [numba_type]


def compile_function(
    python: Callable[..., T], signature: Signature, name: str, *, nogil: bool = True
) -> Callable[..., T]:
    """One of fastopt's own functions in machine code, from disk or compiled now.

    Nothing checks that arrays have the dtypes of the signature: another would be read as one of these.
    """
    if numba.config.DISABLE_JIT:
        # As machine code: no warning of a number that is not finite.
        return np.errstate(all="ignore")(python)
    definition = Definition(python, signature, nogil)
    address = obtain(name, of_compiled(python), lambda: function_library(definition).machine_code)
    return python_function(address, name)
