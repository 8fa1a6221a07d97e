"""Runs with sparse gradients beside runs with the same gradients made dense."""

import numpy as np
import scipy.sparse

import fastopt

FORMATS = ("csr", "csc", "coo", "bsr", "lil", "dok", "dia")

# Optimizers whose steps without a gradient have a closed form, every kind of it. With `centered` the
# difference of two averages cancels, so epsilon is not small.
CLOSED = {
    "sgd": (fastopt.SGD, {"lr": 0.03}),
    "rmsprop": (fastopt.RMSProp, {"lr": 0.03, "beta": 0.7, "eps": 1e-2}),
    "outside": (fastopt.RMSProp, {"lr": 0.03, "eps_inside_sqrt": False, "bias_correction": True}),
    "started": (fastopt.RMSProp, {"lr": 0.03, "initial_accumulator": 0.5, "beta": 0.99}),
    "beta_zero": (fastopt.RMSProp, {"lr": 0.03, "beta": 0.0, "eps": 1e-2}),
    "centered": (fastopt.RMSProp, {"lr": 0.03, "centered": True, "eps": 10.0}),
    "nesterov": (fastopt.SGD, {"lr": 0.01, "momentum": 0.8, "dampening": 0.3, "nesterov": True}),
    "lr_in_momentum": (
        fastopt.RMSProp,
        {"lr": lambda t: 0.05 / (1 + t), "momentum": 0.8, "lr_in_momentum": True, "eps": 1e-2},
    ),
    "decay_momentum": (fastopt.SGD, {"lr": 0.01, "weight_decay": 0.1, "momentum": 0.5}),
    "decoupled": (
        fastopt.RMSProp,
        {"lr": 0.03, "weight_decay": 0.1, "decoupled_weight_decay": True, "eps": 1e-2},
    ),
    "scheduled": (
        fastopt.RMSProp,
        {
            "lr": lambda t: 0.05 / (1 + t),
            "beta": lambda t: 1 - 0.5 / (1 + t),
            "eps": lambda t: 10.0 / (t + 2),
            "momentum": lambda t: t / (2.0 + t),
            "clip_value": lambda t: 2.0 + t,
        },
    ),
    "adagrad": (fastopt.AdaGrad, {"lr": 0.03, "lr_decay": 0.3, "weight_decay": 0.0}),
    "adagrad_decoupled": (
        fastopt.AdaGrad,
        {"lr": 0.03, "weight_decay": lambda t: 0.1 / (1 + t), "decoupled_weight_decay": True},
    ),
    "adam": (fastopt.Adam, {"lr": 0.03, "beta1": 0.0, "beta2": 0.8, "eps": 1e-2, "amsgrad": True}),
    "nadam": (fastopt.NAdam, {"lr": 0.03, "beta1": 0.0, "beta2": 0.8, "eps": 1e-2}),
    "adadelta": (fastopt.AdaDelta, {"rho": 0.8, "eps": 1e-2}),
    "radam": (fastopt.RAdam, {"lr": 0.03, "beta1": 0.0, "beta2": 0.9, "eps": 1e-2, "threshold": 4.0}),
    "yogi": (fastopt.Yogi, {"lr": 0.03, "beta1": 0.0, "beta2": 0.8, "eps": 1e-2}),
    "qhadam": (fastopt.QHAdam, {"lr": 0.03, "beta1": 0.0, "beta2": 0.8, "nu2": 0.7, "eps": 1e-2}),
    "everything": (
        fastopt.RMSProp,
        {
            "lr": lambda t: 0.05 / (1 + t),
            "beta": lambda t: 0.9 - 0.3 / (1 + t),
            "eps": 10.0,
            "centered": True,
            "momentum": 0.7,
            "nesterov": True,
            "maximize": True,
            "weight_decay": 0.05,
            "decoupled_weight_decay": True,
            "clip_value": 30.0,
            "average_decay": 0.9,
            "bias_correction": True,
            "initial_accumulator": 0.1,
        },
    ),
}

# Where nothing happens without a gradient, exact steps are dense ones to the last bit.
SAME_BITS = {"sgd", "adagrad"}


def pair(rng, shape, dtype, touched):
    """A gradient for some rows, in any order and some of them twice."""
    rows = rng.integers(0, shape[0], touched) if shape[0] else np.zeros(0, np.int64)
    values = rng.normal(size=(rows.size, *shape[1:])) * 10.0 ** rng.uniform(-2, 2, rows.size).reshape(
        -1, *[1] * (len(shape) - 1)
    )
    return rows, values.astype(dtype)


def dense(gradient, shape, dtype):
    """The same with zeros in the other rows."""
    if not isinstance(gradient, tuple):
        return np.ascontiguousarray(gradient.toarray())
    rows, values = gradient
    whole = np.zeros(shape, dtype)
    np.add.at(whole, rows, values)
    return whole


def scipy_array(rng, shape, dtype, kind, density=0.15):
    # `scipy.sparse.random_array` came with SciPy 1.12, and its arguments changed in 1.15.
    rows, columns = rng.permutation(np.argwhere(rng.random(shape) < density)).T
    values = rng.standard_normal(rows.size).astype(dtype)
    return scipy.sparse.coo_array((values, (rows, columns)), shape=shape).asformat(kind)


class Sizes:
    """The largest size that every element had, and how far the parameters went."""

    def __init__(self, opt):
        self.params = np.array(opt.params)
        self.found = {name: abs(np.array(array)) for name, array in opt.state.items()}
        self.found["params"] = abs(self.params)
        self.steps = 0

    def follow(self, opt):
        moved = abs(opt.params - self.params)
        self.params, self.steps = np.array(opt.params), self.steps + 1
        for name, array in opt.state.items():
            self.found[name] = np.maximum(self.found[name], abs(array))
        self.found["params"] += moved

    def check(self, exact, plain):
        """Within 4 ULP a step of the largest number that an element held on its way."""
        arrays = {"params": (exact.params, plain.params)}
        arrays |= {name: (exact.state[name], plain.state[name]) for name in plain.state}
        for name, (one, other) in arrays.items():
            largest = np.maximum(self.found[name], np.finfo(one.dtype).tiny)
            budget = 4 * (self.steps + 1) * np.finfo(one.dtype).eps * largest
            assert (abs(one - other) <= budget).all(), (name, abs(one - other) / budget)
