"""The result of a minimization: SciPy's, with fields that type checkers know."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scipy.optimize import OptimizeResult

from fastopt.arrays.checks import Array

if TYPE_CHECKING:

    class MinimizeResult(OptimizeResult):  # type: ignore[misc]  # SciPy comes without hints
        """The fields that `fastopt.minimize` describes."""

        x: Array
        fun: float
        jac: Array
        nit: int
        nfev: int
        njev: int
        success: bool
        status: int
        message: str
        average: Array  # with the setting `average_decay`
        history: Array  # with ``history=True``

else:
    MinimizeResult = OptimizeResult
