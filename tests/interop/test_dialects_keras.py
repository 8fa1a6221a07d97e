"""The dialect of Keras against Keras: random settings, 20 steps, parameters and states."""

import os

import numpy as np
import pytest

import fastopt
from tests.interop.dialect_pairs import Peer, beta, compare, eps, flag, momentum, weight_decay

SETTINGS = {np.float64: 60, np.float32: 15}


def keras_peer(name, names):
    os.environ.setdefault("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras", reason="keras is not installed")

    def make(start, settings, rates):
        optimizer = getattr(keras.optimizers, name)(**settings)
        variable = keras.Variable(start, dtype=str(start.dtype))
        optimizer.build([variable])

        def step(grad, rate):
            optimizer.learning_rate = rate
            optimizer.apply([keras.ops.convert_to_tensor(grad)], [variable])

        def states():
            arrays_of = {}
            for attribute, ours in names.items():
                arrays = getattr(optimizer, attribute, None)
                if arrays:
                    sign = 1.0
                    if name == "SGD":
                        sign = -1.0  # Keras keeps the momentum with the sign of the movement
                    arrays_of[ours] = sign * keras.ops.convert_to_numpy(arrays[0]).copy()
            return arrays_of

        return Peer(step, lambda: keras.ops.convert_to_numpy(variable).copy(), states)

    return make


def keras_common(rng):
    return {"weight_decay": weight_decay(rng) or None}


def keras_rmsprop(rng):
    settings = {"rho": beta(rng), "momentum": momentum(rng), "epsilon": eps(rng), "centered": flag(rng)}
    return {**settings, **keras_common(rng)}


def keras_sgd(rng):
    m = momentum(rng)
    return {"momentum": m, "nesterov": flag(rng), **keras_common(rng)}


def keras_adagrad(rng):
    settings = {"initial_accumulator_value": float(rng.uniform(0, 1)), "epsilon": eps(rng)}
    return {**settings, **keras_common(rng)}


def exact_beta(rng):
    """Exact in float32: Keras computes 1 - beta**t in float32, with large errors for other betas."""
    return float(rng.choice([0.5, 0.75, 0.875, 0.9375]))


def keras_adam(rng):
    settings = {
        "beta_1": exact_beta(rng),
        "beta_2": exact_beta(rng),
        "epsilon": eps(rng),
        "amsgrad": flag(rng),
    }
    return {**settings, **keras_common(rng)}


def keras_adamw(rng):
    return {**keras_adam(rng), "weight_decay": 10.0 ** rng.uniform(-3, -1)}


def keras_nadam(rng):
    settings = {"beta_1": exact_beta(rng), "beta_2": exact_beta(rng), "epsilon": eps(rng)}
    return {**settings, **keras_common(rng)}


def keras_lion(rng):
    return {"beta_1": beta(rng), "beta_2": beta(rng), **keras_common(rng)}


def keras_adadelta(rng):
    return {"rho": beta(rng), "epsilon": eps(rng), **keras_common(rng)}


ADAM = {"_momentums": "exp_avg", "_velocities": "exp_avg_sq", "_velocity_hats": "max_exp_avg_sq"}
KERAS = {
    "RMSprop": (
        fastopt.RMSProp,
        keras_rmsprop,
        {
            "_velocities": "square_avg",
            "_momentums": "momentum_buffer",
            "_average_gradients": "grad_avg",
        },
    ),
    "SGD": (fastopt.SGD, keras_sgd, {"momentums": "momentum_buffer"}),
    "Adagrad": (fastopt.AdaGrad, keras_adagrad, {"_accumulators": "sum"}),
    "Adam": (fastopt.Adam, keras_adam, ADAM),
    "AdamW": (fastopt.AdamW, keras_adamw, ADAM),
    "Nadam": (fastopt.NAdam, keras_nadam, ADAM),
    "Lion": (fastopt.Lion, keras_lion, {"_momentums": "exp_avg"}),
    "Adamax": (fastopt.AdaMax, keras_nadam, {"_m": "exp_avg", "_u": "exp_inf"}),
    "Adadelta": (
        fastopt.AdaDelta,
        keras_adadelta,
        {"_accumulated_grads": "square_avg", "_accumulated_delta_vars": "acc_delta"},
    ),
}


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # inside Keras
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", KERAS)
def test_keras(name, dtype):
    optimizer_class, draw, names = KERAS[name]
    make = keras_peer(name, names)
    for seed in range(SETTINGS[dtype]):
        # Keras keeps the learning rate in float32, whatever the variables are.
        compare(optimizer_class, "keras", make, draw, dtype, seed, np.float32)
