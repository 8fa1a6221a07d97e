"""Words of four codes, as devices compute them: the codes of the codecs, without a device."""

import numpy as np
import pytest

from fastopt.codecs.base import BLOCK
from fastopt.codecs.blocks import BLOCKS, STEP, is_plain
from fastopt.codecs.operations import NUMPY
from fastopt.executors.cuda.code_words import WORDS


class Operations:
    """Those over arrays, with the two that only words need."""

    def __getattr__(self, name):
        return getattr(NUMPY, name)

    def upper_halves(self, one, other):
        return (one >> 16 & 0xFFFF) | (other & -0x10000)

    def mixed_bits(self, mask, one, other):
        return (one & mask) | (other & ~mask)


def blocks_of(codec, count=2000):
    """Plain blocks whose numbers differ by powers of two, some of them zero."""
    rng = np.random.default_rng(0)
    sizes = 2.0 ** (rng.uniform(-120, 100, (count, 1)) - rng.exponential(8, (count, BLOCK)))
    numbers = (sizes * rng.normal(size=sizes.shape)).astype(np.float32)
    numbers[rng.random(numbers.shape) < 0.05] = 0
    return numbers if codec.has_sign else abs(numbers)


@pytest.mark.parametrize("random", [False, True])
@pytest.mark.parametrize("name", BLOCKS)
def test_words_have_the_codes(name, random):
    codec, (lift, word, _) = BLOCKS[name], WORDS[name]
    numbers = blocks_of(codec)
    noise = np.full(numbers.shape, 1 << 31, np.uint32)  # a half
    if random:
        noise = np.random.default_rng(1).integers(2**32, size=numbers.shape, dtype=np.uint32)
    stored = codec.encode(numbers.reshape(-1), noise.reshape(-1))
    scale = stored["scale"].view(np.int32)
    assert is_plain(scale).all()
    offset, constant = codec.offsets(scale[:, None])
    dither = (noise >> np.uint32(32 - STEP - lift)).astype(np.int32) ^ (constant << lift)
    with np.errstate(over="ignore"):
        lanes = [numbers[:, k::4] for k in range(4)], [dither[:, k::4] for k in range(4)]
        words = word(Operations(), lanes[0], offset, lanes[1])
    actual = np.ascontiguousarray(words).view(np.uint8).reshape(numbers.shape)
    np.testing.assert_array_equal(actual, stored["codes"])


@pytest.mark.parametrize("name", BLOCKS)
def test_numbers_of_codes(name):
    """Every code with every scale that a plain block can have, to the bit: zeros have signs."""
    codec, number = BLOCKS[name], WORDS[name].number
    largest = np.ldexp(np.float32(1.5), np.arange(-126, 127)).astype(np.float32)
    numbers = np.zeros((largest.size, BLOCK), np.float32)
    numbers[:, 0] = largest
    scale = codec.encode(numbers.reshape(-1), None)["scale"].view(np.int32)[:, None]
    codes = np.arange(256, dtype=np.uint8)[None, :]
    with np.errstate(all="ignore"):
        actual, expected = (f(NUMPY, codes, scale) for f in (number, codec.plain_number))
    np.testing.assert_array_equal(actual.view(np.int32), expected.view(np.int32))
