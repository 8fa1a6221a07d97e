"""Moving averages of the gradient and of its square: Adam and NAdam."""

from __future__ import annotations

from functools import lru_cache

from fastopt.transforms.base import Transform, Update, factory
from fastopt.transforms.moments import (
    averages,
    bias_correction,
    first_moment,
    nadam_momentum,
    named_averages,
    second_moment,
)
from fastopt.transforms.roots import Root, positive_eps, root_eps_inside, root_eps_outside
from fastopt.validation import Hyper, Setting, at, flag, nonnegative


def _adam(root: Root) -> Update:
    def adam_update(update, param, state, hyper):
        exp_avg, exp_avg_sq = state
        beta1, mix1, unbias1, beta2, mix2, unbias2, eps = hyper
        exp_avg = first_moment(exp_avg, update, beta1, mix1)
        exp_avg_sq = second_moment(exp_avg_sq, update, beta2, mix2)
        update = unbias1 * exp_avg / root(unbias2 * exp_avg_sq, eps)
        return update, (exp_avg, exp_avg_sq)

    return adam_update


def _amsgrad(root: Root) -> Update:
    def amsgrad_update(update, param, state, hyper):
        exp_avg, exp_avg_sq, max_exp_avg_sq = state
        beta1, mix1, unbias1, beta2, mix2, unbias2, eps = hyper
        exp_avg = first_moment(exp_avg, update, beta1, mix1)
        exp_avg_sq = second_moment(exp_avg_sq, update, beta2, mix2)
        # "not <=" rather than ">": a NaN is kept.
        if not exp_avg_sq <= max_exp_avg_sq:
            max_exp_avg_sq = exp_avg_sq
        update = unbias1 * exp_avg / root(unbias2 * max_exp_avg_sq, eps)
        return update, (exp_avg, exp_avg_sq, max_exp_avg_sq)

    return amsgrad_update


def _nadam(root: Root) -> Update:
    def nadam_update(update, param, state, hyper):
        exp_avg, exp_avg_sq = state
        beta1, mix1, weight, grad_weight, beta2, mix2, unbias2, eps = hyper
        exp_avg = first_moment(exp_avg, update, beta1, mix1)
        exp_avg_sq = second_moment(exp_avg_sq, update, beta2, mix2)
        ahead = weight * exp_avg + grad_weight * update
        return ahead / root(unbias2 * exp_avg_sq, eps), (exp_avg, exp_avg_sq)

    return nadam_update


def adam_no_gradient(update, param, state, hyper):
    beta1, beta2, eps = hyper[0], hyper[-4], hyper[-1]
    if beta1 != 0.0:
        raise ValueError(
            "with beta1 > 0 the parameter keeps moving by m / sqrt(v), which is not linear"
        )
    positive_eps(eps)
    exp_avg, exp_avg_sq, *largest = state
    return update, (beta1 * exp_avg, beta2 * exp_avg_sq, *largest)


_ADAM = {True: _adam(root_eps_inside), False: _adam(root_eps_outside)}
_AMSGRAD = {True: _amsgrad(root_eps_inside), False: _amsgrad(root_eps_outside)}
_NADAM = {True: _nadam(root_eps_inside), False: _nadam(root_eps_outside)}


@factory
def scale_by_adam(
    beta1: Setting = 0.9,
    beta2: Setting = 0.999,
    eps: Setting = 1e-8,
    *,
    eps_inside_sqrt: bool = False,
    bias_correction: bool = True,
    amsgrad: bool = False,
) -> Transform:
    """Divide a moving average of the update by the root of one of its square.

    ``m = beta1 * m + (1 - beta1) * u``, ``v = beta2 * v + (1 - beta2) * u * u``, then
    ``u = m' / (sqrt(v') + eps)`` with ``m' = m / (1 - beta1**t)`` and ``v' = v / (1 - beta2**t)``
    at step ``t = 1, 2, ...``.

    Parameters
    ----------
    beta1, beta2 : float or schedule
        Weights of the past, in [0, 1).
    eps : float or schedule
        >= 0.
    eps_inside_sqrt : bool
        ``sqrt(v' + eps)`` instead.
    bias_correction : bool
        Without it ``m' = m`` and ``v' = v``.
    amsgrad : bool
        Put the largest ``v`` so far in its place.

    Notes
    -----
    State: ``exp_avg``, ``exp_avg_sq`` and with `amsgrad` ``max_exp_avg_sq``. Keras compares epsilon
    with the uncorrected ``sqrt(v)``; ``Adam.like("keras", ...)`` does the same.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> from fastopt import chain, transforms as t
    >>> w = np.array([5.0, -3.0])
    >>> opt = fastopt.Optimizer(w, chain(t.scale_by_adam(), t.scale_by_learning_rate(0.1)))
    >>> opt.step(2 * w)
    >>> w.round(4)
    array([ 4.9, -2.9])
    """
    inside = flag("eps_inside_sqrt", eps_inside_sqrt)
    names = ["exp_avg", "exp_avg_sq"]
    if flag("amsgrad", amsgrad):
        names.append("max_exp_avg_sq")
    return Transform(
        (_AMSGRAD if amsgrad else _ADAM)[inside],
        state=dict.fromkeys(names, 0.0),
        nonnegative=tuple(names[1:]),
        no_gradient=adam_no_gradient,
        **averages(beta1, beta2, eps, flag("bias_correction", bias_correction)),
    )


