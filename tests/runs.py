"""Runs that can be interrupted: optimizers of every kind over every structure of parameters."""

import numpy as np

import fastopt
from fastopt.arrays import tree
from tests.support import assert_same_bits


def falling(step):
    """A schedule of the module, which can be pickled."""
    return 0.1 / (1 + step)


def rising(step):
    return step / (1 + step)


def rising_from_one(step):
    return 1.0 + 0.5 * step


# All optimizers, with what depends on the number of the step, and all options.
OPTIMIZERS = {
    "sgd": (fastopt.SGD, {"momentum": 0.9, "dampening": 0.5}),
    "rmsprop": (fastopt.RMSProp, {"centered": True, "bias_correction": True}),
    "adagrad": (fastopt.AdaGrad, {"lr_decay": 0.1, "initial_accumulator": 0.1}),
    "adam": (fastopt.Adam, {"amsgrad": True}),
    "adamw": (fastopt.AdamW, {}),
    "nadam": (fastopt.NAdam, {"momentum_decay": 0.1}),
    "lars": (
        fastopt.LARS,
        {"momentum": 0.5, "weight_decay": 0.1, "trust_coefficient": rising_from_one},
    ),
    "lamb": (fastopt.LAMB, {"weight_decay": 0.1}),
    "prodigy": (fastopt.Prodigy, {"weight_decay": 0.1, "d0": 1e-2}),
    "dog": (fastopt.DoG, {"layerwise": True, "reps_rel": 0.01}),
    "schedule_free": (fastopt.Adam, {"lr": falling, "beta1": 0.0, "schedule_free": 0.9}),
    "schedules": (
        fastopt.RMSProp,
        {"lr": falling, "beta": rising, "momentum": rising, "clip_norm": falling},
    ),
    "options": (
        fastopt.Adam,
        {
            "maximize": True,
            "clip_value": 2.0,
            "clip_norm": 0.5,
            "weight_decay": 0.1,
            "decoupled_weight_decay": True,
            "bounds": (-1.0, 1.5),
            "average_decay": 0.9,
            "skip_nonfinite": True,
            "zero_grad": True,
        },
    ),
}


def random_array(seed, shape, dtype):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def structure(name):
    """New parameters, always with the same numbers."""
    one, two, three = (
        random_array(1, (7,), np.float32),
        random_array(2, (2, 3), np.float64),
        random_array(3, (), np.float32),
    )
    return {
        "array": one,
        "list": [one, three, two, np.zeros((0, 2))],
        "dict": {"layer": {"weight": two, "bias": one}, "scale": (three,)},
        "groups": [{"params": [one, two]}, {"params": three, "lr": 0.5}],
    }[name]


STRUCTURES = ("array", "list", "dict", "groups")


def arrays_of(params):
    """The parameters, without the settings of groups."""
    if isinstance(params, list) and isinstance(params[0], dict):
        return [group["params"] for group in params]
    return params


def make(name, params, **others):
    kind, settings = OPTIMIZERS[name]
    return kind(params, **{**settings, **others})


def train(opt, steps):
    """Step with gradients that depend on the number of the step only; some are None."""
    several = tree.is_branch(opt.params)
    for step in steps:
        leaves = [leaf for _, leaf in tree.leaves(opt.params)]
        grads = [random_array(1000 * step + i, leaf.shape, leaf.dtype) for i, leaf in enumerate(leaves)]
        if several and step % 3 != 2:
            grads[step % len(grads)] = None
        opt.step(tree.rebuild(opt.params, iter(grads)))


def assert_same(one, other):
    """Parameters, states and counts agree to the last bit."""
    assert one.step_count == other.step_count
    assert one.state.keys() == other.state.keys()
    pairs = [(one.params, other.params), *((one.state[k], other.state[k]) for k in one.state)]
    for a, b in pairs:
        for (path, x), (_, y) in zip(tree.leaves(a), tree.leaves(b), strict=True):
            assert_same_bits(x, y, str(path))


def snapshot(opt):
    """All that a refusal must leave alone."""
    named = {"params": opt.params, **opt.state}
    content = {
        (name, *path): leaf.tobytes()
        for name, structure in named.items()
        for path, leaf in tree.leaves(structure)
    }
    return content, opt.state_dict() | {"state": None}, repr(opt)
