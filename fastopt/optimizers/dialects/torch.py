"""PyTorch: `torch.optim`."""

from __future__ import annotations

from functools import partial

from fastopt.optimizers.dialects.common import beside_uncorrected, not_at_first
from fastopt.validation import is_on


def rmsprop(
    lr=1e-2, alpha=0.99, eps=1e-8, weight_decay=0.0, momentum=0.0, centered=False, maximize=False
):
    settings = {"lr": lr, "beta": alpha, "eps": eps, "momentum": momentum, "centered": centered}
    return {**settings, "eps_inside_sqrt": False, "weight_decay": weight_decay, "maximize": maximize}


def sgd(lr=1e-3, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False, maximize=False):
    # torch starts the buffer with the first gradient, undamped.
    later = partial(not_at_first, dampening) if is_on(dampening) else 0.0
    settings = {"lr": lr, "momentum": momentum, "dampening": later, "nesterov": nesterov}
    return {**settings, "weight_decay": weight_decay, "maximize": maximize}


def adagrad(
    lr=1e-2, lr_decay=0.0, weight_decay=0.0, initial_accumulator_value=0.0, eps=1e-10, maximize=False
):
    settings = {"lr": lr, "lr_decay": lr_decay, "eps": eps, "eps_inside_sqrt": False}
    settings |= {"initial_accumulator": initial_accumulator_value}
    return {**settings, "weight_decay": weight_decay, "maximize": maximize}


def adam(lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, amsgrad=False, maximize=False):
    settings = {"lr": lr, "beta1": betas[0], "beta2": betas[1], "eps": eps, "amsgrad": amsgrad}
    return {**settings, "weight_decay": weight_decay, "maximize": maximize}


def adamw(lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2, amsgrad=False, maximize=False):
    return adam(lr, betas, eps, weight_decay, amsgrad, maximize)


def nadam(
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


def adamax(lr=2e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, maximize=False):
    settings = {"lr": lr, "beta1": betas[0], "beta2": betas[1], "eps": eps}
    return {**settings, "weight_decay": weight_decay, "maximize": maximize}


def adadelta(lr=1.0, rho=0.9, eps=1e-6, weight_decay=0.0, maximize=False):
    settings = {"lr": lr, "rho": rho, "eps": eps}
    return {**settings, "weight_decay": weight_decay, "maximize": maximize}


def radam(
    lr=1e-3,
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=0.0,
    decoupled_weight_decay=False,
    maximize=False,
):
    settings = {"lr": lr, "beta1": betas[0], "beta2": betas[1], "weight_decay": weight_decay}
    settings |= {"eps": beside_uncorrected(eps, betas[1])}
    return {**settings, "decoupled_weight_decay": decoupled_weight_decay, "maximize": maximize}


def rprop(lr=1e-2, etas=(0.5, 1.2), step_sizes=(1e-6, 50), maximize=False):
    settings = {"lr": lr, "eta_minus": etas[0], "eta_plus": etas[1], "maximize": maximize}
    return {**settings, "step_size_min": step_sizes[0], "step_size_max": step_sizes[1]}


def asgd(lr=1e-2, lambd=1e-4, alpha=0.75, t0=1e6, weight_decay=0.0, maximize=False):
    settings = {"lr": lr, "lambd": lambd, "alpha": alpha, "t0": t0}
    return {**settings, "weight_decay": weight_decay, "maximize": maximize}
