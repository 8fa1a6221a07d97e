"""Moving averages of an update and of its square, and the corrections of their start from zero."""

from __future__ import annotations


def first_moment(average, update, beta, mix):
    """``m = beta * m + (1 - beta) * u``, where `mix` is ``1 - beta``."""
    return beta * average + mix * update


def second_moment(average, update, beta, mix):
    """``v = beta * v + (1 - beta) * u * u``."""
    return beta * average + mix * update * update


def bias_correction(beta: float, step: int) -> float:
    """The factor that makes an average from zero unbiased: ``1 / (1 - beta**t)``, at step 0, 1, ..."""
    return 1.0 / (1.0 - beta ** (step + 1))


def nadam_momentum(beta1: float, decay: float, step: int) -> float:
    """``mu_t = beta1 * (1 - 0.96**(t * decay) / 2)``, at step 0, 1, ...: it warms up."""
    warming: float = 0.96 ** ((step + 1) * decay)
    return beta1 * (1.0 - 0.5 * warming)
