"""The norm of many arrays: against mpmath, and to the last bit the one that a step takes."""

import math

import mpmath
import numpy as np
import pytest

import fastopt
from fastopt.executors import norm
from fastopt.executors.dispatch import AUTO_THRESHOLD
from tests.refusals import refusal
from tests.subprocesses import needs_jit
from tests.support import DTYPES, sizes

LENGTHS = sizes(
    0, 1, 31, 32, 33, 300, norm.SUM_BLOCK - 1, norm.SUM_BLOCK, norm.SUM_BLOCK + 33, 3 * AUTO_THRESHOLD
)


def numbers(size, dtype, seed=0):
    """From a thousandth to a thousand, of both signs."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=size) * 10.0 ** rng.uniform(-3, 3, size)).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", LENGTHS)
def test_against_mpmath(length, dtype):
    array = numbers(length, dtype)
    with mpmath.workdps(40):
        exact = mpmath.sqrt(mpmath.fsum(mpmath.mpf(float(x)) ** 2 for x in array))
    norm = fastopt.global_norm(array)
    assert type(norm) is float
    assert norm == pytest.approx(float(exact), rel=1e-13)


def structure():
    sizes_ = LENGTHS[-1], 7, 0, 33
    a, b, c, d = (numbers(size, DTYPES[i % 2], i) for i, size in enumerate(sizes_))
    return {"a": a, "b": [b, (c, d.reshape(3, 11))], "c": np.array(-2.5)}


def copy_of(grads):
    return {"a": grads["a"].copy(), "b": [grads["b"][0].copy(), tuple(map(np.copy, grads["b"][1]))],
            "c": grads["c"].copy()}  # fmt: skip


def steps_norm(grads, executor="auto", **settings):
    opt = fastopt.SGD(copy_of(grads), clip_norm=1.0, executor=executor, **settings)
    opt.step(grads)
    return opt.last.norm


@pytest.mark.parametrize("executor", ["auto", "serial", "parallel", "reference"])
def test_is_that_of_a_step(executor):
    grads = structure()
    assert fastopt.global_norm(grads) == steps_norm(grads, executor)
    grads["b"][0] = None
    opt = fastopt.SGD(copy_of(structure()), clip_norm=1.0, executor=executor)
    opt.step(grads)
    assert fastopt.global_norm(grads) == opt.last.norm


def pairwise(values):
    """Neighbours first: the sum of a complete tree and of what is behind it."""
    if len(values) == 1:
        return values[0]
    complete = 1 << (len(values) - 1).bit_length() - 1
    return pairwise(values[:complete]) + pairwise(values[complete:])


def block_sum(squares):
    """Lane by lane over the rows of eight, then over the lanes."""
    squares = squares + [0.0] * (-len(squares) % 8)
    return pairwise([pairwise(squares[lane::8]) for lane in range(8)])


@pytest.mark.parametrize("lengths", [(n,) for n in LENGTHS] + [(7, 0, 8192 + 1, 130), (3,) * 37])
def test_order_of_the_sum(lengths):
    """Typed here once more: by the definition, in Python's floats."""
    grads = [numbers(n, np.float64) for n in lengths]
    sums = [
        block_sum([x * x for x in grad[start : start + 8192].tolist()])
        for grad in grads
        for start in range(0, grad.size, 8192)
    ]
    assert fastopt.global_norm(grads) == (pairwise(sums) if sums else 0.0) ** 0.5


def test_on_any_number_of_threads():
    grads, norms = structure(), set()
    for count in (1, 2, 3, 8):
        with fastopt.threads(count):
            norms.add(fastopt.global_norm(grads))
    assert len(norms) == 1


@needs_jit
def test_compiled_and_in_numpy():
    grads = numbers(3 * AUTO_THRESHOLD, np.float32)
    assert fastopt.global_norm(grads) == norm.reference([grads]) ** 0.5


@pytest.mark.parametrize(
    "scale", [2.0**e for e in (-1073, -1000, -600, -500, -481, -480, -479, 500, 600, 1020)]
)
@pytest.mark.parametrize("count", [1, 30, 9000])
def test_large_and_small(scale, count):
    """Squares of most of these are beyond float64: the norm has the bits that it has without scale."""
    x, plain = np.array([3.0] * count), [np.array([4.0]), np.zeros(5, np.float32)]
    exact = fastopt.global_norm([x, *plain])
    norm = fastopt.global_norm([x * scale, plain[0] * scale, plain[1]])
    # The norm itself is not a normal number at the one end, and infinite at the other.
    assert norm == (exact * scale if scale > 2.0**-1000 else pytest.approx(exact * scale, abs=5e-324))


def test_small_beside_zeros_of_other_formats():
    grads = [np.zeros(100, np.float16), np.full(4, 1e-200), np.zeros(3), np.zeros(0)]
    assert fastopt.global_norm(grads) == pytest.approx(2e-200, rel=1e-15)
    assert fastopt.global_norm([np.full(4, 1e-45, np.float32)]) == 2 * float(np.float32(1e-45))


@pytest.mark.parametrize("executor", ["serial", "reference"])
def test_small_in_a_step(executor):
    w, grads = np.zeros(2), np.array([3e-200, 4e-200])
    opt = fastopt.SGD(w, lr=1.0, clip_norm=1e-200, executor=executor)
    opt.step(grads)
    assert opt.last.norm == fastopt.global_norm(grads)
    np.testing.assert_allclose(w, [-0.6e-200, -0.8e-200], 1e-15)


@pytest.mark.parametrize("executor", ["serial", "reference"])
def test_large_in_a_step(executor):
    w, grads = np.zeros(2), np.array([3e200, 4e200])
    opt = fastopt.SGD(w, lr=1.0, clip_norm=1.0, executor=executor)
    opt.step(grads)
    assert opt.last.norm == fastopt.global_norm(grads)
    np.testing.assert_allclose(w, [-0.6, -0.8], 1e-15)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", DTYPES)
def test_not_finite(dtype, bad):
    array = numbers(100, dtype)
    array[70] = bad
    assert math.isnan(fastopt.global_norm([np.ones(3), array]))


@pytest.mark.parametrize("nothing", [[], {}, (), [None], np.zeros(0), [np.zeros((0, 3))], [[], {}]])
def test_nothing(nothing):
    assert fastopt.global_norm(nothing) == 0.0


def test_arrays_are_only_read():
    array = np.arange(5.0)
    array.flags.writeable = False
    assert fastopt.global_norm(array) == 30.0**0.5


@pytest.mark.parametrize(
    ("arrays", "error", "words"),
    [
        (None, TypeError, ["arrays", "NumPy array", "NoneType"]),
        ([1.0], TypeError, ["arrays[0]", "NumPy array", "float"]),
        ({"a": [np.ones(3, int)]}, TypeError, ["arrays['a'][0]", "float32 or float64", "int"]),
        (np.ones(6)[::2], ValueError, ["arrays", "C-contiguous"]),
        ([np.ones(3, ">f8")], ValueError, ["arrays[0]", "native byte order"]),
        (np.ones(17, np.int8)[1:].view("f8"), ValueError, ["arrays", "aligned"]),
        (np.ma.ones(3), TypeError, ["arrays", "masked"]),
    ],
)
def test_bad_arrays(arrays, error, words):
    with refusal(error, words):
        fastopt.global_norm(arrays)
