"""One step for those who own their state: functions instead of objects.

Each is a few lines over the class of the same name: the same kernels, checks and results. Everything
is checked anew at every call, which takes tens of microseconds; for small buffers in a loop, keep an
optimizer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastopt.optimizers.adagrad import AdaGrad
from fastopt.optimizers.adam import Adam, AdamW, NAdam
from fastopt.optimizers.named import NamedOptimizer
from fastopt.optimizers.rmsprop import RMSProp
from fastopt.optimizers.sgd import SGD


def sgd_step(
    param: Any,
    grad: Any,
    *,
    momentum_buffer: Any = None,
    average: Any = None,
    step: int = 0,
    grad_scale: float = 1.0,
    **settings: Any,
) -> None:
    """One step of gradient descent on arrays that the caller keeps, all updated in place.

    Parameters
    ----------
    param, grad : array, or structures of arrays
        Parameter and gradient, of one shape and dtype.
    momentum_buffer : array, optional
        Needed with ``momentum``; zeros before the first step.
    average : array, optional
        Needed with ``average_decay``.
    step : int, optional
        The number of this step, from 0: what schedules go by.
    grad_scale : float, optional
        The gradient is multiplied by its inverse.
    **settings
        `lr`, `momentum`, `dampening`, `nesterov`,
        and the shared options, with the defaults of `SGD`.

    See Also
    --------
    SGD : keeps state and count, checks once, and is quicker to call.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> w, m = np.array([5.0]), np.zeros(1)
    >>> fastopt.sgd_step(w, 2 * w, momentum_buffer=m, lr=0.1, momentum=0.9)
    >>> w, m
    (array([4.]), array([10.]))
    """
    given = {"momentum_buffer": momentum_buffer, "average": average}
    _step(SGD, param, grad, given, step, grad_scale, settings)


def rmsprop_step(
    param: Any,
    grad: Any,
    square_avg: Any,
    *,
    grad_avg: Any = None,
    momentum_buffer: Any = None,
    average: Any = None,
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
    average : array, optional
        Needed with ``average_decay``.
    step : int, optional
        The number of this step, from 0: what schedules and ``bias_correction`` go by.
    grad_scale : float, optional
        The gradient is multiplied by its inverse.
    **settings
        `lr`, `beta`, `eps`, `centered`, `momentum` and the others,
        and the shared options, with the defaults of `RMSProp`.

    See Also
    --------
    RMSProp : keeps state and count, checks once, and is quicker to call.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> w, v = np.array([5.0]), np.zeros(1)
    >>> fastopt.rmsprop_step(w, 2 * w, v, lr=0.1)
    >>> w, v
    (array([4.68377223]), array([10.]))
    """
    given = {
        "square_avg": square_avg,
        "grad_avg": grad_avg,
        "momentum_buffer": momentum_buffer,
        "average": average,
    }
    _step(RMSProp, param, grad, given, step, grad_scale, settings)


def adagrad_step(
    param: Any,
    grad: Any,
    sum: Any,
    *,
    average: Any = None,
    step: int = 0,
    grad_scale: float = 1.0,
    **settings: Any,
) -> None:
    """One step of AdaGrad on arrays that the caller keeps, all updated in place.

    Parameters
    ----------
    param, grad, sum : array, or structures of arrays
        Parameter, gradient and sum of squares, of one shape and dtype.
    average : array, optional
        Needed with ``average_decay``.
    step : int, optional
        The number of this step, from 0: what schedules and ``lr_decay`` go by.
    grad_scale : float, optional
        The gradient is multiplied by its inverse.
    **settings
        `lr`, `eps`, `eps_inside_sqrt`, `lr_decay`,
        and the shared options, with the defaults of `AdaGrad`.

    See Also
    --------
    AdaGrad : keeps state and count, checks once, and is quicker to call.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> w, s = np.array([5.0]), np.zeros(1)
    >>> fastopt.adagrad_step(w, 2 * w, s, lr=0.1)
    >>> w, s
    (array([4.9]), array([100.]))
    """
    given = {"sum": sum, "average": average}
    _step(AdaGrad, param, grad, given, step, grad_scale, settings)


