"""Infinities, NaN, negative and huge numbers among blocks of 8-bit codes, and every bfloat16."""

import numpy as np
import pytest

import fastopt
from fastopt.codecs.blocks import SIGNED, UNSIGNED
from fastopt.codecs.floats import floats
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


@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("position", [0, 1], ids=["lower half", "upper half"])
def test_every_bfloat16_in_pairs(position, stochastic):
    """Pairs have formulas for quiet NaN, and numbers that are stored as they come may be signalling."""
    codec, numbers = floats("bfloat16"), np.zeros(2**17 + 3, np.uint16)
    numbers[position::2][: 2**16] = np.arange(2**16)
    kind = fastopt.Transform(keep, {"kept": 0.0})
    w = np.zeros(numbers.size, codec.dtype)
    opt = fastopt.Optimizer(w, fastopt.chain(kind), stochastic_rounding=stochastic)
    opt.step(numbers.view(codec.dtype))
    wide = codec.decode(numbers.view(codec.dtype), np.dtype(np.float32))
    bits = noise(0, numbers.size, phase(0, 0), 2) if stochastic else None
    kept = codec.encode(wide, bits)
    assert_same_bits(opt.state["kept"], kept)
    quiet = np.where(np.isnan(wide), numbers | 0x40, numbers)
    assert_same_bits(kept, quiet.view(codec.dtype))  # every one is its own neighbour


@pytest.mark.parametrize("optimizer", [fastopt.RMSProp, fastopt.Rprop])
def test_pairs_have_the_bits_of_the_reference(optimizer):
    numbers = np.random.default_rng(6).permutation(np.arange(2**17 + 77)).astype(np.uint16)
    numbers = numbers.view(floats("bfloat16").dtype)
    ends = []
    for executor in ("reference", "serial"):
        w = numbers[::-1].copy()
        opt = optimizer(w, lr=0.1, executor=executor, stochastic_rounding=True, seed=3)
        with np.errstate(all="ignore"):
            opt.step(numbers)
            opt.step(numbers)
        ends.append([w, *opt.state.values()])
    for reference, serial in zip(*ends, strict=True):
        assert_same_bits(serial, reference)
