"""`fastopt.minimize`: SciPy's way of calling, with the optimizers of fastopt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike

from fastopt.minimization.best import BestPoint
from fastopt.minimization.box import Box, start
from fastopt.minimization.default_lr import schedule
from fastopt.minimization.default_lr import usual as usual_rate
from fastopt.minimization.factory import choose, make
from fastopt.minimization.foreign import MAXITER, limit, refuse
from fastopt.minimization.loop import KEEP, descend
from fastopt.minimization.objective import Gradient, Objective
from fastopt.minimization.observers import Observers
from fastopt.minimization.restarts import Restarts
from fastopt.minimization.result import MinimizeResult
from fastopt.minimization.stopping import FTOL, GTOL, Stopping, tolerance
from fastopt.optimizers.optimizer import Optimizer
from fastopt.validation import choice, flag


def minimize(
    fun: Callable[..., object],
    x0: ArrayLike,
    args: object = (),
    *,
    optimizer: str | Callable[..., Optimizer] = "rmsprop",
    jac: Gradient = None,
    bounds: object = None,
    maxiter: float | None = MAXITER,
    tol: float | None = None,
    gtol: float | Literal["auto"] | None = "auto",
    ftol: float | Literal["auto"] | None = "auto",
    xtol: float | None = None,
    window: int = 100,
    keep: Literal["auto", "best", "last"] = "auto",
    callback: Callable[..., object] | None = None,
    progress: bool = False,
    history: bool = False,
    seed: SupportsIndex | np.random.Generator | None = None,
    **settings: object,
) -> MinimizeResult:
    """Minimize a function of many variables with one of the optimizers.

    Called much like `scipy.optimize.minimize`: `optimizer` takes the place of ``method``, and arguments
    that of ``options``. The result is the same kind of object.

    Parameters
    ----------
    fun : callable
        ``fun(x, *args)`` returns the value, or ``(value, gradient)``. Parameters without default are
        filled by name: with ``out`` it gets a buffer to write the gradient to (all of it: the buffer
        is not cleared), with ``step`` the number of the step (0, 1, ...), with ``rng`` a
        `numpy.random.Generator` that depends on `seed` and the step. It may change `x`, which is a
        copy; with ``out`` nothing is copied, and `x` is the point itself, read-only and good for
        this call.
    x0 : array of one dimension
        Where to start; it is not changed. float32, float16 and bfloat16 are computed in float32,
        everything else in float64.
    args : tuple
        More arguments for `fun` and `jac`.
    optimizer : str, class or callable
        The name of an optimizer in lower case, such as ``"rmsprop"`` or ``"adam"``; the class; or
        a function from an array to an optimizer. It is called with the array, `settings`, and
        ``bounds`` if there are any.
    jac : callable, True, "2-point" or None
        The gradient, ``jac(x, *args)``, which may ask for ``out``, ``step`` and ``rng`` too; or True if
        `fun` returns it. None decides by what `fun` returns: if that is a number alone, the gradient
        is approximated by finite differences (`scipy.optimize.approx_fprime`) for up to 1000
        elements, which the message says, and more are an error. ``"2-point"`` has no such limit.
    bounds : scipy.optimize.Bounds, or sequence of (min, max)
        None or an infinity leaves a side open. `x0` is moved into the bounds first, and `fun` is never
        called outside of them.
    maxiter : int, float or None
        Most steps to take, >= 0; an infinity is no limit, None the default.
    tol : float or None
        For `gtol` and `ftol` where they are "auto".
    gtol : float, None or "auto"
        End when no element of the gradient is larger; of the projected gradient where there are bounds.
    ftol : float, None or "auto"
        End when the value changed by no more than ``ftol * max(abs(fun), 1)`` in each of `window`
        iterations in a row.
    xtol : float or None
        The same for the point: no element changed by more than ``xtol * max(abs(x).max(), 1)``.
    window : int
        For `ftol` and `xtol`.
    keep : {"auto", "best", "last"}
        Which point is the result: that with the lowest value, or the last one (that was finite).
    callback : callable
        Called after every iteration as ``callback(x)``, or ``callback(intermediate_result=...)`` if
        this is the name of its only parameter, with `x`, `fun` and `nit` of the iteration. It may
        raise StopIteration to end the minimization.
    progress : bool
        Show a bar (needs tqdm).
    history : bool
        Keep the value at the start and after every step in ``result.history``.
    seed : int or numpy.random.Generator
        For ``rng``, if `fun` or `jac` asks for it (both get equal generators for a step), and for the
        optimizer's stochastic rounding.
    **settings
        Of the optimizer: ``lr``, a number or schedule, and all others. Without `lr` for a name or a
        class of fastopt's, the rate starts at the class's ``usual_lr``, such as 0.03 (RMSProp) or 0.1
        (Adam), times the root mean square of `x0` if that is above one; for SGD and ASGD at the inverse
        of the curvature along the first gradient, which takes two more evaluations. After 20
        evaluations without a lower value, or where a value is not finite, the rate is halved, and the
        optimizer starts anew from the best point. Settings that are not given are then
        ``usual_settings``: for RMSProp ``momentum=0.9`` and ``bias_correction=True``. For functions
        with ``step`` or ``rng`` the rate falls to zero along half a cosine over `maxiter` steps, with
        the usual defaults. Rprop's step sizes start at its `lr`, 0.01.

    Returns
    -------
    scipy.optimize.OptimizeResult
        With `x`, `fun` and `jac` (the gradient at `x`), `nit`, `nfev`, `njev`, `success`, `status` and
        `message`; with the setting ``average_decay`` also `average`, with ``history=True`` also
        `history`. The status is 0 for one of
        the tolerances, 1 for `maxiter`, 3 for a value or gradient with a NaN or an infinity and 99 for
        the callback; 0 is a success.

    Raises
    ------
    TypeError, ValueError
        An argument is not acceptable, or `fun` or `jac` returned something unusable.

    Notes
    -----
    "auto" is 1e-5 for `gtol`, 1e-12 for `ftol` and "best" for `keep`. Where a function asks for
    ``step`` or ``rng`` its values do not compare: there "auto" is None for both, and "last".

    With ``skip_nonfinite=True`` a gradient with a NaN or an infinity is left out and does not end the
    minimization.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> from scipy.optimize import rosen, rosen_der
    >>> result = fastopt.minimize(rosen, np.zeros(5), jac=rosen_der, optimizer="adam")
    >>> result.success, result.x.round(4)
    (True, array([1., 1., 1., 1., 1.]))
    """
    maker = choose(optimizer)
    maxiter = limit(maxiter)
    refuse(settings)
    values: list[float] | None = [] if flag("history", history) else None
    choice("keep", keep, KEEP)
    x = start(x0)
    box = Box(bounds, x)
    box.clip(x)
    objective = Objective(fun, jac, args, box, seed)
    noisy = objective.noisy
    best = BestPoint(x, last=keep == "last" or (keep == "auto" and noisy))
    if seed is not None and isinstance(maker, type):
        settings["seed"] = objective.seed % 2**32
    lr = None if "lr" in settings else usual_rate(maker, objective, x, box)
    restarts = None
    if lr is not None and noisy:
        settings["lr"] = schedule(lr, maxiter)
    elif lr is not None:
        settings = {**getattr(maker, "usual_settings", {}), **settings}
        restarts = Restarts(
            lambda lr: make(maker, x, box, settings | {"lr": lr}), lr, None if keep == "last" else best
        )
    solver = restarts.optimizer if restarts else make(maker, x, box, settings)
    stopping = Stopping(
        tolerance("gtol", gtol if tol is None or gtol != "auto" else tol, None if noisy else GTOL),
        tolerance("ftol", ftol if tol is None or ftol != "auto" else tol, None if noisy else FTOL),
        tolerance("xtol", xtol, None),
        window,
        maxiter,
        solver.skip_nonfinite,
    )
    with Observers(callback, progress, maxiter) as observers:
        return descend(objective, solver, restarts, box, best, stopping, observers, values)
