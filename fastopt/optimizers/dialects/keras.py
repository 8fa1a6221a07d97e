"""Keras 3: `keras.optimizers`."""

from __future__ import annotations

from fastopt.optimizers.dialects.common import beside_uncorrected, keras_options
from fastopt.validation import is_on


def rmsprop(
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
    return {**settings, **keras_options(weight_decay, clipvalue, global_clipnorm)}


def sgd(
    learning_rate=0.01,
    momentum=0.0,
    nesterov=False,
    weight_decay=None,
    clipvalue=None,
    global_clipnorm=None,
):
    settings = {"lr": learning_rate, "momentum": momentum, "nesterov": nesterov and is_on(momentum)}
    settings |= {"lr_in_momentum": True}
    return {**settings, **keras_options(weight_decay, clipvalue, global_clipnorm)}


def adagrad(
    learning_rate=1e-3,
    initial_accumulator_value=0.1,
    epsilon=1e-7,
    weight_decay=None,
    clipvalue=None,
    global_clipnorm=None,
):
    settings = {"lr": learning_rate, "eps": epsilon, "initial_accumulator": initial_accumulator_value}
    return {**settings, **keras_options(weight_decay, clipvalue, global_clipnorm)}


def adam(
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
    settings |= {"eps": beside_uncorrected(epsilon, beta_2)}
    return {**settings, **keras_options(weight_decay, clipvalue, global_clipnorm)}


def adamw(
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
    return adam(learning_rate, beta_1, beta_2, epsilon, amsgrad, *common)


def nadam(
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
    return {**settings, **keras_options(weight_decay, clipvalue, global_clipnorm)}


def lion(
    learning_rate=1e-3,
    beta_1=0.9,
    beta_2=0.99,
    weight_decay=None,
    clipvalue=None,
    global_clipnorm=None,
):
    settings = {"lr": learning_rate, "beta1": beta_1, "beta2": beta_2}
    return {**settings, **keras_options(weight_decay, clipvalue, global_clipnorm)}


def adamax(
    learning_rate=1e-3,
    beta_1=0.9,
    beta_2=0.999,
    epsilon=1e-7,
    weight_decay=None,
    clipvalue=None,
    global_clipnorm=None,
):
    settings = {"lr": learning_rate, "beta1": beta_1, "beta2": beta_2, "eps": epsilon}
    settings |= {"eps_inside_max": False}
    return {**settings, **keras_options(weight_decay, clipvalue, global_clipnorm)}


def adadelta(
    learning_rate=1e-3,
    rho=0.95,
    epsilon=1e-7,
    weight_decay=None,
    clipvalue=None,
    global_clipnorm=None,
):
    settings = {"lr": learning_rate, "rho": rho, "eps": epsilon}
    return {**settings, **keras_options(weight_decay, clipvalue, global_clipnorm)}
