"""Infinities, NaN, negative and huge numbers among blocks of 8-bit codes."""

import numpy as np
import pytest

import fastopt
from fastopt.codecs.blocks import SIGNED, UNSIGNED
from fastopt.codecs.rounding import noise, phase
from tests.support import COMPILED, assert_same_bits

pytestmark = pytest.mark.skipif(not COMPILED, reason="too many elements for plain Python")


def keep(update, param, state, hyper):
    return update, (update,)


@pytest.mark.parametrize("nearest", [True, False])
@pytest.mark.parametrize("nonnegative", [True, False])
def test_unusual_numbers_between_usual_blocks(nonnegative, nearest):
    """Blocks in which all numbers are usual are encoded in another way, and with the next block."""
    codec = UNSIGNED if nonnegative else SIGNED
    kind = fastopt.Transform(keep, {"kept": 0.0}, nonnegative=("kept",) if nonnegative else ())
    bad = [np.nan, np.inf, -np.inf, 3.3e38, -3.3e38, 3.0e38, -1.0, -0.0, 0.0, 1e-40, 5e-39]
    numbers = np.random.default_rng(4).normal(size=40 * 256 + 77).astype(np.float32) ** 3
    numbers = np.abs(numbers) if nonnegative else numbers
    for i, number in enumerate(bad):
        numbers[(3 * i + 1) * 256 + 17 * i] = number
    numbers[-300:-250] = np.inf  # on both sides of the last bound
    w = np.zeros(numbers.size, np.float32)
    rounding = {"stochastic_rounding": not nearest, "seed": 5}
    opt = fastopt.Optimizer(w, fastopt.chain(kind), state_dtype="8bit", **rounding)
    for step in range(3):
        opt.step(numbers)
        bits = None if nearest else noise(0, numbers.size, phase(5, step), 2)
        assert_same_bits(opt.state["kept"], codec.encode(numbers, bits))
