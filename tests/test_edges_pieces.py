"""One array and its pieces: when their bits are equal, and when they need not be."""

import numpy as np
import pytest

import fastopt
from tests.support import COMPILED, assert_same_bits

BLOCK, SUM_BLOCK = 256, 8192  # of random bits and 8-bit codes; of the sums of squares
SIZE = 3 * SUM_BLOCK + 1000 if COMPILED else 300


def run(cuts, dtype=np.float32, steps=3, **options):
    """Parameters after some steps, of an array that is cut at these places; and the last norm."""
    rng = np.random.default_rng(5)
    w = rng.normal(size=SIZE).astype(dtype)
    params = np.split(w, cuts)
    opt = fastopt.Adam(params if cuts else w, lr=0.01, **options)
    for _ in range(steps):
        g = rng.normal(size=SIZE).astype(dtype)
        opt.step(np.split(g, cuts) if cuts else g)
    return w, opt.last.norm if opt.last else None


ANYWHERE = [[1], [7, 100], [255], [256], [100, 200, 299], [100, 100]]


@pytest.mark.parametrize("cuts", ANYWHERE)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_any_pieces(cuts, dtype):
    options = {"weight_decay": 0.1, "clip_value": 0.5, "bounds": (-1.0, 1.0), "average_decay": 0.9}
    whole, _ = run([], dtype, **options)
    pieces, _ = run(cuts, dtype, **options)
    assert_same_bits(pieces, whole)


@pytest.mark.parametrize("skips", [False, True])
def test_a_norm_that_does_not_clip_changes_no_bit(skips):
    whole, size = run([], clip_norm=1e9, skip_nonfinite=skips)
    pieces, other = run([100, 201], clip_norm=1e9, skip_nonfinite=skips)
    assert_same_bits(pieces, whole)
    assert other == pytest.approx(size, rel=1e-15)


@pytest.mark.skipif(not COMPILED, reason="takes long in plain Python")
@pytest.mark.parametrize("cuts", [[SUM_BLOCK], [SUM_BLOCK, 3 * SUM_BLOCK], [2 * SUM_BLOCK]])
def test_clipping_and_whole_blocks(cuts):
    whole, size = run([], np.float64, clip_norm=0.5)
    pieces, other = run(cuts, np.float64, clip_norm=0.5)
    assert other == size
    assert_same_bits(pieces, whole)


@pytest.mark.parametrize("cuts", [[100], [1, 99, 257]])
def test_clipping_and_other_pieces(cuts):
    """The norm's last bits depend on where sums end, and through it all elements."""
    whole, size = run([], np.float64, clip_norm=0.5)
    pieces, other = run(cuts, np.float64, clip_norm=0.5)
    assert other == pytest.approx(size, rel=1e-14)
    np.testing.assert_allclose(pieces, whole, rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_random_rounding_and_whole_blocks(dtype):
    options = {"stochastic_rounding": True, "state_dtype": np.float16, "seed": 3}
    whole, _ = run([], dtype, **options)
    pieces, _ = run([BLOCK], dtype, **options)
    assert_same_bits(pieces, whole)
    if COMPILED:
        pieces, _ = run([BLOCK, 7 * BLOCK, 32 * BLOCK], dtype, **options)
        assert_same_bits(pieces, whole)


def test_random_rounding_and_other_pieces():
    """Another element of a block has other bits."""
    whole, _ = run([], np.float16, stochastic_rounding=True)
    pieces, _ = run([100], np.float16, stochastic_rounding=True)
    assert_same_bits(pieces[:100], whole[:100])
    assert (pieces[100:] != whole[100:]).any()


@pytest.mark.skipif(not COMPILED, reason="takes long in plain Python")
def test_8_bit_states_and_whole_blocks():
    """Where every piece is large enough to have 8-bit states."""
    whole, _ = run([], state_dtype="8bit")
    pieces, _ = run([32 * BLOCK, 50 * BLOCK], state_dtype="8bit")
    assert_same_bits(pieces, whole)
