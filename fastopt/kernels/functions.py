"""fastopt's own functions in machine code, for Python to call."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, cast

import numpy as np

from fastopt.kernels.disk_cache import obtain
from fastopt.kernels.identity import digest, of_module
from fastopt.kernels.machine_code import Compiled, MachineCode, python_function
from fastopt.kernels.numba_settings import compiles

if TYPE_CHECKING:
    from fastopt.kernels.compiler import Definition


def function(module: str, name: str, *kinds: str) -> Compiled:
    """Machine code of a `Definition` in a module, which is imported only if it must be compiled.

    Where there are `kinds`, what has the name in the module is a function of them that returns the
    definition. Nothing checks that arrays have the dtypes of its signature: another would be read as
    one of these.
    """

    def definition() -> Definition:
        declared = getattr(import_module(module), name)
        return cast("Definition", declared(*kinds) if kinds else declared)

    if not compiles():
        # As machine code: no warning of a number that is not finite.
        return np.errstate(all="ignore")(definition().python)

    def compiled() -> MachineCode:
        from fastopt.kernels.compiler import function_library

        return function_library(definition()).machine_code

    files = of_module(module)
    content = None if files is None else digest(files, module, name, *kinds)
    file = "-".join((module.rpartition(".")[2], name, *kinds)).replace("_", "-")
    return python_function(obtain(file, content, compiled), name)
