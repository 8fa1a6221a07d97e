"""One step for those who own their state: functions instead of objects.

Each is made from the class of its name: the same kernels, checks and results. Everything is checked
anew at every call, which takes tens of microseconds; for small buffers in a loop, keep an optimizer.
"""

from __future__ import annotations

import inspect
from numbers import Real
from typing import Any, Protocol

from fastopt.optimizers.automatic import is_automatic
from fastopt.optimizers.named import NamedOptimizer
from fastopt.optimizers.registry import ONE_SHOT, optimizer_class
from fastopt.steps.clipping import GradientStats
from fastopt.validation import whole_number

_DOC = """One step of `{kind}` on arrays that the caller keeps, all updated in place.

    Parameters
    ----------
    param, grad : array, or structures of arrays
        Parameter and gradient, as for `{kind}` and its ``step``.
    step : int
        The number of this step, from 0. Needed where the mathematics depends on it: for bias
        corrections, schedules and stochastic rounding.
    grad_scale : float, optional
        Gradients are multiplied by ``1 / grad_scale`` first.
    **states_and_settings
        The state arrays that these settings need, by their names in ``{kind}(...).state``; before the
        first step they hold what `{kind}` starts them with, mostly zeros. And the settings and options
        of `{kind}`, with its defaults.

    Returns
    -------
    GradientStats or None
        With ``clip_norm`` or ``skip_nonfinite``: the norm, and whether the step was skipped.

    Raises
    ------
    TypeError, ValueError
        An argument is missing or not acceptable. Nothing was changed.

    See Also
    --------
    {kind} : keeps state and count, checks once, and is quicker to call.
    """

_EXAMPLE = """

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> w = np.ones(3)
    >>> states = dict(fastopt.{kind}(w).state)  # arrays as {kind} starts with
    >>> fastopt.{name}(w, 2 * w, step=0, lr=0.1, **states)
    >>> bool((w < 1).all())
    True
    """


class OneShot(Protocol):
    """What `one_shot` makes."""

    def __call__(
        self,
        param: object,
        grad: object,
        *,
        step: int = ...,
        grad_scale: float = 1.0,
        **states_and_settings: object,
    ) -> GradientStats | None: ...


def one_shot(optimizer: type[NamedOptimizer]) -> OneShot:
    """Make a function that takes one step of an optimizer's class on arrays that the caller keeps.

    Parameters
    ----------
    optimizer : class
        `Adam` or another one, or one of your own.

    Returns
    -------
    function
        ``adam_step(param, grad, *, step, grad_scale=1.0, **states_and_settings)``.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> rmsprop_step = fastopt.one_shot(fastopt.RMSProp)  # fastopt.rmsprop_step is this one
    >>> w, v = np.array([5.0]), np.zeros(1)
    >>> rmsprop_step(w, 2 * w, square_avg=v, lr=0.1)
    >>> w, v
    (array([4.68377223]), array([10.]))
    """
    if not (isinstance(optimizer, type) and issubclass(optimizer, NamedOptimizer)):
        raise TypeError(f"optimizer must be a class of a named optimizer, not {optimizer!r}")
    fields = optimizer._fields

    def take(
        param: object,
        grad: object,
        *,
        step: object = None,
        grad_scale: float = 1.0,
        **states_and_settings: object,
    ) -> GradientStats | None:
        settings = {k: v for k, v in states_and_settings.items() if k in fields or _is_setting(v)}
        state = {k: v for k, v in states_and_settings.items() if k not in settings and v is not None}
        return _take(optimizer, take.__name__, param, grad, step, grad_scale, settings, state)

    kind = optimizer.__name__
    take.__name__ = take.__qualname__ = name = f"{kind.lower()}_step"
    example = _EXAMPLE if kind.lower() in ONE_SHOT else ""
    take.__doc__ = inspect.cleandoc((_DOC.rstrip() + example).format(kind=kind, name=name))
    return take


def _take(
    kind: type[NamedOptimizer],
    name: str,
    param: object,
    grad: object,
    step: object,
    grad_scale: float,
    settings: dict[str, Any],
    state: dict[str, object],
) -> GradientStats | None:
    if is_automatic(settings.get("lr")):
        raise ValueError(
            f"lr must be a number or a schedule for {name}: {settings['lr']!r} follows from the steps "
            "before, so keep an optimizer"
        )
    if settings.get("stats"):
        raise ValueError(f"stats must be empty for {name}: an optimizer has them, as opt.stats")
    optimizer = kind(param, **settings, state=state)
    decisions = optimizer._steps.decisions
    if decisions.carries or decisions.waits:
        raise ValueError(
            f"{name} cannot step {kind.__name__}, whose transforms carry numbers from step to step: "
            "keep an optimizer"
        )
    if missing := optimizer._state.keys() - state.keys():
        raise ValueError(f"these settings need the state {', '.join(sorted(missing))}")
    if step is not None:
        optimizer._steps.go_to(whole_number("step", step))
    elif optimizer._steps.varies or optimizer._watch.varies:
        raise TypeError(f"{name} needs step, the number of this step (0, 1, ...), with these settings")
    optimizer.step(grad, grad_scale=grad_scale)
    optimizer.catch_up()
    return optimizer.last


def _is_setting(value: object) -> bool:
    """Whether this cannot be meant as a state; the optimizer refuses names that it does not have."""
    return isinstance(value, (Real, str)) or callable(value)


def __getattr__(name: str) -> OneShot:
    kind = name.removesuffix("_step")
    if kind == name or kind not in ONE_SHOT:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = function = one_shot(optimizer_class(kind))
    return function
