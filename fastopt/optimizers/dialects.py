"""Other libraries' algebra, defaults and argument names, as settings of fastopt's optimizers.

Each function has the signature of the other library's optimizer and returns the settings that give the
same numbers here: to see how a library differs, read its line.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, TypeAlias

from fastopt.optimizers.suggestions import refusal
from fastopt.validation import Setting, at, is_on

Settings: TypeAlias = dict[str, Any]
Dialect: TypeAlias = Callable[..., Settings]


def _rmsprop_torch(
    lr=1e-2, alpha=0.99, eps=1e-8, weight_decay=0.0, momentum=0.0, centered=False, maximize=False
):
    settings = {"lr": lr, "beta": alpha, "eps": eps, "momentum": momentum, "centered": centered}
    return {**settings, "eps_inside_sqrt": False, "weight_decay": weight_decay, "maximize": maximize}


def _rmsprop_keras(
    learning_rate=1e-3,
    rho=0.9,
    momentum=0.0,
    epsilon=1e-7,
    centered=False,
    weight_decay=None,
    clipvalue=None,
    global_clipnorm=None,
):
    settings = {"lr": learning_rate, "beta": rho, "eps": epsilon, "momentum": momentum}
    settings |= {"centered": centered, "lr_in_momentum": True}
    return {**settings, **_keras(weight_decay, clipvalue, global_clipnorm)}


def _rmsprop_tensorflow1(learning_rate, decay=0.9, momentum=0.0, epsilon=1e-10, centered=False):
    settings = {"lr": learning_rate, "beta": decay, "eps": epsilon, "momentum": momentum}
    return {**settings, "centered": centered, "lr_in_momentum": True, "initial_accumulator": 1.0}


def _rmsprop_optax(
    learning_rate,
    decay=0.9,
    eps=1e-8,
    initial_scale=0.0,
    eps_in_sqrt=True,
    centered=False,
    momentum=None,
    nesterov=False,
    bias_correction=False,
):
    settings = {"lr": learning_rate, "beta": decay, "eps": eps, "momentum": momentum or 0.0}
    settings |= {"initial_accumulator": initial_scale, "eps_inside_sqrt": eps_in_sqrt}
    settings |= {"centered": centered, "bias_correction": bias_correction}
    return {**settings, "nesterov": nesterov and momentum is not None, "lr_in_momentum": True}


def _rmsprop_timm(
    lr=1e-2,
    alpha=0.9,
    eps=1e-10,
    weight_decay=0.0,
    momentum=0.0,
    centered=False,
    decoupled_decay=False,
    lr_in_momentum=True,
):
    settings = {"lr": lr, "beta": alpha, "eps": eps, "momentum": momentum, "centered": centered}
    settings |= {"initial_accumulator": 1.0, "lr_in_momentum": lr_in_momentum}
    return {**settings, "weight_decay": weight_decay, "decoupled_weight_decay": decoupled_decay}


def _rmsprop_graves(lr=1e-4, beta=0.95, momentum=0.9, eps=1e-4):
    settings = {"lr": lr, "beta": beta, "momentum": momentum, "eps": eps}
    return {**settings, "centered": True, "lr_in_momentum": True}


def _sgd_torch(lr=1e-3, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False, maximize=False):
    # torch starts the buffer with the first gradient, undamped.
    later = partial(_not_at_first, dampening) if is_on(dampening) else 0.0
    settings = {"lr": lr, "momentum": momentum, "dampening": later, "nesterov": nesterov}
    return {**settings, "weight_decay": weight_decay, "maximize": maximize}


def _sgd_keras(
    learning_rate=0.01,
    momentum=0.0,
    nesterov=False,
    weight_decay=None,
    clipvalue=None,
    global_clipnorm=None,
):
    settings = {"lr": learning_rate, "momentum": momentum, "nesterov": nesterov and is_on(momentum)}
    settings |= {"lr_in_momentum": True}
    return {**settings, **_keras(weight_decay, clipvalue, global_clipnorm)}


def _sgd_tensorflow1(learning_rate, momentum=0.0, use_nesterov=False):
    return {"lr": learning_rate, "momentum": momentum, "nesterov": use_nesterov}


def _sgd_optax(learning_rate, momentum=None, nesterov=False):
    on = momentum is not None
    return {"lr": learning_rate, "momentum": momentum or 0.0, "nesterov": nesterov and on}


def _adagrad_torch(
    lr=1e-2, lr_decay=0.0, weight_decay=0.0, initial_accumulator_value=0.0, eps=1e-10, maximize=False
):
    settings = {"lr": lr, "lr_decay": lr_decay, "eps": eps, "eps_inside_sqrt": False}
    settings |= {"initial_accumulator": initial_accumulator_value}
    return {**settings, "weight_decay": weight_decay, "maximize": maximize}


def _adagrad_keras(
    learning_rate=1e-3,
    initial_accumulator_value=0.1,
    epsilon=1e-7,
    weight_decay=None,
    clipvalue=None,
    global_clipnorm=None,
):
    settings = {"lr": learning_rate, "eps": epsilon, "initial_accumulator": initial_accumulator_value}
    return {**settings, **_keras(weight_decay, clipvalue, global_clipnorm)}


def _adagrad_tensorflow1(learning_rate, initial_accumulator_value=0.1):
    return {"lr": learning_rate, "eps": 0.0, "initial_accumulator": initial_accumulator_value}


def _adagrad_optax(learning_rate, initial_accumulator_value=0.1, eps=1e-7):
    settings = {"lr": learning_rate, "eps": eps, "initial_accumulator": initial_accumulator_value}
    return {**settings, "guard_zero": True}


def _adam_torch(lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, amsgrad=False, maximize=False):
    settings = {"lr": lr, "beta1": betas[0], "beta2": betas[1], "eps": eps, "amsgrad": amsgrad}
    return {**settings, "weight_decay": weight_decay, "maximize": maximize}


def _adamw_torch(
    lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2, amsgrad=False, maximize=False
):
    return _adam_torch(lr, betas, eps, weight_decay, amsgrad, maximize)


def _adam_keras(
    learning_rate=1e-3,
    beta_1=0.9,
    beta_2=0.999,
    epsilon=1e-7,
    amsgrad=False,
    weight_decay=None,
    clipvalue=None,
    global_clipnorm=None,
):
    settings = {"lr": learning_rate, "beta1": beta_1, "beta2": beta_2, "amsgrad": amsgrad}
    settings |= {"eps": _beside_uncorrected(epsilon, beta_2)}
    return {**settings, **_keras(weight_decay, clipvalue, global_clipnorm)}


def _adamw_keras(
    learning_rate=1e-3,
    weight_decay=0.004,
    beta_1=0.9,
    beta_2=0.999,
    epsilon=1e-7,
    amsgrad=False,
    clipvalue=None,
    global_clipnorm=None,
):
    common = weight_decay, clipvalue, global_clipnorm
    return _adam_keras(learning_rate, beta_1, beta_2, epsilon, amsgrad, *common)


def _adam_tensorflow1(learning_rate=1e-3, beta1=0.9, beta2=0.999, epsilon=1e-8):
    eps = _beside_uncorrected(epsilon, beta2)
    return {"lr": learning_rate, "beta1": beta1, "beta2": beta2, "eps": eps}


def _adam_optax(learning_rate, b1=0.9, b2=0.999, eps=1e-8, eps_root=0.0):
    settings = {"lr": learning_rate, "beta1": b1, "beta2": b2}
    if not is_on(eps_root):
        return {**settings, "eps": eps}
    if is_on(eps):
        raise ValueError(f"eps must be 0 where eps_root is not: one epsilon is supported, got {eps}")
    return {**settings, "eps": eps_root, "eps_inside_sqrt": True}


def _adamw_optax(learning_rate, b1=0.9, b2=0.999, eps=1e-8, eps_root=0.0, weight_decay=1e-4):
    return {**_adam_optax(learning_rate, b1, b2, eps, eps_root), "weight_decay": weight_decay}


def _nadam_torch(
    lr=2e-3,
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=0.0,
    momentum_decay=4e-3,
    decoupled_weight_decay=False,
    maximize=False,
):
    settings = {"lr": lr, "beta1": betas[0], "beta2": betas[1], "eps": eps}
    settings |= {"momentum_decay": momentum_decay, "weight_decay": weight_decay}
    return {**settings, "decoupled_weight_decay": decoupled_weight_decay, "maximize": maximize}


def _nadam_keras(
    learning_rate=1e-3,
    beta_1=0.9,
    beta_2=0.999,
    epsilon=1e-7,
    weight_decay=None,
    clipvalue=None,
    global_clipnorm=None,
):
    settings = {"lr": learning_rate, "beta1": beta_1, "beta2": beta_2, "eps": epsilon}
    settings |= {"momentum_decay": 1.0}
    return {**settings, **_keras(weight_decay, clipvalue, global_clipnorm)}


def _nadam_optax(learning_rate, b1=0.9, b2=0.999, eps=1e-8, eps_root=0.0):
    return {**_adam_optax(learning_rate, b1, b2, eps, eps_root), "momentum_decay": None}


def _keras(weight_decay: Any, clipvalue: Any, global_clipnorm: Any) -> Settings:
    """What all of Keras's optimizers take: its decay is decoupled."""
    decay = {"weight_decay": weight_decay or 0.0, "decoupled_weight_decay": True}
    return {**decay, "clip_value": clipvalue, "clip_norm": global_clipnorm}