def adam_step(
    param: Any,
    grad: Any,
    exp_avg: Any,
    exp_avg_sq: Any,
    *,
    max_exp_avg_sq: Any = None,
    average: Any = None,
    step: int = 0,
    grad_scale: float = 1.0,
    **settings: Any,
) -> None:
    """One step of Adam on arrays that the caller keeps, all updated in place.

    Parameters
    ----------
    param, grad, exp_avg, exp_avg_sq : array, or structures of arrays
        Parameter, gradient and the averages of it and of its square, of one shape and dtype.
    max_exp_avg_sq : array, optional
        Needed with ``amsgrad=True``.
    average : array, optional
        Needed with ``average_decay``.
    step : int, optional
        The number of this step, from 0: the bias correction goes by it, so that a step with
        the wrong number is a wrong step.
    grad_scale : float, optional
        The gradient is multiplied by its inverse.
    **settings
        `lr`, `beta1`, `beta2`, `eps`, `eps_inside_sqrt`, `bias_correction`, `amsgrad`,
        and the shared options, with the defaults of `Adam`.

    See Also
    --------
    Adam : keeps state and count, checks once, and is quicker to call.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> w, m, v = np.array([5.0]), np.zeros(1), np.zeros(1)
    >>> for step in range(2):
    ...     fastopt.adam_step(w, 2 * w, m, v, step=step, lr=0.1)
    >>> w
    array([4.80005776])
    """
    given = {
        "exp_avg": exp_avg,
        "exp_avg_sq": exp_avg_sq,
        "max_exp_avg_sq": max_exp_avg_sq,
        "average": average,
    }
    _step(Adam, param, grad, given, step, grad_scale, settings)


def adamw_step(
    param: Any,
    grad: Any,
    exp_avg: Any,
    exp_avg_sq: Any,
    *,
    max_exp_avg_sq: Any = None,
    average: Any = None,
    step: int = 0,
    grad_scale: float = 1.0,
    **settings: Any,
) -> None:
    """One step of AdamW on arrays that the caller keeps, all updated in place.

    Parameters
    ----------
    param, grad, exp_avg, exp_avg_sq : array, or structures of arrays
        Parameter, gradient and the averages of it and of its square, of one shape and dtype.
    max_exp_avg_sq : array, optional
        Needed with ``amsgrad=True``.
    average : array, optional
        Needed with ``average_decay``.
    step : int, optional
        The number of this step, from 0: the bias correction goes by it.
    grad_scale : float, optional
        The gradient is multiplied by its inverse.
    **settings
        `weight_decay`, and those of `adam_step`,
        and the shared options, with the defaults of `AdamW`.

    See Also
    --------
    AdamW : keeps state and count, checks once, and is quicker to call.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> w, m, v = np.array([5.0]), np.zeros(1), np.zeros(1)
    >>> for step in range(2):
    ...     fastopt.adamw_step(w, 2 * w, m, v, step=step, lr=0.1, weight_decay=0.1)
    >>> w
    array([4.70159097])
    """
    given = {
        "exp_avg": exp_avg,
        "exp_avg_sq": exp_avg_sq,
        "max_exp_avg_sq": max_exp_avg_sq,
        "average": average,
    }
    _step(AdamW, param, grad, given, step, grad_scale, settings)


def nadam_step(
    param: Any,
    grad: Any,
    exp_avg: Any,
    exp_avg_sq: Any,
    *,
    average: Any = None,
    step: int = 0,
    grad_scale: float = 1.0,
    **settings: Any,
) -> None:
    """One step of NAdam on arrays that the caller keeps, all updated in place.

    Parameters
    ----------
    param, grad, exp_avg, exp_avg_sq : array, or structures of arrays
        Parameter, gradient and the averages of it and of its square, of one shape and dtype.
    average : array, optional
        Needed with ``average_decay``.
    step : int, optional
        The number of this step, from 0: momentum and bias correction go by it.
    grad_scale : float, optional
        The gradient is multiplied by its inverse.
    **settings
        `lr`, `beta1`, `beta2`, `eps`, `momentum_decay`, `eps_inside_sqrt`,
        and the shared options, with the defaults of `NAdam`.

    See Also
    --------
    NAdam : keeps state and count, checks once, and is quicker to call.

    Notes
    -----
    The product of the momenta of all steps so far is taken anew at every call, which takes a while
    at high numbers; a `NAdam` keeps it.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> w, m, v = np.array([5.0]), np.zeros(1), np.zeros(1)
    >>> for step in range(2):
    ...     fastopt.nadam_step(w, 2 * w, m, v, step=step, lr=0.1)
    >>> w
    array([4.81673195])
    """
    given = {"exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq, "average": average}
    _step(NAdam, param, grad, given, step, grad_scale, settings)


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
    optimizer.catch_up()
