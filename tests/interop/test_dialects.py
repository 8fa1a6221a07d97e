"""Each dialect against the library itself: 200 random settings, 20 steps, parameters and states.

Every step starts from the library's own parameters and states, so that what is compared is one
step, and the budget does not have to grow with their number.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

import fastopt

SETTINGS = 200
STEPS = 20
SIZE = 37
# Libraries multiply and add in another order, fuse operations, and average as m + (1 - b) * (g - m).
ULPS = {np.float32: 4, np.float64: 8}


# Rprop's rate is where its step sizes start; torch's ASGD follows a rate that changes a step later.
STEADY = (fastopt.Rprop, fastopt.ASGD)


@dataclass
class Peer:
    """A library's optimizer at work on one array."""

    step: Callable[[np.ndarray, float], None]  # gradient and learning rate
    param: Callable[[], np.ndarray]
    states: Callable[[], dict[str, np.ndarray]]


def close(name, ours, theirs, scale, precision, times=1):
    """Within the budget, measured in units in the last place of the numbers that were added."""
    size = np.maximum(np.maximum(np.abs(ours), np.abs(theirs)), scale)
    unit = np.spacing(size.astype(precision)).astype(np.float64)
    worst = float(np.max(np.abs(ours - theirs) / unit, initial=0.0))
    assert worst <= times * ULPS[precision], f"{name} differs by {worst:.1f} ULP"


def compare(optimizer_class, dialect, make_peer, draw, dtype, seed, precision=None):
    """Run both side by side for one random setting."""
    precision = precision or dtype
    rng = np.random.default_rng(seed)
    theirs = draw(rng)
    start = rng.standard_normal(SIZE).astype(dtype)
    rates = 10.0 ** rng.uniform(-3, -1, STEPS)
    if optimizer_class in STEADY:
        rates[:] = rates[0]
    rate_name = "lr" if dialect in ("torch", "timm") else "learning_rate"
    peer = make_peer(start.copy(), {**theirs, rate_name: float(rates[0])}, rates)
    param = start.copy()
    ours = optimizer_class.like(dialect, param, **theirs, **{rate_name: float(rates[0])})
    for step, rate in enumerate(rates):
        # Nothing here cancels, else rounding would be magnified: the gradient is larger than the decay
        # that is added to it and of steady size, and its sign is constant except where a variance is
        # centered; momentum, which then cancels, counts into the scale.
        centered = theirs.get("centered") or optimizer_class is fastopt.AdaBelief
        sign = (-1.0) ** step if centered else 1.0
        grad = (sign * rng.uniform(1, 3, SIZE)).astype(dtype)
        param[...] = peer.param()
        for name, array in peer.states().items():
            ours.state[name][...] = array
        before = {name: array.copy() for name, array in ours.state.items()}
        old = param.copy()
        if optimizer_class not in STEADY:
            ours.lr = float(rate)
        ours.step(grad)
        peer.step(grad, float(rate))
        found = peer.states()
        for name in found:
            # A buffer of momentum is as exact as the steps that went into it, an average of parameters
            # as those.
            scale = np.abs(before[name]) + (np.abs(old) + np.abs(param - old) if name == "ax" else 0.0)
            budget = 2 if name == "acc_delta" else 1  # a square: its errors are those of steps, twice
            close(name, ours.state[name], found[name], scale, precision, budget)
        moved = np.abs(param - old) + np.abs(old)
        factor = 1.0 if getattr(ours, "lr_in_momentum", False) else rate
        moved += factor * np.abs(before.get("momentum_buffer", 0.0))
        close("param", param, peer.param(), moved, precision)


def weight_decay(rng):
    return float(rng.choice([0.0, 10.0 ** rng.uniform(-3, -1)]))


def flag(rng):
    return bool(rng.integers(2))


def beta(rng, low=0.5):
    return float(rng.uniform(low, 0.999))


def momentum(rng):
    return float(rng.choice([0.0, rng.uniform(0.1, 0.95)]))


def eps(rng):
    return float(10.0 ** rng.uniform(-10, -3))


# --- torch -----------------------------------------------------------------------------------------


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
            found = optimizer.state.get(tensor, {})
            skipped = ("step", "mu_product", "eta", "mu")
            return {k: v.numpy().copy() for k, v in found.items() if k not in skipped and v is not None}

        return Peer(step, lambda: tensor.numpy().copy(), states)

    return make


def torch_rmsprop(rng):
    own = {"alpha": beta(rng), "eps": eps(rng), "momentum": momentum(rng), "centered": flag(rng)}
    return {**own, "weight_decay": weight_decay(rng), "maximize": flag(rng)}


def torch_sgd(rng):
    m, nesterov = momentum(rng), flag(rng)
    own = {"momentum": m, "nesterov": nesterov and m > 0}
    own["dampening"] = 0.0 if own["nesterov"] else float(rng.uniform(0, 1))
    return {**own, "weight_decay": weight_decay(rng), "maximize": flag(rng)}


def torch_adagrad(rng):
    own = {"lr_decay": float(rng.uniform(0, 0.1)), "eps": eps(rng)}
    own["initial_accumulator_value"] = float(rng.uniform(0, 1))
    return {**own, "weight_decay": weight_decay(rng), "maximize": flag(rng)}


def torch_adam(rng):
    own = {"betas": (beta(rng), beta(rng)), "eps": eps(rng), "amsgrad": flag(rng)}
    return {**own, "weight_decay": weight_decay(rng), "maximize": flag(rng)}


def torch_nadam(rng):
    own = {"betas": (beta(rng), beta(rng)), "eps": eps(rng)}
    own |= {"momentum_decay": float(rng.uniform(0, 0.1)), "decoupled_weight_decay": flag(rng)}
    return {**own, "weight_decay": weight_decay(rng), "maximize": flag(rng)}