def _beside_uncorrected(eps: Setting, beta2: Setting) -> Setting:
    """Epsilon beside ``sqrt(v)``, as if it stood beside the corrected ``sqrt(v / (1 - beta2**t))``."""
    return partial(_uncorrected, eps, beta2)


# Schedules are functions of the module, so that optimizers that use them can be pickled.


def _uncorrected(eps: Setting, beta2: Setting, step: int) -> float:
    result: float = at(eps, step) / (1.0 - at(beta2, step) ** (step + 1)) ** 0.5
    return result


def _not_at_first(setting: Setting, step: int) -> float:
    return 0.0 if step == 0 else at(setting, step)


DIALECTS: dict[str, dict[str, Dialect]] = {
    "RMSProp": {
        "torch": _rmsprop_torch,
        "keras": _rmsprop_keras,
        "tensorflow1": _rmsprop_tensorflow1,
        "optax": _rmsprop_optax,
        "timm": _rmsprop_timm,
        "graves": _rmsprop_graves,
    },
    "SGD": {
        "torch": _sgd_torch,
        "keras": _sgd_keras,
        "tensorflow1": _sgd_tensorflow1,
        "optax": _sgd_optax,
    },
    "AdaGrad": {
        "torch": _adagrad_torch,
        "keras": _adagrad_keras,
        "tensorflow1": _adagrad_tensorflow1,
        "optax": _adagrad_optax,
    },
    "Adam": {
        "torch": _adam_torch,
        "keras": _adam_keras,
        "tensorflow1": _adam_tensorflow1,
        "optax": _adam_optax,
    },
    "AdamW": {"torch": _adamw_torch, "keras": _adamw_keras, "optax": _adamw_optax},
    "NAdam": {"torch": _nadam_torch, "keras": _nadam_keras, "optax": _nadam_optax},
}


def translate(
    optimizer: str,
    known: Mapping[str, Dialect],
    dialect: str,
    arguments: Mapping[str, Any],
    shared: Iterable[str],
) -> Settings:
    """The settings of fastopt's optimizer for another library's arguments."""
    if dialect not in known:
        raise ValueError(
            f"dialect must be one of {', '.join(known) or 'none'} for {optimizer}, got {dialect!r}"
        )
    parameters = inspect.signature(known[dialect]).parameters
    theirs = {name: value for name, value in arguments.items() if name in parameters}
    ours = {name: value for name, value in arguments.items() if name not in parameters}
    shared = set(shared)
    unknown = [name for name in ours if name not in shared]
    if unknown:
        meant = refusal(unknown, [*parameters, *shared])
        raise TypeError(
            f"{optimizer}.like({dialect!r}) has no argument {meant}; it takes "
            f"{', '.join(parameters)}, and fastopt's shared options"
        )
    missing = [
        name
        for name, parameter in parameters.items()
        if parameter.default is inspect.Parameter.empty and name not in theirs
    ]
    if missing:
        raise TypeError(f"{dialect}'s {optimizer} needs the argument {', '.join(missing)}")
    return {**known[dialect](**theirs), **ours}
