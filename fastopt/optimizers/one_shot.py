"""One step for those who own their state: a function instead of an object."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastopt.optimizers.named import NamedOptimizer
from fastopt.optimizers.rmsprop import RMSProp


def rmsprop_step(
    param: Any,
    grad: Any,
    square_avg: Any,
    *,
    grad_avg: Any = None,
    momentum_buffer: Any = None,
    step: int = 0,
    grad_scale: float = 1.0,
    **settings: Any,
) -> None:
    """One step of RMSProp on arrays that the caller keeps, all updated in place.

    Parameters
    ----------
    param, grad, square_avg : array, or structures of arrays
        Parameter, gradient and accumulator, of one shape and dtype.
    grad_avg, momentum_buffer : array, optional
        Needed with ``centered=True`` and with ``momentum``.
    step : int, optional
        The number of this step, from 0, for schedules and ``bias_correction``.
    grad_scale : float, optional
        The gradient is multiplied by its inverse.
    **settings
        `lr`, `beta`, `eps` and all others of `RMSProp`, with its defaults.

    Notes
    -----
    Everything is checked anew at every call, which takes tens of microseconds: for small buffers in
    a loop, keep an `RMSProp`.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> w, v = np.array([5.0]), np.zeros(1)
    >>> fastopt.rmsprop_step(w, 2 * w, v, lr=0.1)
    >>> w, v
    (array([4.68377223]), array([10.]))
    """
    given = {"square_avg": square_avg, "grad_avg": grad_avg, "momentum_buffer": momentum_buffer}
    _step(RMSProp, param, grad, given, step, grad_scale, settings)


def _step(
    optimizer_class: Callable[..., NamedOptimizer],
    param: Any,
    grad: Any,
    given: dict[str, Any],
    step: int,
    grad_scale: float,
    settings: dict[str, Any],
) -> None:
    state = {name: array for name, array in given.items() if array is not None}
    optimizer = optimizer_class(param, **settings, state=state)
    missing = optimizer.state.keys() - state.keys()
    if missing:
        raise ValueError(f"these settings need the state {', '.join(sorted(missing))}")
    optimizer._go_to_step(step)
    optimizer.step(grad, grad_scale=grad_scale)
