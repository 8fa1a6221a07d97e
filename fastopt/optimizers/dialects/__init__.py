"""Other libraries' algebra, defaults and argument names, as settings of fastopt's optimizers.

Each function of the modules has the signature of the other library's optimizer and returns the settings
that give the same numbers here: to see how a library differs, read its line.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping

from fastopt.optimizers.dialects import keras, optax, others, torch
from fastopt.optimizers.dialects.common import Dialect as Dialect
from fastopt.optimizers.dialects.common import Settings
from fastopt.optimizers.dialects.common import not_at_first as _not_at_first  # noqa: F401
from fastopt.optimizers.dialects.common import uncorrected as _uncorrected  # noqa: F401
from fastopt.optimizers.suggestions import refusal

# The two names with an underscore are in pickles.

DIALECTS: dict[str, dict[str, Dialect]] = {
    "RMSProp": {
        "torch": torch.rmsprop,
        "keras": keras.rmsprop,
        "tensorflow1": others.rmsprop_tensorflow1,
        "optax": optax.rmsprop,
        "timm": others.rmsprop_timm,
        "graves": others.rmsprop_graves,
    },
    "SGD": {
        "torch": torch.sgd,
        "keras": keras.sgd,
        "tensorflow1": others.sgd_tensorflow1,
        "optax": optax.sgd,
    },
    "AdaGrad": {
        "torch": torch.adagrad,
        "keras": keras.adagrad,
        "tensorflow1": others.adagrad_tensorflow1,
        "optax": optax.adagrad,
    },
    "Adam": {
        "torch": torch.adam,
        "keras": keras.adam,
        "tensorflow1": others.adam_tensorflow1,
        "optax": optax.adam,
    },
    "AdamW": {"torch": torch.adamw, "keras": keras.adamw, "optax": optax.adamw},
    "NAdam": {"torch": torch.nadam, "keras": keras.nadam, "optax": optax.nadam},
    "Lion": {"keras": keras.lion, "optax": optax.lion},
    "AdaMax": {"torch": torch.adamax, "keras": keras.adamax, "optax": optax.adamax},
    "AdaDelta": {"torch": torch.adadelta, "keras": keras.adadelta, "optax": optax.adadelta},
    "RAdam": {"torch": torch.radam, "optax": optax.radam},
    "AdaBelief": {"optax": optax.adabelief},
    "Yogi": {"optax": optax.yogi},
    "QHAdam": {"qhoptim": others.qhadam_qhoptim},
    "AdEMAMix": {"optax": optax.ademamix},
    "Adan": {"optax": optax.adan},
    "Rprop": {"torch": torch.rprop},
    "ASGD": {"torch": torch.asgd},
    "LARS": {"optax": optax.lars},
    "LAMB": {"optax": optax.lamb},
    "Prodigy": {"optax": optax.prodigy},
}


def translate(
    optimizer: str,
    dialects: Mapping[str, Dialect],
    dialect: str,
    arguments: Mapping[str, object],
    shared: Iterable[str],
) -> Settings:
    """The settings of fastopt's optimizer for another library's arguments."""
    if dialect not in dialects:
        raise ValueError(
            f"dialect must be one of {', '.join(dialects) or 'none'} for {optimizer}, got {dialect!r}"
        )
    parameters = inspect.signature(dialects[dialect]).parameters
    passed = {name: value for name, value in arguments.items() if name in parameters}
    ours = {name: value for name, value in arguments.items() if name not in parameters}
    shared = set(shared)
    unknown = [name for name in ours if name not in shared]
    if unknown:
        refused = refusal(unknown, [*parameters, *shared])
        raise TypeError(
            f"{optimizer}.like({dialect!r}) has no argument {refused}; it takes "
            f"{', '.join(parameters)}, and fastopt's shared options"
        )
    missing = [
        name
        for name, parameter in parameters.items()
        if parameter.default is inspect.Parameter.empty and name not in passed
    ]
    if missing:
        raise TypeError(f"{dialect}'s {optimizer} needs the argument {', '.join(missing)}")
    return {**dialects[dialect](**passed), **ours}
