"""The compilation of `conclusions`."""

from __future__ import annotations

import numpy as np
from numba.core import errors, types

from fastopt.executors.cpu.pointers import number_writer
from fastopt.kernels.compiler import (
    Definition,
    check_from_sums,
    function_library,
    helper,
    result_type,
)
from fastopt.kernels.intrinsics import Scope
from fastopt.kernels.kernel_identity import Identity
from fastopt.kernels.lean_compilation import ObjectLibrary
from fastopt.kernels.specialize import specialize
from fastopt.transforms.base import Part, sums_in

_WORDS, _NUMBERS = types.Array(types.int64, 2, "C"), types.Array(types.float64, 2, "C")


def conclusion_library(part: Part, text: str, identity: Identity) -> ObjectLibrary:
    """Compile the loop over the lines of a table, which calls `from_sums`."""
    from_sums = helper(specialize(sums_in(part).from_sums, np.float64, helper))
    scope: Scope = {"from_sums": from_sums, "float32": np.float32, "float64": np.float64}
    scope |= {f"write_{dtype}": number_writer(dtype) for dtype in (types.float32, types.float64)}
    scope["__name__"] = __name__
    exec(compile(text, f"<fastopt conclude {identity.key}>", "exec"), scope)
    signature = types.boolean(_WORDS, _WORDS, *(_NUMBERS,) * 4)
    try:
        return function_library(Definition(scope["conclude"], signature))
    except errors.NumbaError:
        check_from_sums(part, from_sums, result_type)
        raise
