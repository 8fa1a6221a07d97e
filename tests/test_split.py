"""Numbers in two arrays, one of 16 bits and a correction: every class of numbers, there and back."""

import numpy as np
import pytest

import fastopt
from fastopt.codecs.corrections import BY_MASTER_BITS
from fastopt.codecs.floats import floats
from fastopt.codecs.formats import FORMATS, Format, register
from tests.support import COMPILED, assert_same_bits

FORMAT_NAMES = "bfloat16", "float16"
SIGN = np.uint32(1 << 31)
NORMAL = 2.0**-14  # the smallest number of float16 of full precision

# Lower halves where something changes: ties, carries, and those next to them.
LOWER = [0, 1, 0x7F, 0x80, 0x81, 0xFF, 0x100, 0x17F, 0x180, 0x181, 0x7F7F, 0x7F80, 0x7FFF]
LOWER += [0x8000, 0x8001, 0x807F, 0x8080, 0x8081, 0xFF7F, 0xFF80, 0xFF81, 0xFFFE, 0xFFFF]
# In float16 it is the lower 13 bits that are cut off.
LOWER += [0x000F, 0x0010, 0x0011, 0x0FFF, 0x1000, 0x1001, 0x1FEF, 0x1FF0, 0x1FFF, 0x2000, 0x3000]


def every_class():
    """All signs, exponents and upper digits, with each of these lower halves, and random ones."""
    upper = np.arange(1 << 16, dtype=np.uint32)[:: 1 if COMPILED else 1021] << np.uint32(16)
    rng = np.random.default_rng(0)
    pieces = [upper | np.uint32(lower) for lower in LOWER]
    pieces += [upper | rng.integers(0, 1 << 16, upper.size, np.uint32) for _ in range(3)]
    return np.concatenate(pieces).view(np.float32)


def wide_bfloat16(x, bits):
    """What is kept of float32 numbers beside bfloat16, and what shows: integers of 31 bits."""
    size = (x.view(np.uint32) & ~SIGN).astype(np.int64)
    if bits == 24:
        size = np.rint(size / 256).astype(np.int64) * 256
    shown = np.floor(size / 65536 + 0.5).astype(np.int64) * 65536
    sign = x.view(np.uint32) & SIGN
    return [(part.astype(np.uint32) | sign).view(np.float32) for part in (size, shown)]


def wide_float16(x, bits):
    """The same beside float16, in float64."""
    size = np.abs(x.astype(np.float64))
    _, exponent = np.frexp(size)
    unit = 2.0 ** np.maximum(exponent - 1, -14)  # of the first digit
    kept = np.where(size < NORMAL, np.rint(size * 2.0**37) * 2.0**-37, size)
    if bits == 24:
        kept = np.rint(kept / unit * 2.0**18) * unit * 2.0**-18
    kept = np.where(kept >= 65536, np.inf, kept)
    _, exponent = np.frexp(kept)
    unit = 2.0 ** (np.maximum(exponent - 1, -14) - 10)
    shown = np.floor(kept / unit + 0.5) * unit
    shown = np.where(shown >= 65520, np.inf, shown)
    return [np.copysign(part, x).astype(np.float32) for part in (kept, shown)]


EXPECTED = {"bfloat16": wide_bfloat16, "float16": wide_float16}


@pytest.mark.parametrize("name", FORMAT_NAMES)
@pytest.mark.parametrize("bits", [24, 32])
def test_every_class_of_numbers(name, bits):
    x, dtype = every_class(), floats(name).dtype
    numbers = x[~np.isnan(x)]
    with np.errstate(all="ignore"):
        kept, shown = EXPECTED[name](numbers, bits)
    codec = BY_MASTER_BITS[bits]
    half, rest = codec.divide(numbers, dtype)
    assert_same_bits(floats(name).decode(half, np.dtype(np.float32)), shown)
    assert_same_bits(codec.join(half, rest), kept)
    if name == "bfloat16" and bits == 32:
        assert_same_bits(kept, numbers)
    # NaN is made canonical.
    half, rest = codec.divide(x[np.isnan(x)], dtype)
    assert len(np.unique(half.view(np.uint16))) == 1
    assert not rest.any()
    assert np.isnan(codec.join(half, rest)).all()


