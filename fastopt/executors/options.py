"""How functions are compiled."""

from __future__ import annotations

from typing import Any

import numba

# "numpy": division by zero gives infinity; Python's check for it would stop vectorisation.
OPTIONS = {"error_model": "numpy"}


def helper(function: Any) -> Any:
    """Compile a function that only compiled code calls: without the wrappers to call it from Python."""
    return numba.njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, **OPTIONS)(function)
