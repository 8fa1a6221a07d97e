"""Functions for compiled code whose instructions are emitted, rather than compiled from Python.

Neither Numba nor llvmlite has type hints: mypy takes their names for Any, readers and pyright do not.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from llvmlite import ir
from numba import extending
from numba.core import base, types, typing

Type: TypeAlias = types.Type
Signature: TypeAlias = typing.Signature
TypingContext: TypeAlias = typing.Context
Context: TypeAlias = base.BaseContext
Builder: TypeAlias = ir.IRBuilder
Value: TypeAlias = ir.Value
# What the definition of an intrinsic function returns: its signature, and what emits a call.
Typed: TypeAlias = tuple[Signature, Callable[[Context, Builder, Signature, list[Value]], Value]]
Scope: TypeAlias = dict[str, Any]  # the globals of generated source
# The function itself: compiled code calls it, Python cannot.
Intrinsic: TypeAlias = Callable[..., Any]


def emits(
    signature: Signature, intrinsic: Callable[..., Intrinsic] = extending.intrinsic
) -> Callable[[Callable[..., Value | None]], Intrinsic]:
    """Make an intrinsic function of one that emits instructions.

    Parameters
    ----------
    signature : numba.core.typing.Signature
    intrinsic : callable
        Numba's decorator, or that of numba-cuda.

    Returns
    -------
    callable
        A decorator. Its function gets the builder and the values of the arguments, and returns the
        value of the call, or None if it has none.
    """
    names = ["typing_context", *(f"argument{k}" for k in range(len(signature.args)))]
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD

    def decorate(emit: Callable[..., Value | None]) -> Intrinsic:
        def emit_call(
            context: Context, builder: Builder, signature: Signature, args: Sequence[Value]
        ) -> Value:
            value = emit(builder, *args)
            return context.get_dummy_value() if value is None else value

        def define(typing_context: TypingContext, *arguments: Type) -> Typed:
            return signature, emit_call

        define.__name__, define.__doc__ = emit.__name__, emit.__doc__
        # Numba passes as many arguments as it says.
        parameters = [inspect.Parameter(name, kind) for name in names]
        define.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return intrinsic(define)

    return decorate
