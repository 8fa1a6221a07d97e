"""TensorFlow 1, timm and Graves's paper."""

from __future__ import annotations

from fastopt.optimizers.dialects.common import beside_uncorrected


def rmsprop_tensorflow1(learning_rate, decay=0.9, momentum=0.0, epsilon=1e-10, centered=False):
    settings = {"lr": learning_rate, "beta": decay, "eps": epsilon, "momentum": momentum}
    return {**settings, "centered": centered, "lr_in_momentum": True, "initial_accumulator": 1.0}


def rmsprop_timm(
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


def rmsprop_graves(lr=1e-4, beta=0.95, momentum=0.9, eps=1e-4):
    settings = {"lr": lr, "beta": beta, "momentum": momentum, "eps": eps}
    return {**settings, "centered": True, "lr_in_momentum": True}


def sgd_tensorflow1(learning_rate, momentum=0.0, use_nesterov=False):
    return {"lr": learning_rate, "momentum": momentum, "nesterov": use_nesterov}


def adagrad_tensorflow1(learning_rate, initial_accumulator_value=0.1):
    return {"lr": learning_rate, "eps": 0.0, "initial_accumulator": initial_accumulator_value}


def adam_tensorflow1(learning_rate=1e-3, beta1=0.9, beta2=0.999, epsilon=1e-8):
    eps = beside_uncorrected(epsilon, beta2)
    return {"lr": learning_rate, "beta1": beta1, "beta2": beta2, "eps": eps}


def qhadam_qhoptim(
    lr=1e-3,
    betas=(0.9, 0.999),
    nus=(1.0, 1.0),
    weight_decay=0.0,
    decouple_weight_decay=False,
    eps=1e-8,
):
    settings = {
        "lr": lr,
        "beta1": betas[0],
        "beta2": betas[1],
        "nu1": nus[0],
        "nu2": nus[1],
        "eps": eps,
    }
    return {**settings, "weight_decay": weight_decay, "decoupled_weight_decay": decouple_weight_decay}
