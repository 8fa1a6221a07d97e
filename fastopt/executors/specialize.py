"""The same function with its float constants in another dtype.

A literal in a scalar function, ``0.5 * update``, is a float64 to Numba and turns a float32 loop into
a float64 one, at a fifth of the speed. So every float that a function gets from outside (literals,
globals, closed-over variables, constants of modules such as ``math.pi``, those of its helper
functions) is replaced before compilation.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from types import CellType, FunctionType, ModuleType
from typing import Any

from fastopt.executors.fingerprint import is_plain, outer_names, outer_values, used_attributes


def specialize(
    function: Any,
    dtype: type,
    compile_helper: Callable[[FunctionType], Any] = lambda function: function,
    replace: dict[int, Any] | None = None,
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
        Other objects to put in the place of globals, by ``id``: the reference executor has its own
        ``math``.
    """
    done: dict[int, Any] = dict(replace or {})

    def constant(value: Any) -> Any:
        if type(value) is float:
            return dtype(value)
        if type(value) is tuple:
            return tuple(constant(item) for item in value)
        return value

    def outer(value: Any, names: Set[str]) -> Any:
        value = getattr(value, "py_func", value)
        if id(value) in done:
            return done[id(value)]
        if is_plain(value):
            done[id(value)] = compile_helper(copy(value))
            return done[id(value)]
        if isinstance(value, ModuleType):
            return window(value, names)
        return constant(value)

    def window(module: ModuleType, names: Set[str]) -> ModuleType:
        """What a function with these names uses of a module, treated like its globals."""
        result = done[id(module)] = ModuleType(module.__name__)
        for name, value in used_attributes(module, names).items():
            vars(result)[name] = outer(value, names)
        del done[id(module)]  # another function uses other names
        return result

    def copy(original: FunctionType) -> FunctionType:
        code = original.__code__
        code = code.replace(co_consts=tuple(constant(c) for c in code.co_consts))
        names, values = outer_names(code), outer_values(original)
        defaults = constant(original.__defaults__)
        free = {name: CellType() for name in code.co_freevars}
        scope: dict[str, Any] = {"__builtins__": original.__globals__["__builtins__"]}
        scope["__name__"] = __name__
        cells = tuple(free[name] for name in code.co_freevars)
        result = FunctionType(code, scope, original.__name__, defaults, cells)
        result.__qualname__, result.__module__ = original.__qualname__, __name__
        done[id(original)] = result  # before the helpers, which may call back
        for name, value in values.items():
            if name in free:
                free[name].cell_contents = outer(value, names)
            else:
                scope[name] = outer(value, names)
        return result

    return copy(getattr(function, "py_func", function))
