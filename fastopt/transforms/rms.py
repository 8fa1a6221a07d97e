"""Normalization by a moving average of squares: the heart of RMSProp."""

from __future__ import annotations

from typing import Any

from fastopt.transforms import moments
from fastopt.transforms.base import Transform, Update, factory
from fastopt.transforms.moments import first_moment, second_moment
from fastopt.transforms.roots import Root, positive_eps, root_eps_inside, root_eps_outside
from fastopt.validation import (
    Hyper,
    Setting,
    at,
    decay_rate,
    flag,
    nonnegative,
    nonnegative_number,
    per_step,
)


def _as_it_is(average, unbias):
    return average


def _corrected(average, unbias):
    return unbias * average


def _rms(root: Root, correct: Root) -> Update:
    def rms_update(update, param, state, hyper):
        (square_avg,) = state
        beta, mix, eps, unbias = hyper
        square_avg = second_moment(square_avg, update, beta, mix)
        return update / root(correct(square_avg, unbias), eps), (square_avg,)

    return rms_update


def _stddev(root: Root, correct: Root) -> Update:
    def stddev_update(update, param, state, hyper):
        square_avg, grad_avg = state
        beta, mix, eps, unbias = hyper
        square_avg = second_moment(square_avg, update, beta, mix)
        grad_avg = first_moment(grad_avg, update, beta, mix)
        mean = correct(grad_avg, unbias)
        variance = correct(square_avg, unbias) - mean * mean
        # Rounding can make the difference negative where the gradient hardly changes.
        # Written so that a NaN stays a NaN.
        if variance < 0.0:
            variance = 0.0
        return update / root(variance, eps), (square_avg, grad_avg)

    return stddev_update


def rms_no_gradient(update, param, state, hyper):
    beta, _, eps, _ = hyper
    positive_eps(eps)
    return update, tuple(beta * average for average in state)


_ROOTS = {True: root_eps_inside, False: root_eps_outside}
_CORRECTIONS = {True: _corrected, False: _as_it_is}
_VARIANTS = [(inside, corrected) for inside in _ROOTS for corrected in _CORRECTIONS]
# By eps_inside_sqrt and bias_correction.
_RMS = {(i, c): _rms(_ROOTS[i], _CORRECTIONS[c]) for i, c in _VARIANTS}
_STDDEV = {(i, c): _stddev(_ROOTS[i], _CORRECTIONS[c]) for i, c in _VARIANTS}


def _average(beta: Setting, eps: Setting, bias_correction: bool) -> dict[str, Any]:
    """The arguments `hyper`, of beta, 1 - beta, eps and bias correction, and `settings`."""
    beta, eps = decay_rate("beta", beta), nonnegative("eps", eps)
    named = {"beta": (decay_rate, beta), "eps": (nonnegative, eps)}
    if not bias_correction:
        return {"hyper": per_step(lambda b, e: (b, 1.0 - b, e, 1.0), beta, eps), "settings": named}

    def corrected(step: int) -> Hyper:
        b = at(beta, step)
        return b, 1.0 - b, at(eps, step), moments.bias_correction(b, step)

    return {"hyper": corrected, "settings": named}


@factory
def scale_by_rms(
    beta: Setting = 0.9,
    eps: Setting = 1e-8,
    *,
    eps_inside_sqrt: bool = True,
    bias_correction: bool = False,
    initial_accumulator: float = 0.0,
) -> Transform:
    """Divide by the root of a moving average of the squares.

    ``v = beta * v + (1 - beta) * u * u``, then ``u = u / sqrt(v + eps)``, or
    ``u / (sqrt(v) + eps)`` without `eps_inside_sqrt`.

    Parameters
    ----------
    beta : float or schedule
        The weight of the past, in [0, 1): the average spans about ``1 / (1 - beta)`` steps.
    eps : float or schedule
        Keeps the division finite, >= 0. With 0 an element whose gradients were all zero gives
        0/0 = NaN, as in torch.
    eps_inside_sqrt : bool
        Where epsilon stands. In torch it stands outside, in Keras inside.
    bias_correction : bool
        Divide ``v`` by ``1 - beta**t`` at step ``t = 1, 2, ...`` (the stored average stays as it is).
    initial_accumulator : float
        Where ``v`` starts, >= 0.

    Notes
    -----
    State: ``square_avg``.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> from fastopt import chain, transforms as t
    >>> w = np.array([5.0])
    >>> opt = fastopt.Optimizer(w, chain(t.scale_by_rms(0.9), t.scale_by_learning_rate(0.1)))
    >>> opt.step(2 * w)
    >>> w.round(4)
    array([4.6838])
    """
    return Transform(
        _RMS[flag("eps_inside_sqrt", eps_inside_sqrt), flag("bias_correction", bias_correction)],
        state={"square_avg": nonnegative_number("initial_accumulator", initial_accumulator)},
        nonnegative=("square_avg",),
        no_gradient=rms_no_gradient,
        **_average(beta, eps, bias_correction),
    )


@factory
def scale_by_stddev(
    beta: Setting = 0.9,
    eps: Setting = 1e-8,
    *,
    eps_inside_sqrt: bool = True,
    bias_correction: bool = False,
    initial_accumulator: float = 0.0,
) -> Transform:
    """Divide by a moving standard deviation: "centered" RMSProp.

    ``v = beta * v + (1 - beta) * u * u`` and ``m = beta * m + (1 - beta) * u``, then
    ``u = u / sqrt(max(v - m * m, 0) + eps)``, with epsilon outside the root on request.

    Parameters
    ----------
    beta, eps, eps_inside_sqrt, bias_correction, initial_accumulator
        As in `scale_by_rms`. The bias correction holds for ``m`` too.

    Notes
    -----
    State: ``square_avg`` and ``grad_avg``. torch does not clamp the variance, and gives NaN where
    rounding makes it negative.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> from fastopt import chain, transforms as t
    >>> w = np.array([5.0])
    >>> opt = fastopt.Optimizer(w, chain(t.scale_by_stddev(0.9), t.scale_by_learning_rate(0.1)))
    >>> opt.step(2 * w)
    >>> sorted(opt.state), w.round(4)
    (['grad_avg', 'square_avg'], array([4.6667]))
    """
    return Transform(
        _STDDEV[flag("eps_inside_sqrt", eps_inside_sqrt), flag("bias_correction", bias_correction)],
        state={
            "square_avg": nonnegative_number("initial_accumulator", initial_accumulator),
            "grad_avg": 0.0,
        },
        nonnegative=("square_avg",),
        no_gradient=rms_no_gradient,
        **_average(beta, eps, bias_correction),
    )
