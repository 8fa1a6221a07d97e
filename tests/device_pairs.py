"""The same optimizer on a device and in memory, trained alike."""

import copy

import numpy as np

import fastopt
from fastopt.arrays import tree
from tests.device import SIMULATED, to_device, to_host
from tests.sums import scaled, square
from tests.support import assert_same_bits, problem


def moved(structure, place=to_device):
    """The same structure on the device."""
    leaves = [None if leaf is None else place(leaf) for _, leaf in tree.leaves(structure)]
    return tree.rebuild(structure, iter(leaves))


def assert_same(opt, same):
    """Parameters, states, counts and carried numbers, to the last bit."""
    assert opt.step_count == same.step_count
    for name in (None, *same.state):
        first, second = (o.params if name is None else o.state[name] for o in (opt, same))
        for (_, a), (_, b) in zip(tree.leaves(first), tree.leaves(second), strict=True):
            if b is not None:
                assert_same_bits(to_host(a), b, str(name))
    for key in ("carried", "lags"):
        assert opt.state_dict().get(key) == same.state_dict().get(key)


def pair(params, make, place=to_device):
    """Optimizers of the same parameters on the device and in memory."""
    params = copy.deepcopy(params)
    return make(moved(params, place)), make(params)


def train(optimizers, grads, **options):
    for grads_of_step in grads:
        for opt, place in zip(optimizers, (to_device, lambda array: array), strict=True):
            opt.step(moved(copy.deepcopy(grads_of_step), place), **options)


def optimizer(parts, **options):
    return lambda params: fastopt.Optimizer(params, parts, **options)


def structures():
    """Parameters and gradients of many arrays, some of which are missing."""
    shapes, dtypes = [(3, 5), (), (0,), (30 if SIMULATED else 9000,)], (np.float32, np.float64)
    drawn = [problem(shape, dtype, 4) for shape in shapes for dtype in dtypes]
    grads = [[each[k] for _, each in drawn] for k in range(4)]
    grads[1][0] = grads[1][6] = grads[2][5] = None
    return [w for w, _ in drawn], grads


def skipping(hyper, sums, carried):
    return (hyper[0],), (carried[0] + hyper[0],), sums[0] > 1.0


def skips(**how):
    return fastopt.Transform(
        scaled,
        hyper=lambda step: (1.0 / (1.0 + step),),
        sums={"s": square},
        from_sums=skipping,
        carried={"total": 0.0},
        **how,
    )
