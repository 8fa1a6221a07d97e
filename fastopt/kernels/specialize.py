"""The same function with its float constants in another dtype.

A literal in a scalar function, ``0.5 * update``, is a float64 to Numba and turns a float32 loop into
a float64 one, at a fifth of the speed. So every float that a function gets from outside (literals,
globals, closed-over variables, constants of modules such as ``math.pi``, those of its helper
functions) is replaced before compilation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from types import CodeType, FunctionType, ModuleType
from typing import Any

from fastopt.kernels.closure import (
    facts,
    fill,
    is_plain,
    outer_values,
    python_of,
    rebuilt,
    used_attributes,
)


def specialize(
    function: object,
    dtype: type,
    compile_helper: Callable[[FunctionType], object] = lambda function: function,
    replace: Mapping[int, object] | None = None,
) -> FunctionType:
    """Copy `function` with its floats as `dtype` and its helpers treated likewise.

    Parameters
    ----------
    function : function
        Left as it is.
    dtype : type
        ``numpy.float32`` or ``numpy.float64``.
    compile_helper : callable, optional
        What to do with functions that it calls, after they were specialized.
    replace : dict, optional
        Replacements of globals, by ``id``, or of functions, by the ``id`` of their code: the
        reference executor has its own ``math``.
    """
    replaced = dict(replace or {})

    def constant(value: object) -> Any:
        if type(value) is float:
            return dtype(value)
        if type(value) is tuple:
            return tuple(constant(item) for item in value)
        if isinstance(value, CodeType):  # of an inner function
            return value.replace(co_consts=tuple(constant(item) for item in value.co_consts))
        return value

    def outer(value: object, names: Set[str]) -> object:
        value = python_of(value)
        if id(value) in replaced:
            return replaced[id(value)]
        if is_plain(value):
            if id(value.__code__) in replaced:
                return replaced[id(value.__code__)]
            replaced[id(value)] = compile_helper(copy(value))
            return replaced[id(value)]
        if isinstance(value, ModuleType):
            return window(value, names)
        return constant(value)

    def window(module: ModuleType, names: Set[str]) -> ModuleType:
        """What a function with these names uses of a module, treated like its globals."""
        result = replaced[id(module)] = ModuleType(module.__name__)
        for name, value in used_attributes(module, names).items():
            vars(result)[name] = outer(value, names)
        del replaced[id(module)]  # another function uses other names
        return result

    def copy(original: FunctionType) -> FunctionType:
        code = original.__code__
        names = facts(code).attribute_names
        code = constant(code)
        keywords = {name: constant(value) for name, value in (original.__kwdefaults__ or {}).items()}
        result = rebuilt(original, code, constant(original.__defaults__), keywords or None)
        # Numba imports the module of a cached function: it must exist in every process.
        result.__module__ = result.__globals__["__name__"] = __name__
        replaced[id(original)] = result  # before the helpers, which may call back
        values = ({n: outer(v, names) for n, v in used.items()} for used in outer_values(original))
        fill(result, *values)
        return result

    return copy(python_of(function))