# A product of momenta below this, 2**-54, no longer changes a hyperparameter: 1.0 minus it is 1.0.
NEGLIGIBLE = 2.0**-54


class _Momenta:
    """The momentum ``mu_t`` of each step, and the product of the momenta up to it.

    Products are kept for every step until they are negligible, which takes 355 steps with
    ``beta1=0.9``: arrays that skipped steps need those of earlier ones.
    """

    def __init__(self, beta1: Setting, momentum_decay: Setting | None) -> None:
        self._beta1 = beta1
        self._decay = momentum_decay
        # Of the first 0, 1, ... momenta. Optimizers in several threads share this without a lock, which
        # a fork could copy while it is held: an entry that is computed twice gets the same value.
        self._products = {0: 1.0}

    def momentum(self, step: int) -> float:
        beta1 = float(at(self._beta1, step))
        if self._decay is None:
            return beta1
        return nadam_momentum(beta1, at(self._decay, step), step)

    def product(self, step: int) -> float:
        """``mu_1 * mu_2 * ... `` including this step's, in this order; 0.0 once it is negligible."""
        products = self._products
        while step + 1 >= (count := len(products)) and products[count - 1] >= NEGLIGIBLE:
            products[count] = products[count - 1] * self.momentum(count - 1)
        return products.get(step + 1, 0.0)


@lru_cache(maxsize=16)
def _constant_momenta(beta1: float, momentum_decay: float | None) -> _Momenta:
    """The shared momenta of constant settings: assigning any setting builds a new chain."""
    return _Momenta(beta1, momentum_decay)


def nadam_numbers(
    step: int, beta1: float, beta2: float, eps: float, now: float, ahead: float, product: float
) -> Hyper:
    """NAdam's hyperparameters, from the momenta of this step and the next, and their product so far."""
    weight, grad_weight = ahead / (1 - product * ahead), (1 - now) / (1 - product)
    unbias2 = bias_correction(beta2, step)
    return beta1, 1 - beta1, weight, grad_weight, beta2, 1 - beta2, unbias2, eps


@factory
def scale_by_nadam(
    beta1: Setting = 0.9,
    beta2: Setting = 0.999,
    eps: Setting = 1e-8,
    *,
    momentum_decay: Setting | None = 4e-3,
    eps_inside_sqrt: bool = False,
) -> Transform:
    """Adam with Nesterov momentum that warms up.

    With ``mu_t = beta1 * (1 - 0.96**(t * momentum_decay) / 2)`` and ``p_t = mu_1 * ... * mu_t``,
    ``u = (mu_(t+1) * m / (1 - p_(t+1)) + (1 - mu_t) * u / (1 - p_t)) / (sqrt(v') + eps)``,
    where ``m``, ``v`` and ``v'`` are those of `scale_by_adam`.

    Parameters
    ----------
    beta1, beta2, eps, eps_inside_sqrt
        As in `scale_by_adam`.
    momentum_decay : float or schedule or None
        How fast the momentum warms up, >= 0. torch has 0.004, Keras 1. With None it does not:
        ``mu_t = beta1``, as in optax.

    Notes
    -----
    State: ``exp_avg``, ``exp_avg_sq``.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> from fastopt import chain, transforms as t
    >>> w = np.array([5.0, -3.0])
    >>> opt = fastopt.Optimizer(w, chain(t.scale_by_nadam(), t.scale_by_learning_rate(0.1)))
    >>> opt.step(2 * w)
    >>> bool((abs(w) < [5.0, 3.0]).all())
    True
    """
    named = named_averages(beta1, beta2, eps)
    first, second, epsilon = (value for _, value in named.values())
    decay = None if momentum_decay is None else nonnegative("momentum_decay", momentum_decay)
    momenta = (_Momenta if callable(first) or callable(decay) else _constant_momenta)(first, decay)

    def hyper(step: int) -> Hyper:
        b1, b2 = at(first, step), at(second, step)
        now, ahead = momenta.momentum(step), momenta.momentum(step + 1)
        return nadam_numbers(step, b1, b2, at(epsilon, step), now, ahead, momenta.product(step))

    return Transform(
        _NADAM[flag("eps_inside_sqrt", eps_inside_sqrt)],
        state={"exp_avg": 0.0, "exp_avg_sq": 0.0},
        nonnegative=("exp_avg_sq",),
        hyper=hyper,
        no_gradient=adam_no_gradient,
        settings=named,
    )
