"""The dialect of optax against optax: random settings, 20 steps, parameters and states."""

import numpy as np
import pytest

import fastopt
from tests.interop.dialect_pairs import Peer, beta, compare, eps, flag, momentum, weight_decay

SETTINGS = {np.float64: 20, np.float32: 5}  # each is compiled by jax


def optax_peer(name, names, with_decay=False):
    optax = pytest.importorskip("optax", reason="optax is not installed")
    jax = pytest.importorskip("jax", reason="jax is not installed")
    jax.config.update("jax_enable_x64", True)

    def make(start, settings, rates):
        table = jax.numpy.asarray(rates)
        settings["learning_rate"] = lambda count: table[count].astype(start.dtype)
        optimizer = getattr(optax, name, None) or getattr(optax.contrib, name)
        optimizer = optimizer(**settings)
        update = jax.jit(optimizer.update)
        param = jax.numpy.asarray(start)
        now = {"param": param, "state": optimizer.init(param)}

        def step(grad, rate):
            updates, now["state"] = update(jax.numpy.asarray(grad), now["state"], now["param"])
            now["param"] = optax.apply_updates(now["param"], updates)

        def states():
            arrays = {}
            for part in jax.tree.leaves(now["state"], is_leaf=lambda x: hasattr(x, "_fields")):
                for field in getattr(part, "_fields", ()):
                    if field in names and getattr(part, field) is not None:
                        ours = names[field]
                        ours = "grad_avg" if field == "mu" and name == "rmsprop" else ours
                        # optax's rmsprop gathers the movement, with its sign.
                        sign = -1.0 if (name, field) == ("rmsprop", "trace") else 1.0
                        arrays[ours] = sign * np.asarray(getattr(part, field))
            return arrays

        return Peer(step, lambda: np.asarray(now["param"]), states)

    return make


def optax_rmsprop(rng):
    m, nesterov = momentum(rng), flag(rng)
    settings = {"decay": beta(rng), "eps": eps(rng), "initial_scale": float(rng.uniform(0, 1))}
    centered = flag(rng)
    # With both, the first variance is a difference of equal numbers: nothing but rounding.
    settings |= {"centered": centered, "bias_correction": flag(rng) and not centered}
    settings |= {"eps_in_sqrt": flag(rng)}
    return {**settings, "momentum": m or None, "nesterov": nesterov}


def optax_sgd(rng):
    return {"momentum": momentum(rng) or None, "nesterov": flag(rng)}


def optax_adagrad(rng):
    return {"initial_accumulator_value": float(rng.uniform(0.01, 1)), "eps": eps(rng)}


def optax_adam(rng):
    settings = {"b1": beta(rng), "b2": beta(rng)}
    inside = flag(rng)
    return {**settings, "eps": 0.0 if inside else eps(rng), "eps_root": eps(rng) if inside else 0.0}


def optax_adamw(rng):
    return {**optax_adam(rng), "weight_decay": 10.0 ** rng.uniform(-3, -1)}


def optax_betas(rng):
    return {"b1": beta(rng), "b2": beta(rng), "eps": eps(rng)}


def optax_lion(rng):
    return {"b1": beta(rng), "b2": beta(rng), "weight_decay": weight_decay(rng)}


def optax_adadelta(rng):
    return {"rho": beta(rng), "eps": eps(rng), "weight_decay": weight_decay(rng)}


def optax_radam(rng):
    return {**optax_adam(rng), "threshold": float(rng.uniform(4, 8))}


def optax_adabelief(rng):
    return {**optax_betas(rng), "eps_root": eps(rng)}


def optax_ademamix(rng):
    settings = {"b3": beta(rng), "alpha": float(rng.uniform(0, 8)), "weight_decay": weight_decay(rng)}
    return {**optax_betas(rng), **settings}


def optax_adan(rng):
    settings = {"b3": beta(rng), "eps_root": eps(rng), "weight_decay": weight_decay(rng)}
    return {**optax_betas(rng), **settings}


AVERAGES = {"mu": "exp_avg", "nu": "exp_avg_sq"}
OPTAX = {
    "rmsprop": (
        fastopt.RMSProp,
        optax_rmsprop,
        {"mu": "", "nu": "square_avg", "trace": "momentum_buffer"},
    ),
    "sgd": (fastopt.SGD, optax_sgd, {"trace": "momentum_buffer"}),
    "adagrad": (fastopt.AdaGrad, optax_adagrad, {"sum_of_squares": "sum"}),
    "adam": (fastopt.Adam, optax_adam, AVERAGES),
    "adamw": (fastopt.AdamW, optax_adamw, AVERAGES),
    "nadam": (fastopt.NAdam, optax_adam, AVERAGES),
    "lion": (fastopt.Lion, optax_lion, {"mu": "exp_avg"}),
    "adamax": (fastopt.AdaMax, optax_betas, {"mu": "exp_avg", "nu": "exp_inf"}),
    "adadelta": (fastopt.AdaDelta, optax_adadelta, {"e_g": "square_avg", "e_x": "acc_delta"}),
    "radam": (fastopt.RAdam, optax_radam, AVERAGES),
    "adabelief": (fastopt.AdaBelief, optax_adabelief, {"mu": "exp_avg", "nu": "exp_avg_var"}),
    "yogi": (fastopt.Yogi, optax_betas, AVERAGES),
    "ademamix": (
        fastopt.AdEMAMix,
        optax_ademamix,
        {"m1": "exp_avg_fast", "m2": "exp_avg_slow", "nu": "exp_avg_sq"},
    ),
    "adan": (
        fastopt.Adan,
        optax_adan,
        {"m": "exp_avg", "v": "exp_avg_diff", "n": "exp_avg_sq", "g": "previous_grad"},
    ),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", OPTAX)
def test_optax(name, dtype):
    optimizer_class, draw, names = OPTAX[name]
    make = optax_peer(name, names)
    for seed in range(SETTINGS[dtype]):
        compare(optimizer_class, "optax", make, draw, dtype, seed)
