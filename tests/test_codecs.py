"""The specification of the storage formats: every code, every number, and what rounding promises."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastopt.codecs.base import BLOCK
from fastopt.codecs.blocks import ITEM, MARKS, OTHER, PLAIN, SIGNED, UNSIGNED
from fastopt.codecs.floats import floats
from fastopt.codecs.rounding import noise, phase, table, whole_phase

SINGLE = np.dtype(np.float32)
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
SIXTEEN = {"float16": np.dtype(np.float16), "bfloat16": BFLOAT16}
both_blocks = pytest.mark.parametrize("codec", [UNSIGNED, SIGNED], ids=lambda codec: codec.name)
both_halves = pytest.mark.parametrize("name", SIXTEEN)


def all_of_16_bits(name):
    return np.arange(2**16, dtype=np.uint16).view(SIXTEEN[name])


def blocks_of_all_codes(*scales, mark=0):
    items = np.zeros(len(scales), ITEM)
    items["scale"], items["codes"] = scales, np.arange(BLOCK)
    items["scale"].view(np.int32)[:] |= mark
    return items


def is_plain(stored):
    return (stored["scale"].view(np.int32) & MARKS) == PLAIN


def steps(k):
    """Eighths of powers of two: three bits of mantissa."""
    return 2.0 ** (k // 8) * (1 + k % 8 / 8)


def meant_by(codec, mark):
    """The numbers of all codes at a scale of one, from what the documentation says."""
    code = np.arange(BLOCK)
    if codec is UNSIGNED and mark:
        code = (code + 128) % 256
        numbers = steps(code)
        if mark == OTHER:
            numbers[[126, 127]] = np.inf, np.nan
        return numbers
    if codec is UNSIGNED:
        numbers = np.where(code < 32, steps(2 * code - 278), steps(code - 246))
        numbers[[0, 254, 255]] = 0, np.inf, np.nan
        return numbers
    size = steps(code % 128) - 1
    if not mark:
        size[127] = size[255] = np.inf
    numbers = np.where(code < 128, size, -size)
    if not mark:
        numbers[128] = np.nan
    return numbers


MARKED = [(UNSIGNED, 0), (UNSIGNED, PLAIN), (UNSIGNED, OTHER), (SIGNED, 0), (SIGNED, PLAIN)]
each_mark = pytest.mark.parametrize(
    ("codec", "mark"), MARKED, ids=lambda value: getattr(value, "name", value)
)


@both_halves
def test_every_16_bit_number_survives(name):
    codec, stored = floats(name), all_of_16_bits(name)
    numbers = codec.decode(stored, SINGLE)
    with np.errstate(invalid="ignore"):  # signalling NaN
        np.testing.assert_array_equal(numbers, stored.astype(np.float32), strict=True)
    for bits in (None, noise(0, 2**16, 0.0, 0)):  # stochastic rounding keeps what can be stored
        back = codec.encode(numbers, bits)
        finite = ~np.isnan(numbers)
        np.testing.assert_array_equal(back[finite].view(np.uint16), stored[finite].view(np.uint16))
        assert np.isnan(back[~finite].astype(np.float32)).all()


@both_halves
@settings(deadline=None)
@given(st.floats(width=32, allow_nan=False), st.integers(0, 2**32 - 1))
def test_stochastic_rounding_to_16_bits_gives_a_neighbour(name, number, bits):
    codec, given_ = floats(name), np.array([number], np.float32)
    nearest = codec.encode(given_, None)
    result = codec.encode(given_, np.array([bits], np.uint32)).astype(np.float64)
    around = [np.nextafter(nearest, np.array(way, nearest.dtype)) for way in (-np.inf, np.inf)]
    low, high = (float(each.astype(np.float64)[0]) for each in around)
    assert low <= result[0] <= high
    if float(nearest.astype(np.float64)[0]) == number:
        assert result[0] == number


@both_halves
@pytest.mark.parametrize("number", [1.0001, -3.1e-3, 2.0**-14 * 0.9999, 3.3e-6, -1.23e-7, 1000.3])
def test_stochastic_rounding_to_16_bits_is_unbiased(name, number):
    count = 2**16
    given_ = np.full(count, number, np.float32)
    results = floats(name).encode(given_, noise(0, count, 0.0, 0)).astype(np.float64)
    low, high = results.min(), results.max()
    share = (float(given_[0]) - low) / (high - low)
    # Bits that are spread evenly are nearer to the mean than independent ones: 4 of their deviations.
    assert abs(np.mean(results == high) - share) < 4 * (share * (1 - share) / count) ** 0.5
    assert low < given_[0] < high


def test_noise_is_uniform_in_elements_and_in_steps():
    of_elements = noise(12345, 2**16, phase(7, 3), 1) / 2**32
    of_steps = np.array([noise(0, 1, phase(7, step), 1)[0] for step in range(4096)]) / 2**32
    for sample in (of_elements, of_steps):
        counts = np.histogram(sample, 64, (0, 1))[0]
        expected = sample.size / 64
        assert ((counts - expected) ** 2 / expected).sum() < 2 * 64
    assert np.sort(table() >> np.uint32(24)).tolist() == list(range(BLOCK))


@settings(deadline=None)
@given(st.integers(0, 2**40), st.integers(0, 40))
def test_noise_depends_on_the_element_alone(first, blocks):
    whole = noise(first, (blocks + 2) * BLOCK, 5.0, 3)
    np.testing.assert_array_equal(
        whole[blocks * BLOCK :], noise(first + blocks * BLOCK, 2 * BLOCK, 5.0, 3)
    )


def test_noise_differs_by_seed_step_and_slot():
    kinds = [(phase(s, t), slot) for s in (0, 1) for t in (0, 1) for slot in (0, 3)]
    samples = {noise(0, 8, *kind).tobytes() for kind in kinds}
    assert len(samples) == len(kinds)


def test_the_part_of_a_step_is_the_same_in_arrays():
    """Of int64, for any seed: the sum before the remainder may not fit."""
    steps = [0, 1, 2**31, 2**32 - 1, 2**33 + 5, 2**53]
    for seed in 0, 1, 2**32 - 1:
        whole = [whole_phase(seed, step) for step in steps]
        assert whole_phase(seed, np.array(steps)).tolist() == whole
        assert [phase(seed, step) for step in steps] == whole


@each_mark
def test_what_codes_mean(codec, mark):
    """Files from before there were marks hold the codes without one."""
    for scale in (1.0, 2.0**-60, 2.0**30):
        decoded = codec.decode(blocks_of_all_codes(scale, mark=mark), SINGLE)
        np.testing.assert_array_equal(decoded, (scale * meant_by(codec, mark)).astype(np.float32))


@each_mark
def test_every_code_survives(codec, mark):
    if (codec, mark) == (UNSIGNED, 0):
        pytest.skip("no longer written")
    stored = blocks_of_all_codes(1.0, 2.0**-60, 2.0**90, mark=mark)
    if (codec, mark) == (SIGNED, PLAIN):  # not reached by numbers of this scale; zero has no sign
        stored["codes"][:, [127, 255, 128]] = 126, 254, 0
    numbers = codec.decode(stored, SINGLE)
    for bits in (None, noise(0, numbers.size, 3.0, 2)):
        np.testing.assert_array_equal(codec.encode(numbers, bits), stored)


@both_blocks
def test_which_blocks_are_plain(codec):
    """All whose numbers are finite, but for those too near to the end of float32 for a sum."""
    ordinary = np.linspace(1, 2, BLOCK).astype(np.float32)
    for first in (0.0, 1e-12, 1e-45, 2.0**30, 3e37):
        block = ordinary.copy()
        block[0] = first
        assert is_plain(codec.encode(block, None))
        assert is_plain(codec.encode(np.full(BLOCK, first, np.float32), None))
    for first in (np.inf, np.nan, -np.nan):
        block[0] = first
        assert not is_plain(codec.encode(block, None))
    block[0] = -1.0
    assert is_plain(codec.encode(block, None)) == (codec is SIGNED)
    block[0] = 3.4e38
    assert not is_plain(codec.encode(block, None))


@each_mark
def test_codes_rise(codec, mark):
    numbers = codec.decode(blocks_of_all_codes(1.0, mark=mark), SINGLE)
    rising = {0: numbers[:254], PLAIN: np.roll(numbers, 128), OTHER: np.roll(numbers, 128)[:254]}[mark]
    if codec is SIGNED:
        rising = numbers[:127]
        np.testing.assert_array_equal(-numbers[1:127], numbers[129:255])
    assert rising[0] == (1 if codec is UNSIGNED and mark else 0)
    assert (np.diff(rising) > 0).all()


@both_blocks
def test_nearest(codec):
    """Of all codes of the scale that was chosen, none is nearer."""
    rng = np.random.default_rng(0)
    least = np.repeat(rng.uniform(-8, 2, 40), BLOCK)
    numbers = (10.0 ** rng.uniform(least, 3)).astype(np.float32)
    if codec is SIGNED:
        numbers *= rng.choice([-1, 1], numbers.size).astype(np.float32)
    stored = codec.encode(numbers, None)
    decoded = codec.decode(stored, SINGLE).astype(np.float64)
    assert is_plain(stored).all()
    choices = blocks_of_all_codes(*stored["scale"])
    choices = codec.decode(choices, np.dtype(np.float64)).reshape(-1, BLOCK)
    exact = numbers.astype(np.float64)
    for block, choice in enumerate(choices):
        part = slice(block * BLOCK, (block + 1) * BLOCK)
        least = np.abs(exact[part, None] - choice).min(axis=1)
        off = np.abs(exact[part] - decoded[part])
        # SIGNED adds its scale in float32 first, which may turn a tie.
        np.testing.assert_allclose(off, least, rtol=0 if codec is UNSIGNED else 1e-5, atol=0)


def test_relative_error_of_unsigned():
    numbers = (10.0 ** np.random.default_rng(1).uniform(-8, 0, 2**14)).astype(np.float32)
    numbers[::BLOCK] = 1.0
    decoded = UNSIGNED.decode(UNSIGNED.encode(numbers, None), SINGLE)
    assert np.abs(decoded / numbers - 1).max() <= 1 / 16


def test_what_is_below_the_range_counts_as_its_end():
    """Nothing above zero falls to zero, where a step would be divided by the root of it."""
    numbers = np.array([2.0**30, 1.0, 2.0**-1, 2.0**-2, 2.0**-3, 1e-30, 1e-45, 0.0] * 32, np.float32)
    for bits in (None, *(noise(0, BLOCK, phase(0, step), 2) for step in range(20))):
        decoded = UNSIGNED.decode(UNSIGNED.encode(numbers, bits), SINGLE)[:8]
        least = 2.0**30 / 2.0**31.875 * 2.0**0  # 255 codes below
        np.testing.assert_array_equal(decoded[:3], numbers[:3])
        np.testing.assert_array_equal(decoded[4:], decoded[4])
        assert least <= decoded[4] <= 1.1 * least
    zeros = np.zeros(BLOCK, np.float32)
    np.testing.assert_array_equal(UNSIGNED.decode(UNSIGNED.encode(zeros, None), SINGLE), zeros)
    tiny = zeros.copy()
    tiny[3] = 1e-45
    decoded = UNSIGNED.decode(UNSIGNED.encode(tiny, None), SINGLE)
    np.testing.assert_array_equal(decoded, np.finfo(np.float32).tiny)  # none is subnormal


def test_gradients_that_differ_by_60_000_keep_their_squares():
    gradients = np.array([6e4, 1.0, 1e3, 30.0] * 64, np.float32)
    squares = gradients * gradients
    for bits in (None, *(noise(0, BLOCK, phase(0, step), 2) for step in range(20))):
        decoded = UNSIGNED.decode(UNSIGNED.encode(squares, bits), SINGLE)
        assert np.abs(decoded / squares - 1).max() < (1 / 16 if bits is None else 1 / 8)


@both_blocks
@pytest.mark.parametrize(
    "special",
    [
        [0.0],
        [np.nan, 1.0],
        [-np.nan, 2.0, 0.0],
        [np.inf, 1e-3, 5.0],
        [np.nan, np.inf, 0.0],
        [1e-45, 1e-40],
        [2.9e38, 1.0],
        [1e38, 1e-38],
        [1e6] + [1e-6] * 9,
    ],
    ids=str,
)
def test_special_numbers_change_no_others(codec, special):
    numbers = np.zeros(BLOCK, np.float32)
    numbers[: len(special)] = special
    decoded = codec.decode(codec.encode(numbers, None), SINGLE)
    np.testing.assert_array_equal(np.isnan(decoded), np.isnan(numbers))
    np.testing.assert_array_equal(np.isinf(decoded), np.isinf(numbers))
    finite = numbers[np.isfinite(numbers)]
    shown = decoded[np.isfinite(numbers)]
    least = max(finite.max() * 2.0**-31, 2.0**-126) if codec is UNSIGNED else 0
    assert (shown[finite == 0] <= (least if finite.any() else 0)).all()
    normal = np.abs(finite) >= finite.max() * 1e-5
    large = normal & (np.abs(finite) > 1e-30)
    np.testing.assert_allclose(shown[large], finite[large], rtol=1 / 8)
    if codec is UNSIGNED:
        assert (shown[finite > 0] > 0).all()


def test_signed_infinity_and_minus():
    numbers = np.array([-np.inf, np.inf, -4.0, 4.0, -1e-9, -0.0], np.float32)
    decoded = SIGNED.decode(SIGNED.encode(numbers, None), SINGLE)[:6]
    np.testing.assert_array_equal(decoded[:2], numbers[:2])
    np.testing.assert_allclose(decoded[2:4], numbers[2:4], rtol=1e-3)
    assert not np.signbit(decoded[4:]).any()


@both_blocks
@settings(deadline=None)
@given(st.integers(0, 2**31), st.floats(0.001, 1000.0))
def test_blocks_are_unbiased(codec, seed, size):
    rng = np.random.default_rng(seed)
    numbers = np.full(64 * BLOCK, size * rng.uniform(0.001, 1), np.float32)
    numbers[::BLOCK] = size
    ends = np.zeros(numbers.size, np.uint32), np.full(numbers.size, 2**32 - 1, np.uint32)
    random = noise(0, numbers.size, 0.0, 2)
    decoded = [
        codec.decode(codec.encode(numbers, bits), np.dtype(np.float64)) for bits in (*ends, random)
    ]
    inner = np.arange(numbers.size) % BLOCK != 0
    low, high = decoded[0][1], decoded[1][1]
    exact, actual = float(numbers[1]), decoded[2][inner]
    assert low <= exact * (1 + 1e-6)
    assert high >= exact * (1 - 1e-6)
    assert np.isin(actual, (low, high)).all()
    # Independent bits would leave this deviation, and few go up where the chance is small.
    gap = max(high - low, 1e-6 * exact)
    chance = np.clip((exact - low) / gap, 0, 1)
    deviation = (chance * (1 - chance) / actual.size) ** 0.5
    assert abs(actual.mean() - exact) <= gap * (4 * deviation + 4 / actual.size) + 1e-6 * exact


@both_blocks
@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 1000])
def test_a_short_last_block(codec, size):
    numbers = np.linspace(0.5, 3, size).astype(np.float32)
    stored = codec.encode(numbers, None)
    assert stored.shape == codec.shape((size,)) == (-(-size // BLOCK),)
    zeros = codec.encode(np.zeros(1, np.float32), None)["codes"][0, 0]
    assert (stored[-1:]["codes"][:, (size - 1) % BLOCK + 1 :] == zeros).all()
    np.testing.assert_allclose(codec.decode(stored, SINGLE)[:size], numbers, rtol=1 / 15)


@both_blocks
def test_fill_and_store(codec):
    numbers = np.random.default_rng(2).uniform(0, 1, 3 * 65536 + 777).astype(np.float32)
    stored = np.zeros(codec.shape(numbers.shape), ITEM)
    codec.store(stored, numbers)
    np.testing.assert_array_equal(stored, codec.encode(numbers, None))
    codec.fill(stored, 0.25)
    np.testing.assert_allclose(codec.decode(stored, SINGLE), 0.25, rtol=1e-4)


def test_memory():
    assert ITEM.itemsize / BLOCK == 1.015625
