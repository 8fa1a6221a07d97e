"""What the tests of storage formats share: arrays of every format, and runs over them."""

import ml_dtypes
import numpy as np
import pytest

import fastopt
from tests.support import COMPILED, assert_same_bits

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FORMATS = {"float16": np.dtype(np.float16), "bfloat16": BFLOAT16, "float32": np.dtype(np.float32)}
EVERYTHING = {
    "momentum": 0.8,
    "centered": True,
    "weight_decay": 0.01,
    "beta": 0.7,
    "eps": 1e-6,
    "average_decay": 0.6,
    "bounds": (-1.5, 1.5),
}
N = 5000 if COMPILED else 300
# Arrays below 4096 elements have no 8-bit states: interpreted tests are about the smaller ones only.
eight_bits = pytest.mark.skipif(
    not COMPILED, reason="8-bit states need 4096 elements: too slow in Python"
)


def arrays(size, dtype, grad_dtype=None, steps=3):
    rng = np.random.default_rng(size)
    w = rng.normal(size=size).astype(dtype)
    grads = rng.normal(size=(steps, size)) * 10.0 ** rng.uniform(-3, 2, (steps, size))
    grads[rng.random(grads.shape) < 0.05] = 0
    return w, [g.astype(grad_dtype or dtype) for g in grads]


def run(executor, size, dtype, grad_dtype=None, **settings):
    w, grads = arrays(size, dtype, grad_dtype)
    opt = fastopt.RMSProp(w, lr=0.01, executor=executor, **settings)
    for step, grad in enumerate(grads):
        opt.lr = 0.01 / (step + 1)
        opt.step(grad)
    return opt


def assert_same(one, other):
    assert_same_bits(one.params, other.params, "params")
    for name in one.state:
        assert_same_bits(one.state[name], other.state[name], name)
