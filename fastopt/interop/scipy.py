"""Methods for `scipy.optimize.minimize`: ``method=fastopt.interop.scipy.rmsprop``.

>>> import numpy as np
>>> from scipy.optimize import minimize, rosen, rosen_der
>>> import fastopt.interop.scipy
>>> found = minimize(rosen, np.zeros(5), jac=rosen_der, method=fastopt.interop.scipy.adam)
>>> found.x.round(4)
array([1., 1., 1., 1., 1.])
"""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Callable
from typing import Any

from numpy.typing import ArrayLike
from scipy.optimize import OptimizeWarning

from fastopt.minimization.minimize import minimize
from fastopt.minimization.objective import Gradient
from fastopt.minimization.result import MinimizeResult
from fastopt.optimizers.named import NamedOptimizer
from fastopt.optimizers.registry import NAMES, optimizer_class
from fastopt.optimizers.settings import arguments_of

__all__ = ["method", *NAMES]

_PARAMETERS = inspect.signature(minimize).parameters.values()
# What SciPy passes on its own, and what the choice of a method has decided.
_NOT_OPTIONS = {"optimizer", "jac", "bounds", "callback", "tol"}
_OPTIONS = {p.name for p in _PARAMETERS if p.kind is p.KEYWORD_ONLY} - _NOT_OPTIONS

_DOC = """Minimize with `{kind}`, as a method of `scipy.optimize.minimize`.

    ``scipy.optimize.minimize(fun, x0, method=fastopt.interop.scipy.{name}, jac=..., options={{...}})``
    calls this function. All that `fastopt.minimize` says of `fun`, `jac`, `bounds` and the result
    holds here.

    Parameters
    ----------
    fun, x0, args, jac, bounds, callback
        As SciPy has them. SciPy keeps the schemes ``"2-point"``, ``"3-point"`` and ``"cs"`` to itself:
        they come here as None, which is ``"2-point"`` for up to 1000 elements.
    hess, hessp
        Not used, with a RuntimeWarning.
    constraints
        Refused: bounds are all that this method can keep.
    tol : float, optional
        For `gtol` and `ftol` where they are not given.
    disp : bool, optional
        Print how it ended.
    **options
        `maxiter`, `gtol`, `ftol`, `xtol`, `window`, `keep`, `progress`, `history` and `seed` of
        `fastopt.minimize`; the settings of `{kind}`, such as ``lr``. Of others there is an
        OptimizeWarning.

    Returns
    -------
    scipy.optimize.OptimizeResult
    """

_EXAMPLE = """

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.optimize import minimize
    >>> import fastopt.interop.scipy
    >>> found = minimize(
    ...     lambda x: (((x - 3) ** 2).sum(), 2 * (x - 3)),
    ...     np.zeros(2),
    ...     jac=True,
    ...     method=fastopt.interop.scipy.{name},
    ... )
    >>> found.x.round(1)
    array([3., 3.])
    """


def method(optimizer: type[NamedOptimizer]) -> Callable[..., MinimizeResult]:
    """A method for `scipy.optimize.minimize` of an optimizer's class.

    Parameters
    ----------
    optimizer : class
        One of your own; `fastopt.interop.scipy.adam` and the others are made.

    Examples
    --------
    >>> import fastopt, scipy.optimize, fastopt.interop.scipy
    >>> scipy.optimize.minimize(
    ...     lambda x: (((x - 3) ** 2).sum(), 2 * (x - 3)),
    ...     [0.0, 0.0],
    ...     jac=True,
    ...     method=fastopt.interop.scipy.method(fastopt.Adam),
    ...     bounds=[(None, 2), (None, None)],
    ...     options={"maxiter": 2000},
    ... ).x.round(1)
    array([2., 3.])
    """
    if not (isinstance(optimizer, type) and issubclass(optimizer, NamedOptimizer)):
        raise TypeError(f"optimizer must be a class of a named optimizer, not {optimizer!r}")
    name = optimizer.__name__.lower()
    accepted = _OPTIONS.union(arguments_of(optimizer)) - {"params", *_NOT_OPTIONS}

    def minimize_with(
        fun: Callable[..., object],
        x0: ArrayLike,
        args: object = (),
        jac: Gradient = None,
        hess: object = None,
        hessp: object = None,
        bounds: object = None,
        constraints: object = (),
        callback: Callable[..., object] | None = None,
        *,
        tol: float | None = None,
        disp: object = False,
        **options: Any,
    ) -> MinimizeResult:
        _refuse_constraints(name, constraints)
        if hess is not None:
            _warn(f"Method {name} does not use Hessian information (hess).", RuntimeWarning)
        if hessp is not None:
            _warn(f"Method {name} does not use Hessian-vector products (hessp).", RuntimeWarning)
        unknown = [option for option in options if option not in accepted]
        if unknown:
            _warn(f"Unknown solver options: {', '.join(unknown)}", OptimizeWarning)
        arguments = {option: value for option, value in options.items() if option in accepted}
        fun, jac = _unwrapped(fun, jac)
        result = minimize(
            fun,
            x0,
            args,
            optimizer=optimizer,
            jac=jac,
            bounds=bounds,
            callback=callback,
            tol=tol,
            **arguments,
        )
        if disp:
            _show(result)
        return result

    minimize_with.__name__ = minimize_with.__qualname__ = name
    example = _EXAMPLE if name in NAMES else ""
    minimize_with.__doc__ = (_DOC.rstrip() + example).format(kind=optimizer.__name__, name=name)
    return minimize_with


def _refuse_constraints(name: str, constraints: object) -> None:
    none = constraints is None or (isinstance(constraints, (tuple, list)) and not constraints)
    if not none:
        raise ValueError(
            f"constraints must be empty: method {name} cannot handle constraints other than bounds"
        )


def _unwrapped(fun: Callable[..., object], jac: Gradient) -> tuple[Callable[..., object], Gradient]:
    """With ``jac=True`` SciPy makes two functions that share a memory; the one inside does without."""
    inside = getattr(fun, "fun", None)
    from_scipy = type(fun).__module__.startswith("scipy.optimize")
    if from_scipy and callable(inside) and getattr(jac, "__self__", None) is fun:
        return inside, True
    return fun, jac


def _warn(text: str, category: type[Warning]) -> None:
    # Above here are the method, SciPy's minimize, and its caller, who is to be shown.
    warnings.warn(text, category, stacklevel=4)


def _show(result: MinimizeResult) -> None:
    numbers = (("Current function value", result.fun), ("Iterations", result.nit))
    evaluations = (("Function evaluations", result.nfev), ("Gradient evaluations", result.njev))
    lines = [f"         {what}: {number}" for what, number in (*numbers, *evaluations)]
    sys.stdout.write("\n".join([result.message, *lines]) + "\n")


def __getattr__(name: str) -> Callable[..., MinimizeResult]:
    if name not in NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = function = method(optimizer_class(name))
    return function
