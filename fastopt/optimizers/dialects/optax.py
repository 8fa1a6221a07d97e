"""optax, in its namespaces `optax` and `optax.contrib`."""

from __future__ import annotations

from fastopt.optimizers.dialects.common import complement
from fastopt.validation import is_on


def rmsprop(
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


def sgd(learning_rate, momentum=None, nesterov=False):
    on = momentum is not None
    return {"lr": learning_rate, "momentum": momentum or 0.0, "nesterov": nesterov and on}


def adagrad(learning_rate, initial_accumulator_value=0.1, eps=1e-7):
    settings = {"lr": learning_rate, "eps": eps, "initial_accumulator": initial_accumulator_value}
    return {**settings, "guard_zero": True}


def adam(learning_rate, b1=0.9, b2=0.999, eps=1e-8, eps_root=0.0):
    settings = {"lr": learning_rate, "beta1": b1, "beta2": b2}
    if not is_on(eps_root):
        return {**settings, "eps": eps}
    if is_on(eps):
        raise ValueError(f"eps must be 0 where eps_root is not: one epsilon is supported, got {eps}")
    return {**settings, "eps": eps_root, "eps_inside_sqrt": True}


def adamw(learning_rate, b1=0.9, b2=0.999, eps=1e-8, eps_root=0.0, weight_decay=1e-4):
    return {**adam(learning_rate, b1, b2, eps, eps_root), "weight_decay": weight_decay}


def nadam(learning_rate, b1=0.9, b2=0.999, eps=1e-8, eps_root=0.0):
    return {**adam(learning_rate, b1, b2, eps, eps_root), "momentum_decay": None}


def lion(learning_rate, b1=0.9, b2=0.99, weight_decay=1e-3):
    return {"lr": learning_rate, "beta1": b1, "beta2": b2, "weight_decay": weight_decay}


def adamax(learning_rate, b1=0.9, b2=0.999, eps=1e-8):
    return {"lr": learning_rate, "beta1": b1, "beta2": b2, "eps": eps}


def adadelta(learning_rate, rho=0.9, eps=1e-6, weight_decay=0.0):
    return {"lr": learning_rate, "rho": rho, "eps": eps, "weight_decay": weight_decay}


def radam(learning_rate, b1=0.9, b2=0.999, eps=1e-8, eps_root=0.0, threshold=5.0):
    return {**adam(learning_rate, b1, b2, eps, eps_root), "threshold": threshold}


def adabelief(learning_rate, b1=0.9, b2=0.999, eps=1e-16, eps_root=1e-16):
    return {"lr": learning_rate, "beta1": b1, "beta2": b2, "eps": eps, "eps_root": eps_root}


def yogi(learning_rate, b1=0.9, b2=0.999, eps=1e-3):
    return {"lr": learning_rate, "beta1": b1, "beta2": b2, "eps": eps, "initial_average": 1e-6}


def ademamix(learning_rate, b1=0.9, b2=0.999, b3=0.9999, alpha=5.0, eps=1e-8, weight_decay=0.0):
    settings = {"lr": learning_rate, "beta1": b1, "beta2": b2, "beta3": b3, "alpha": alpha, "eps": eps}
    return {**settings, "weight_decay": weight_decay}


def adan(learning_rate, b1=0.98, b2=0.92, b3=0.99, eps=1e-8, eps_root=1e-8, weight_decay=0.0):
    settings = {"lr": learning_rate, "beta1": b1, "beta2": b2, "beta3": b3, "eps": eps}
    settings |= {"eps_root": eps_root, "look_ahead": complement(b2)}
    return {**settings, "weight_decay": weight_decay}


def lars(
    learning_rate, weight_decay=0.0, trust_coefficient=0.001, eps=0.0, momentum=0.9, nesterov=False
):
    settings = {"lr": learning_rate, "weight_decay": weight_decay, "eps": eps, "momentum": momentum}
    settings["nesterov"] = nesterov and is_on(momentum)
    return {**settings, "trust_coefficient": trust_coefficient}


def lamb(learning_rate, b1=0.9, b2=0.999, eps=1e-6, eps_root=0.0, weight_decay=0.0):
    return {**adam(learning_rate, b1, b2, eps, eps_root), "weight_decay": weight_decay}


def prodigy(
    learning_rate=1.0,
    betas=(0.9, 0.999),
    beta3=None,
    eps=1e-8,
    estim_lr0=1e-6,
    estim_lr_coef=1.0,
    weight_decay=0.0,
    safeguard_warmup=False,
):
    settings = {"lr": learning_rate, "beta1": betas[0], "beta2": betas[1], "beta3": beta3, "eps": eps}
    settings |= {"d0": estim_lr0, "d_coef": estim_lr_coef, "bias_correction": True}
    return {**settings, "weight_decay": weight_decay, "safeguard_warmup": safeguard_warmup}
