"""What the dialects of several optimizers share."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

from fastopt.validation import Setting, at

Settings: TypeAlias = dict[str, Any]
Dialect: TypeAlias = Callable[..., Settings]


def keras_options(weight_decay: object, clipvalue: object, global_clipnorm: object) -> Settings:
    """What all of Keras's optimizers take: its decay is decoupled."""
    decay = {"weight_decay": weight_decay or 0.0, "decoupled_weight_decay": True}
    return {**decay, "clip_value": clipvalue, "clip_norm": global_clipnorm}


def beside_uncorrected(eps: Setting, beta2: Setting) -> Setting:
    """Epsilon beside ``sqrt(v)``, as if it stood beside the corrected ``sqrt(v / (1 - beta2**t))``."""
    return partial(uncorrected, eps, beta2)


# Schedules are functions of the module, so that optimizers that use them can be pickled.


def uncorrected(eps: Setting, beta2: Setting, step: int) -> float:
    """Epsilon at a step, see `beside_uncorrected`."""
    result: float = at(eps, step) / (1.0 - at(beta2, step) ** (step + 1)) ** 0.5
    return result


def not_at_first(setting: Setting, step: int) -> float:
    """The setting, but 0 in the first step."""
    return 0.0 if step == 0 else at(setting, step)


def complement(weight: Setting) -> Setting:
    """One minus a weight that may be scheduled."""
    return partial(_complement, weight) if callable(weight) else 1.0 - weight


def _complement(weight: Setting, step: int) -> float:
    return 1.0 - at(weight, step)
