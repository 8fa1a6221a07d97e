"""Moving averages of an update and of its square, and the corrections of their start from zero."""

from __future__ import annotations

from typing import Any

from fastopt.validation import Check, Hyper, Setting, at, decay_rate, if_above, nonnegative


def first_moment(average, update, beta, mix):
    """``m = beta * m + mix * u``, where `mix` is ``1 - beta`` in an average."""
    return beta * average + mix * update


def second_moment(average, update, beta, mix):
    """``v = beta * v + (1 - beta) * u * u``."""
    return beta * average + mix * update * update


def infinity_norm(norm, size, beta):
    """``n = max(beta * n, size)``; a NaN of either stays."""
    norm = beta * norm
    if size > norm or size != size:
        norm = size
    return norm


def bias_correction(beta: float, step: int) -> float:
    """The factor that makes an average from zero unbiased: ``1 / (1 - beta**t)``, at step 0, 1, ..."""
    return 1.0 / (1.0 - beta ** (step + 1))


def nadam_momentum(beta1: float, decay: float, step: int) -> float:
    """``mu_t = beta1 * (1 - 0.96**(t * decay) / 2)``, at step 0, 1, ...: it warms up."""
    warming: float = 0.96 ** ((step + 1) * decay)
    return beta1 * (1.0 - 0.5 * warming)


def rectification(beta2: float, threshold: float, step: int) -> float:
    """RAdam's factor ``r_t`` at step 0, 1, ..., and 0 while ``rho_t`` does not exceed the threshold."""
    longest = 2.0 / (1.0 - beta2) - 1.0
    past = beta2 ** (step + 1)
    length = longest - 2.0 * (step + 1) * past / (1.0 - past)

    def factor() -> float:
        of_all = (longest - 4.0) * (longest - 2.0) / longest
        ratio: float = (length - 4.0) * (length - 2.0) / length / of_all
        root: float = ratio**0.5
        return root

    return if_above(length, threshold, factor, 0.0)


# On the host: the settings of averages, and their hyperparameters.


def named_averages(beta1: Setting, beta2: Setting, eps: Setting) -> dict[str, tuple[Check, Setting]]:
    """The settings, checked, with the check of each."""
    return {
        "beta1": (decay_rate, decay_rate("beta1", beta1)),
        "beta2": (decay_rate, decay_rate("beta2", beta2)),
        "eps": (nonnegative, nonnegative("eps", eps)),
    }


def averages(beta1: Setting, beta2: Setting, eps: Setting, corrects: bool) -> dict[str, Any]:
    """The arguments `hyper` and `settings` of a transform with a first and a second moment.

    The hyperparameters are beta, ``1 - beta`` and bias correction of each, and epsilon.
    """
    named = named_averages(beta1, beta2, eps)
    first, second, epsilon = (value for _, value in named.values())

    def hyper(step: int) -> Hyper:
        b1, b2, unbias1, unbias2 = at(first, step), at(second, step), 1.0, 1.0
        if corrects:
            unbias1, unbias2 = bias_correction(b1, step), bias_correction(b2, step)
        return b1, 1 - b1, unbias1, b2, 1 - b2, unbias2, at(epsilon, step)

    varies = corrects or any(map(callable, (first, second, epsilon)))
    return {"hyper": hyper if varies else hyper(0), "settings": named}
