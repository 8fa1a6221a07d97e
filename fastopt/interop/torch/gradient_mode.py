"""Calls with torch's recording of gradients on or off."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def call_recorded(
    records: bool,
    function: Callable[_Arguments, _Result],
    *args: _Arguments.args,
    **kwargs: _Arguments.kwargs,
) -> _Result:
    """Call a function while operations are recorded for gradients or not, as before after any error.

    The contexts of torch switch back in Python, where an interrupt may come first: not here, where a
    function of C does it.
    """
    recorded_before = torch.is_grad_enabled()
    try:  # with the switch in it: an interrupt may come right after that
        torch._C._set_grad_enabled(records)  # torch.no_grad takes 1 us longer
        return function(*args, **kwargs)
    finally:
        torch._C._set_grad_enabled(recorded_before)
