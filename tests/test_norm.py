"""The global norm: right for any numbers, and the same bits wherever it is computed."""

import math

import numpy as np
import pytest

import fastopt
from fastopt.executors import norm
from fastopt.transforms.base import sums_in
from fastopt.transforms.gradient_clip import summing
from tests.refusals import everywhere
from tests.support import DTYPES, assert_same_bits

both_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)

# Around a vector's width and a block's.
SIZES = [
    (0,),
    (1,),
    (31,),
    (32,),
    (33,),
    (63,),
    (64,),
    (65,),
    (129,),
    (4097,),
    (8191,),
    (8192,),
    (8193,),
    (8192 + 33,),
    (24_577,),
]
SIZES += [(5, 0, 8193), (3, 8192, 8191, 31), tuple(range(70))]


def numbers(sizes, dtype):
    rng = np.random.default_rng(42)
    return [np.array(rng.normal(size=n) * 10.0 ** rng.uniform(-3, 3, n), dtype) for n in sizes]


def norm_of(grads, executor, threads=1):
    opt = fastopt.Optimizer(
        [np.zeros_like(g) for g in grads], fastopt.chain(), skip_nonfinite=True, executor=executor
    )
    with fastopt.threads(threads):
        opt.step(grads)
    return opt.last.norm


@both_dtypes
@pytest.mark.parametrize("sizes", SIZES, ids=lambda sizes: f"{len(sizes)}x{max(sizes)}")
def test_same_bits_everywhere_and_right(sizes, dtype):
    grads = numbers(sizes, dtype)
    actual = norm_of(grads, "serial")
    expected = np.linalg.norm(np.concatenate(grads).astype(np.float64))
    assert abs(actual - expected) <= 1e-14 * expected
    assert norm_of(grads, "reference") == actual
    for threads in (1, 2, 3, 8):
        assert norm_of(grads, "parallel", threads) == actual


@everywhere
@both_dtypes
def test_norm_is_of_the_unscaled_gradients(dtype, executor):
    w = np.zeros(2, dtype)
    opt = fastopt.SGD(w, lr=1.0, clip_norm=2.0, executor=executor)
    opt.step(np.array([300, 400], dtype), grad_scale=50.0)
    assert opt.last == (10.0, False)
    np.testing.assert_allclose(w, [-1.2, -1.6], rtol=1e-6)
    opt.step(np.array([30, 40], dtype), grad_scale=50.0)  # a norm of 1 is not scaled up
    assert opt.last == (1.0, False)
    np.testing.assert_allclose(w, [-1.8, -2.4], rtol=1e-6)


@everywhere
def test_squares_that_overflow(executor):
    w = np.zeros(4)
    opt = fastopt.SGD(w, lr=1.0, clip_norm=1.0, skip_nonfinite=True, executor=executor)
    opt.step(np.array([1e200, -1e200, 1e200, 0.0]))
    assert opt.last.norm == pytest.approx(3**0.5 * 1e200, rel=1e-15)
    assert not opt.last.skipped
    np.testing.assert_allclose(w, [-(3**-0.5), 3**-0.5, -(3**-0.5), 0.0], rtol=1e-15)


@everywhere
@pytest.mark.parametrize("scale", [2.0**-1000, 2.0**-520, 2.0**600])
def test_same_bits_where_squares_overflow_or_vanish(scale, executor):
    x = numbers((5, 8193), np.float64)
    assert norm_of([g * scale for g in x], executor) == norm_of(x, "serial") * scale


class Counted:
    """A number that knows how many additions, one after the other, it has come from."""

    def __init__(self, additions=0):
        self.additions = additions

    def __add__(self, other):
        return Counted(1 + max(self.additions, other.additions))


def test_no_addition_waits_for_more_than_a_binary_tree_has():
    """In the order of the sums, which is that of all executors: their bits are the same."""
    rows = np.full((norm.SUM_BLOCK // norm.LANES, norm.LANES), Counted(), object)
    block = norm.tree_sum(norm.tree_sum(rows))
    total = norm.tree_sum(np.full(norm.blocks([10**8]), block, object))
    assert total.additions == 27 == math.ceil(math.log2(10**8))


@everywhere
@both_dtypes
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nonfinite_gradients_are_clipped_without_them(bad, dtype, executor):
    """They touch only their own element: the norm for the others is that of the finite ones."""
    w, grads = [np.zeros(3, dtype), np.zeros(2, dtype)], [[3, bad, 0], [4, 0]]
    opt = fastopt.SGD(w, lr=1.0, clip_norm=1.0, executor=executor)
    opt.step([np.array(g, dtype) for g in grads])
    assert np.isnan(opt.last.norm)
    assert not opt.last.skipped
    assert_same_bits(w[1], np.array([-dtype(0.2) * dtype(4), 0], dtype))
    assert_same_bits(w[0][::2], np.array([-dtype(0.2) * dtype(3), 0], dtype))
    assert np.isnan(w[0][1]) if np.isnan(bad) else w[0][1] == -bad


@everywhere
def test_norm_of_float32_that_overflows_in_float32(executor):
    g = np.full(100, 3e38, np.float32)
    assert norm_of([g], executor) == pytest.approx(10 * float(g[0]), rel=1e-15)


@everywhere
def test_gradients_of_zero(executor):
    w = np.ones(3)
    opt = fastopt.SGD(w, clip_norm=1.0, executor=executor)
    opt.step(np.zeros(3))
    assert opt.last == (0.0, False)
    np.testing.assert_array_equal(w, 1.0)


@everywhere
def test_norm_of_what_is_not_left_out(executor):
    w = [np.zeros(2), np.zeros(2)]
    opt = fastopt.SGD(w, lr=1.0, clip_norm=1.0, executor=executor)
    opt.step([np.array([30.0, 40.0]), np.array([300.0, 400.0])])
    for array in w:
        array[:] = 0
    opt.step([np.array([3.0, 4.0]), None])
    assert opt.last == (5.0, False)
    np.testing.assert_allclose(w, [[-0.6, -0.8], [0.0, 0.0]])
    opt.step([None, None])
    assert opt.last == (0.0, False)


def test_last_is_nothing_where_nothing_asks():
    opt = fastopt.SGD(np.ones(3))
    opt.step(np.ones(3))
    assert opt.last is None


@both_dtypes
@pytest.mark.parametrize("odd", [0.0, np.nan, -np.inf])
@pytest.mark.parametrize("power", [-600, 0, 600])
def test_norm_follows_from_the_sums_that_the_transform_declares(power, odd, dtype):
    """What compiled code reads in a way of its own is what a device sums by these functions."""
    (x,) = numbers((8192 + 33,), dtype)
    x = np.ldexp(x, power if dtype == np.float64 else power // 10)
    x[5] = odd
    sums = []
    for summand in sums_in(summing(wide=dtype == np.float64)).summands:
        terms = np.array([summand(element, 0.0, (), ()) for element in x.tolist()])
        sums.append(norm.tree_sum(np.array([norm.sum_of_block(t) for t in np.split(terms, [8192])])))
    np.testing.assert_equal(norm.norm_of(sums), fastopt.global_norm(x))