def torch_adamax(rng):
    own = {"betas": (beta(rng), beta(rng)), "eps": eps(rng)}
    return {**own, "weight_decay": weight_decay(rng), "maximize": flag(rng)}


def torch_adadelta(rng):
    own = {"rho": beta(rng), "eps": eps(rng)}
    return {**own, "weight_decay": weight_decay(rng), "maximize": flag(rng)}


def torch_radam(rng):
    own = {"betas": (beta(rng), beta(rng)), "decoupled_weight_decay": flag(rng)}
    return {**own, "eps": eps(rng), "weight_decay": weight_decay(rng), "maximize": flag(rng)}


def torch_rprop(rng):
    own = {"etas": (float(rng.uniform(0.1, 0.9)), float(rng.uniform(1.1, 2)))}
    return {**own, "step_sizes": (1e-3, float(rng.uniform(0.1, 1))), "maximize": flag(rng)}


def torch_asgd(rng):
    own = {"lambd": float(10.0 ** rng.uniform(-4, -1)), "alpha": float(rng.uniform(0.5, 1))}
    own |= {"t0": float(rng.integers(20))}
    return {**own, "weight_decay": weight_decay(rng), "maximize": flag(rng)}


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
    for seed in range(SETTINGS):
        compare(optimizer_class, "torch", make, draw, dtype, seed)


# --- optax -----------------------------------------------------------------------------------------


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
            found = {}
            for part in jax.tree.leaves(now["state"], is_leaf=lambda x: hasattr(x, "_fields")):
                for field in getattr(part, "_fields", ()):
                    if field in names and getattr(part, field) is not None:
                        own = names[field]
                        own = "grad_avg" if field == "mu" and name == "rmsprop" else own
                        # optax's rmsprop gathers the movement, with its sign.
                        sign = -1.0 if (name, field) == ("rmsprop", "trace") else 1.0
                        found[own] = sign * np.asarray(getattr(part, field))
            return found

        return Peer(step, lambda: np.asarray(now["param"]), states)

    return make


def optax_rmsprop(rng):
    m, nesterov = momentum(rng), flag(rng)
    own = {"decay": beta(rng), "eps": eps(rng), "initial_scale": float(rng.uniform(0, 1))}
    centered = flag(rng)
    # With both, the first variance is a difference of equal numbers: nothing but rounding.
    own |= {"centered": centered, "bias_correction": flag(rng) and not centered}
    own |= {"eps_in_sqrt": flag(rng)}
    return {**own, "momentum": m or None, "nesterov": nesterov}


def optax_sgd(rng):
    return {"momentum": momentum(rng) or None, "nesterov": flag(rng)}


def optax_adagrad(rng):
    return {"initial_accumulator_value": float(rng.uniform(0.01, 1)), "eps": eps(rng)}


def optax_adam(rng):
    own = {"b1": beta(rng), "b2": beta(rng)}
    inside = flag(rng)
    return {**own, "eps": 0.0 if inside else eps(rng), "eps_root": eps(rng) if inside else 0.0}


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
    own = {"b3": beta(rng), "alpha": float(rng.uniform(0, 8)), "weight_decay": weight_decay(rng)}
    return {**optax_betas(rng), **own}


def optax_adan(rng):
    own = {"b3": beta(rng), "eps_root": eps(rng), "weight_decay": weight_decay(rng)}
    return {**optax_betas(rng), **own}


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
    for seed in range(20):
        compare(optimizer_class, "optax", make, draw, dtype, seed)


# --- Keras -----------------------------------------------------------------------------------------


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
            found = {}
            for attribute, own in names.items():
                arrays = getattr(optimizer, attribute, None)
                if arrays:
                    sign = 1.0
                    if name == "SGD":
                        sign = -1.0  # Keras keeps the momentum with the sign of the movement
                    found[own] = sign * keras.ops.convert_to_numpy(arrays[0]).copy()
            return found

        return Peer(step, lambda: keras.ops.convert_to_numpy(variable).copy(), states)

    return make


def keras_common(rng):
    return {"weight_decay": weight_decay(rng) or None}


def keras_rmsprop(rng):
    own = {"rho": beta(rng), "momentum": momentum(rng), "epsilon": eps(rng), "centered": flag(rng)}
    return {**own, **keras_common(rng)}


def keras_sgd(rng):
    m = momentum(rng)
    return {"momentum": m, "nesterov": flag(rng), **keras_common(rng)}


def keras_adagrad(rng):
    own = {"initial_accumulator_value": float(rng.uniform(0, 1)), "epsilon": eps(rng)}
    return {**own, **keras_common(rng)}


def exact_beta(rng):
    """Exact in float32: Keras computes 1 - beta**t in float32, with large errors for other betas."""
    return float(rng.choice([0.5, 0.75, 0.875, 0.9375]))


def keras_adam(rng):
    own = {
        "beta_1": exact_beta(rng),
        "beta_2": exact_beta(rng),
        "epsilon": eps(rng),
        "amsgrad": flag(rng),
    }
    return {**own, **keras_common(rng)}


def keras_adamw(rng):
    return {**keras_adam(rng), "weight_decay": 10.0 ** rng.uniform(-3, -1)}


def keras_nadam(rng):
    own = {"beta_1": exact_beta(rng), "beta_2": exact_beta(rng), "epsilon": eps(rng)}
    return {**own, **keras_common(rng)}


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
    for seed in range(SETTINGS):
        # Keras keeps the learning rate in float32, whatever the variables are.
        compare(optimizer_class, "keras", make, draw, dtype, seed, np.float32)