@pytest.mark.parametrize("bits", [24, 32])
def test_errors_of_float16(bits):
    """What the page says of them."""
    x = every_class()
    x = x[np.abs(x) < 65504]  # no NaN either
    kept = BY_MASTER_BITS[bits].join(*BY_MASTER_BITS[bits].divide(x, np.dtype(np.float16)))
    error = np.abs(kept.astype(np.float64) - x)
    small = np.abs(x) < NORMAL
    if bits == 32:
        assert (error[~small] == 0).all()
        assert error[small].max() == 2.0**-38
    else:
        assert (error[~small] / np.abs(x[~small])).max() <= 2.0**-19
        assert error[small].max() <= 2.0**-33 + 2.0**-38


@pytest.mark.parametrize("name", FORMAT_NAMES)
@pytest.mark.parametrize("bits", [24, 32])
def test_shown_numbers_are_near(name, bits):
    """Half a unit of the 16-bit format, and half a unit of the correction: 0.502 in all."""
    rng = np.random.default_rng(1)
    x = rng.uniform(1, 2, 200_000).astype(np.float32)  # where a unit is the same
    half, _ = BY_MASTER_BITS[bits].divide(x, floats(name).dtype)
    unit = 2.0 ** -(7 if name == "bfloat16" else 10)
    error = np.abs(floats(name).decode(half, np.dtype(np.float64)) - x) / unit
    assert error.max() <= (0.5 if bits == 32 else 0.5 + 1 / 512)


@pytest.mark.parametrize("name", FORMAT_NAMES)
@pytest.mark.parametrize("bits", [24, 32])
def test_compiled_code_has_the_same_bits(name, bits):
    x, codec = every_class(), BY_MASTER_BITS[bits]
    dtype = floats(name).dtype
    w = np.zeros(x.size, dtype)
    opt = fastopt.SGD(w, lr=1.0, maximize=True, master_bits=bits)
    opt.step(x)
    with np.errstate(all="ignore"):
        half, rest = codec.divide(x + np.float32(0), dtype)
    assert_same_bits(w.view(np.uint16), half.view(np.uint16))
    assert_same_bits(opt.state["correction"], rest)
    # And all pairs that are stored so are read as they were written.
    previous = w.copy(), opt.state["correction"].copy()
    opt.lr = 0.0
    opt.step(np.full_like(x, -0.0))
    assert_same_bits(w.view(np.uint16), previous[0].view(np.uint16))
    assert_same_bits(opt.state["correction"], previous[1])


@pytest.mark.parametrize("name", FORMAT_NAMES)
@pytest.mark.parametrize("bits", [24, 32])
@pytest.mark.parametrize("executor", ["serial", "reference"])
def test_assigned_zeros_show_as_zeros(name, bits, executor):
    """A weight that is pruned by hand, whatever its correction; others move by half a unit at most."""
    w = np.zeros(6, floats(name).dtype)
    opt = fastopt.SGD(w, lr=0.0, master_bits=bits, executor=executor)
    opt.set_params(np.float32([1.003, -1.003, 1.0009, -1.0009, 0.3333, 3.1415]))
    assert opt.state["correction"].all()
    w[:] = [0, 0, -0.0, -0.0, 2, -2]
    opt.step(np.zeros(6, np.float32))
    assert_same_bits(w.astype(np.float32)[:4], np.float32([0, 0, -0.0, -0.0]))
    wide = opt.decoded_params()
    assert (np.abs(wide[:4]) < 2.0**-24).all()  # what is less than half of the smallest number
    assert np.abs(np.abs(wide[4:]) - 2).max() <= 2.0**-7


def test_formulas_of_a_format_are_checked():
    with pytest.raises(ValueError, match="join with divide"):
        register(Format("odd", 2, 4, join=lambda o, half, rest, width: half))
    with pytest.raises(ValueError, match="16 bits for them"):
        register(Format("odd", 1, 4, join=print, divide=print))
    assert "odd" not in FORMATS
