"""Sparse gradients at the edges: arrays that do not hold together, and sums that never are zero."""

import numpy as np
import pytest
from scipy.sparse import bsr_array, coo_array, csc_array, csr_array

import fastopt
from fastopt import transforms as t
from tests.refusals import refusal
from tests.support import assert_same_bits

SHAPE = (6, 2)


def dense():
    values = np.zeros(SHAPE)
    values[[0, 1, 4]] = np.arange(1.0, 7.0).reshape(3, 2)
    return values


def changed(array, at, value):
    array = array.copy()
    array[at] = value
    return array


# What is wrong: which array, and what it becomes.
BROKEN = {
    "short": ("indptr", lambda a: a[:-1]),
    "shorter": ("indptr", lambda a: a[:2]),
    "one": ("indptr", lambda a: a[:1]),
    "none": ("indptr", lambda a: a[:0]),
    "long": ("indptr", lambda a: np.append(a, a[-1])),
    "late": ("indptr", lambda a: a + 1),
    "beyond": ("indptr", lambda a: changed(a, -1, 10**6)),
    "falls": ("indptr", lambda a: changed(a, 1, 10**6)),
    "negative": ("indptr", lambda a: changed(a, 1, -5)),
    "backwards": ("indptr", lambda a: a[::-1].copy()),
    "floats": ("indptr", lambda a: a.astype(float)),
    "matrix": ("indptr", lambda a: a[None]),
    "few_indices": ("indices", lambda a: a[:-1]),
    "negative_index": ("indices", lambda a: changed(a, 0, -1)),
    "index_beyond": ("indices", lambda a: changed(a, -1, 10**6)),
    "float_indices": ("indices", lambda a: a.astype(float)),
    "few_numbers": ("data", lambda a: a[:-1]),
    "no_numbers": ("data", lambda a: a[:0]),
    "more_dimensions": ("data", lambda a: a[None]),
}


@pytest.mark.parametrize("mode", ["lazy", "exact"])
@pytest.mark.parametrize("kind", [csr_array, csc_array, bsr_array])
@pytest.mark.parametrize(("name", "change"), BROKEN.values(), ids=BROKEN)
def test_sparse_arrays_whose_parts_disagree(kind, name, change, mode):
    array = kind(dense())
    setattr(array, name, change(getattr(array, name)))
    w = np.ones(SHAPE)
    opt = fastopt.SGD(w, lr=1.0, sparse=mode)
    # The second is in the words of SciPy, whose versions differ.
    with pytest.raises(ValueError, match=r"no valid|index"):
        opt.step(array)
    assert opt.step_count == 0
    assert (w == 1.0).all()


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("index", [-1, 6])
def test_coordinates_beyond_the_shape(axis, index):
    array = coo_array(dense())
    (array.row, array.col)[axis][1] = index
    opt = fastopt.SGD(np.ones(SHAPE), lr=1.0, sparse="lazy")
    with refusal(ValueError, ["grads", "rows" if axis == 0 else "columns"]):
        opt.step(array)


def test_fewer_numbers_than_coordinates():
    array = coo_array(dense())
    array.data = array.data[:-1]
    opt = fastopt.SGD(np.ones(SHAPE), lr=1.0, sparse="lazy")
    with refusal(ValueError, ["grads", "no valid sparse array"]):
        opt.step(array)


@pytest.mark.parametrize("kind", [csr_array, csc_array])
def test_what_scipy_allows(kind):
    """Indices in any order, and memory that is not used behind the last."""
    array = kind(dense())
    array.indices = array.indices.copy()
    for first, last in zip(array.indptr[:-1], array.indptr[1:], strict=True):
        array.indices[first:last] = array.indices[first:last][::-1].copy()
        array.data[first:last] = array.data[first:last][::-1].copy()
    array.indices = np.append(array.indices, [77, -3]).astype(array.indptr.dtype)
    array.data = np.append(array.data, [5.0, 5.0])
    w = np.ones(SHAPE)
    fastopt.SGD(w, lr=1.0, sparse="lazy").step(array)
    assert_same_bits(w, 1.0 - dense())


# A sum that starts above zero never is zero, whatever eps is.


@pytest.mark.parametrize("clips", [{}, {"clip_norm": 0.5}])
@pytest.mark.parametrize(
    "make",
    [
        lambda w, **how: fastopt.AdaGrad.like("tensorflow1", w, learning_rate=0.1, **how),
        lambda w, **how: fastopt.AdaGrad(w, lr=0.1, eps=0.0, initial_accumulator=1e-3, **how),
        lambda w, **how: fastopt.AdaGrad(w, lr=0.1, eps=0.0, guard_zero=True, **how),
        lambda w, **how: fastopt.AdaGrad.like(
            "optax", w, learning_rate=0.1, eps=0.0, initial_accumulator_value=0.0, **how
        ),
    ],
)
def test_exact_without_eps(make, clips):
    rng = np.random.default_rng(6)
    exact, whole = np.ones((2, *SHAPE))
    opt, same = make(exact, sparse="exact", **clips), make(whole, **clips)
    for _ in range(5):
        rows = np.sort(rng.choice(5, 2, replace=False))  # the last one is never touched
        g = np.zeros(SHAPE)
        g[rows] = rng.normal(size=(2, 2))
        opt.step((rows, g[rows].copy()))
        same.step(g)
    opt.catch_up()
    if not clips:
        assert_same_bits(exact, whole)
    np.testing.assert_allclose(exact, whole, rtol=1e-13)
    assert np.isfinite(exact).all()


def test_exact_is_refused_where_the_sum_may_be_zero():
    for more in ({}, {"initial_accumulator": 0.0}):
        with refusal(ValueError, ["sparse='exact'", "eps=0"]):
            fastopt.AdaGrad(np.ones(SHAPE), eps=0.0, sparse="exact", **more)
    with refusal(ValueError, ["sparse='exact'", "eps=0"]):  # an average falls
        fastopt.RMSProp(np.ones(SHAPE), eps=0.0, initial_accumulator=1.0, sparse="exact")
    chain = t.chain(t.scale_by_rss(0.0, initial_accumulator=0.5), t.scale_by_learning_rate(0.1))
    fastopt.Optimizer(np.ones(SHAPE), chain, sparse="exact")
