"""Observers of iterations: the caller's callback, and a progress bar."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from math import isinf
from typing import Any

from scipy.optimize import OptimizeResult

from fastopt.arrays.checks import Array
from fastopt.validation import flag


class Observers:
    """Reports iterations to the observers; a context manager that closes the bar."""

    def __init__(self, callback: object, progress: object, maxiter: float) -> None:
        if callback is not None and not callable(callback):
            raise TypeError(f"callback must be a function or None, not {callback!r}")
        self._callback = callback
        self._by_name = callback is not None and _takes_result(callback)
        self._bar = _bar(maxiter) if flag("progress", progress) else None

    def __enter__(self) -> Observers:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def tell(self, nit: int, x: Array, value: float) -> bool:
        """Report the point after `nit` steps; return whether the callback asks to stop."""
        if self._bar is not None:
            self._bar.set_postfix_str(f"fun={value:.6g}", refresh=False)
            self._bar.update()
        if self._callback is None:
            return False
        try:
            if self._by_name:
                result = OptimizeResult(x=x.copy(), fun=value, nit=nit)
                self._callback(intermediate_result=result)
            else:
                self._callback(x.copy())
        except StopIteration:
            return True
        return False


def _takes_result(callback: Callable[..., object]) -> bool:
    """SciPy's rule: the only parameter has this name."""
    try:
        return set(inspect.signature(callback).parameters) == {"intermediate_result"}
    except (TypeError, ValueError):  # some compiled functions do not say
        return False


def _bar(maxiter: float) -> Any:
    try:
        from tqdm.auto import tqdm  # in a notebook a widget
    except ImportError as error:
        raise ImportError("progress=True needs tqdm: pip install tqdm") from error
    return tqdm(total=None if isinf(maxiter) else maxiter, unit="step")
