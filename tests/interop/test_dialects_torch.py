"""The dialect of torch against torch: random settings, 20 steps, parameters and states."""

import numpy as np
import pytest

import fastopt
from tests.interop.dialect_pairs import Peer, beta, compare, eps, flag, momentum, weight_decay

SETTINGS = {np.float64: 60, np.float32: 15}


def torch_peer(name):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    # Else NAdam's product of momenta is kept in float32, and loses a bit at every step.
    torch.set_default_dtype(torch.float64)

    def make(start, settings, rates):
        tensor = torch.from_numpy(start)
        optimizer = getattr(torch.optim, name)([tensor], foreach=False, **settings)

        def step(grad, rate):
            optimizer.param_groups[0]["lr"] = rate
            tensor.grad = torch.from_numpy(grad.copy())
            optimizer.step()

        def states():
            state = optimizer.state.get(tensor, {})
            skipped = ("step", "mu_product", "eta", "mu")
            arrays = {k: v for k, v in state.items() if k not in skipped and v is not None}
            return {name: array.numpy().copy() for name, array in arrays.items()}

        return Peer(step, lambda: tensor.numpy().copy(), states)

    return make


def torch_rmsprop(rng):
    settings = {"alpha": beta(rng), "eps": eps(rng), "momentum": momentum(rng), "centered": flag(rng)}
    return {**settings, "weight_decay": weight_decay(rng), "maximize": flag(rng)}


def torch_sgd(rng):
    m, nesterov = momentum(rng), flag(rng)
    settings = {"momentum": m, "nesterov": nesterov and m > 0}
    settings["dampening"] = 0.0 if settings["nesterov"] else float(rng.uniform(0, 1))
    return {**settings, "weight_decay": weight_decay(rng), "maximize": flag(rng)}


def torch_adagrad(rng):
    settings = {"lr_decay": float(rng.uniform(0, 0.1)), "eps": eps(rng)}
    settings["initial_accumulator_value"] = float(rng.uniform(0, 1))
    return {**settings, "weight_decay": weight_decay(rng), "maximize": flag(rng)}


def torch_adam(rng):
    settings = {"betas": (beta(rng), beta(rng)), "eps": eps(rng), "amsgrad": flag(rng)}
    return {**settings, "weight_decay": weight_decay(rng), "maximize": flag(rng)}


def torch_nadam(rng):
    settings = {"betas": (beta(rng), beta(rng)), "eps": eps(rng)}
    settings |= {"momentum_decay": float(rng.uniform(0, 0.1)), "decoupled_weight_decay": flag(rng)}
    return {**settings, "weight_decay": weight_decay(rng), "maximize": flag(rng)}


def torch_adamax(rng):
    settings = {"betas": (beta(rng), beta(rng)), "eps": eps(rng)}
    return {**settings, "weight_decay": weight_decay(rng), "maximize": flag(rng)}


def torch_adadelta(rng):
    settings = {"rho": beta(rng), "eps": eps(rng)}
    return {**settings, "weight_decay": weight_decay(rng), "maximize": flag(rng)}


def torch_radam(rng):
    settings = {"betas": (beta(rng), beta(rng)), "decoupled_weight_decay": flag(rng)}
    return {**settings, "eps": eps(rng), "weight_decay": weight_decay(rng), "maximize": flag(rng)}


def torch_rprop(rng):
    settings = {"etas": (float(rng.uniform(0.1, 0.9)), float(rng.uniform(1.1, 2)))}
    return {**settings, "step_sizes": (1e-3, float(rng.uniform(0.1, 1))), "maximize": flag(rng)}


def torch_asgd(rng):
    settings = {"lambd": float(10.0 ** rng.uniform(-4, -1)), "alpha": float(rng.uniform(0.5, 1))}
    settings |= {"t0": float(rng.integers(20))}
    return {**settings, "weight_decay": weight_decay(rng), "maximize": flag(rng)}


TORCH = {
    "RMSprop": (fastopt.RMSProp, torch_rmsprop),
    "SGD": (fastopt.SGD, torch_sgd),
    "Adagrad": (fastopt.AdaGrad, torch_adagrad),
    "Adam": (fastopt.Adam, torch_adam),
    "AdamW": (fastopt.AdamW, torch_adam),
    "NAdam": (fastopt.NAdam, torch_nadam),
    "Adamax": (fastopt.AdaMax, torch_adamax),
    "Adadelta": (fastopt.AdaDelta, torch_adadelta),
    "RAdam": (fastopt.RAdam, torch_radam),
    "Rprop": (fastopt.Rprop, torch_rprop),
    "ASGD": (fastopt.ASGD, torch_asgd),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", TORCH)
def test_torch(name, dtype):
    optimizer_class, draw = TORCH[name]
    make = torch_peer(name)
    for seed in range(SETTINGS[dtype]):
        compare(optimizer_class, "torch", make, draw, dtype, seed)
