"""Exact sparse steps: what zeros in the other rows would give, whatever comes between."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastopt
from fastopt.steps.stepper import stepper_of
from tests.sparse_runs import CLOSED, FORMATS, SAME_BITS, Sizes, dense, pair, scipy_array
from tests.support import (
    COMPILED,
    DTYPES,
    EXECUTORS,
    assert_same_bits,
    assert_same_run,
    compiled_suite_only,
)

every_closed = pytest.mark.parametrize("name", CLOSED)

# Each is a kernel: interpreted, all in both dtypes; compiled, by turns in one of them.
DTYPES_OF = {name: DTYPES[i % 2 :: 2] if COMPILED else DTYPES for i, name in enumerate(CLOSED)}
both_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)


def twins(name, w, **means):
    """The same optimizer on two copies: for sparse gradients, and for dense ones."""
    kind, settings = CLOSED[name]
    return kind(w.copy(), **settings, sparse="exact", **means), kind(w.copy(), **settings)


@st.composite
def stories(draw):
    """What happens in a run: gradients of all kinds, reading, and numbers that change."""
    shape = draw(st.sampled_from([(1, 1), (2, 3), (7, 1), (9, 4), (16, 2), (5, 2, 3), (6,)]))
    touched = st.integers(0, 2 * shape[0])
    kinds = ["pair"] * 4 + ["dense", "read", "catch up", "lr"]
    steps = draw(st.lists(st.tuples(st.sampled_from(kinds), touched), max_size=20))
    return shape, draw(st.integers(0, 1)), steps, draw(st.integers(0, 999))


@every_closed
@settings(derandomize=True, deadline=None, max_examples=25 if COMPILED else 12)
@given(story=stories())
def test_any_interleaving(name, story):
    """Plain Python's steps of rows are those of the interpreted suite."""
    shape, turn, steps, seed = story
    dtype = DTYPES_OF[name][turn % len(DTYPES_OF[name])]
    rng = np.random.default_rng(seed)
    exact, plain = twins(name, rng.normal(size=shape).astype(dtype), executor="serial")
    sizes = Sizes(plain)
    for kind, touched in steps:
        gradient = pair(rng, shape, dtype, touched)
        if kind == "read":
            sizes.check(exact, plain)
        elif kind == "catch up":
            exact.catch_up(gradient[0])
        elif kind == "lr" and not callable(plain.lr):
            exact.lr = plain.lr = 0.5 * plain.lr
        else:
            whole = dense(gradient, shape, dtype)
            exact.step(whole if kind == "dense" else gradient)
            plain.step(whole)
            sizes.follow(plain)
    sizes.check(exact, plain)
    if name in SAME_BITS:
        assert_same_run(exact, plain)


@compiled_suite_only
@pytest.mark.parametrize(
    ("name", "dtype"), [(name, dtype) for name, dtypes in DTYPES_OF.items() for dtype in dtypes]
)
def test_a_long_time(name, dtype, monkeypatch):
    """More steps than are remembered, with rows that are never touched and rows that always are."""
    monkeypatch.setattr("fastopt.steps.sparse.lagging_rows.REMEMBERED", 64)
    steps, shape = 300, (9, 2)
    rng = np.random.default_rng(1)
    exact, plain = twins(name, rng.normal(size=shape).astype(dtype), executor="serial")
    sizes = Sizes(plain)
    for step in range(steps):
        rows, values = pair(rng, shape, dtype, 2)
        rows = np.array([0, 1 + step % 7 if step % 5 == 0 else 0])
        exact.step((rows, values))
        plain.step(dense((rows, values), shape, dtype))
        sizes.follow(plain)
    sizes.check(exact, plain)


@pytest.mark.parametrize("name", ["rmsprop", "everything"])
def test_gradients_are_unscaled(name):
    rng = np.random.default_rng(7)
    exact, plain = twins(name, rng.normal(size=(9, 2)))
    sizes = Sizes(plain)
    for scale in (1.0, 1024.0, 3.0, 3.0):
        gradient = pair(rng, (9, 2), np.float64, 4)
        exact.step(gradient, grad_scale=scale)
        plain.step(dense(gradient, (9, 2), np.float64), grad_scale=scale)
        sizes.follow(plain)
    sizes.check(exact, plain)


@both_dtypes
def test_the_budget_of_a_decay(dtype):
    """An average of squares: one rounding for each step in the dense run, few in the other."""
    rng = np.random.default_rng(2)
    exact, plain = twins("rmsprop", np.ones((50, 3), dtype))
    first = pair(rng, (50, 3), dtype, 200)
    for steps in range(40):
        gradient = first if not steps else pair(rng, (50, 3), dtype, 1)
        exact.step(gradient)
        plain.step(dense(gradient, (50, 3), dtype))
    off = abs(exact.state["square_avg"] - plain.state["square_avg"])
    assert (off <= 42 * np.spacing(plain.state["square_avg"])).all()


def test_products_of_the_rates_of_all_steps():
    """Two steps without a gradient, at rates of their own, multiply the average by both."""
    opt = fastopt.RMSProp(np.zeros((3, 1)), beta=0.5, sparse="exact")
    gradient = np.array([0]), np.array([[4.0]])
    opt.step(gradient)
    row = np.array([2]), np.array([[0.0]])
    for beta in (0.75, 0.25):
        opt.beta = beta
        opt.step(row)
    assert opt.state["square_avg"][0, 0] == 8.0 * 0.75 * 0.25


@pytest.mark.parametrize("kind", FORMATS)
@both_dtypes
def test_scipy_arrays(kind, dtype):
    rng = np.random.default_rng(3)
    for shape in ((1, 1), (23, 4), (40, 1), (4, 6)):
        exact, plain = twins("everything", rng.normal(size=shape).astype(dtype))
        sizes = Sizes(plain)
        for _ in range(6):
            gradient = scipy_array(rng, shape, dtype, kind)
            exact.step(gradient)
            plain.step(dense(gradient, shape, dtype))
            sizes.follow(plain)
        sizes.check(exact, plain)


@both_dtypes
@pytest.mark.parametrize("executor", EXECUTORS)
def test_executors_and_threads_give_the_same_bits(dtype, executor):
    rng = np.random.default_rng(4)
    shape = (70, 5)
    w = rng.normal(size=shape).astype(dtype)
    one, control = twins("everything", w, executor=executor)[0], twins("everything", w)[0]
    for touched in (60, 0, 3, 100, 20):
        gradient = pair(rng, shape, dtype, touched)
        with fastopt.threads(3):
            one.step(gradient)
        control.step(gradient)
    assert_same_run(one, control)


def test_only_touched_rows_are_written():
    w = np.ones((100, 3))
    opt = fastopt.RMSProp(w, lr=0.1, sparse="exact")
    average = opt.state["square_avg"]
    average.fill(1.0)
    for row in (3, 4, 3):
        opt.step((np.array([row]), np.ones((1, 3))))
    others = np.setdiff1d(np.arange(100), [3, 4])
    assert (w[others] == 1).all()
    assert (average[others] == 1).all()  # an array that was kept does not catch up by itself
    assert np.isclose(opt.state["square_avg"][others], 0.9**3).all()
    assert opt.state["square_avg"] is average


def test_parameters_that_move_catch_up_where_asked():
    w = np.zeros((6, 2))
    opt = fastopt.SGD(w, lr=1.0, momentum=0.5, sparse="exact")
    for row in (0, 1, 2):
        opt.step((np.array([row]), np.ones((1, 2))))
    assert w[:3, 0].tolist() == [-1, -1, -1]
    opt.catch_up(np.array([1, 5]))
    assert w[:3, 0].tolist() == [-1, -1.5, -1]
    assert opt.params[:3, 0].tolist() == [-1.75, -1.5, -1]


def test_parameters_that_stay_are_not_read_through():
    opt = fastopt.RMSProp(np.zeros((4, 1)), sparse="exact")
    opt.step((np.array([0]), np.ones((1, 1))))
    assert stepper_of(opt)().row_steps.lagging
    assert not stepper_of(opt)().row_steps.params_behind


# Structures


def test_dense_sparse_and_none_side_by_side():
    rng = np.random.default_rng(5)
    shapes = {"table": (30, 3), "bias": (5,), "other": (8, 2)}
    start = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    both = []
    for sparse in ("exact", None):
        params = {name: w.copy() for name, w in start.items()}
        both.append(fastopt.RMSProp(params, lr=lambda t: 0.1 / (1 + t), momentum=0.5, sparse=sparse))
    exact, plain = both
    for step in range(12):
        grads = {name: pair(rng, shapes[name], np.float64, 4) for name in ("table", "other")}
        grads["bias"] = rng.normal(size=5)
        whole = {**grads, **{n: dense(grads[n], shapes[n], np.float64) for n in ("table", "other")}}
        if step % 3 == 1:
            grads["other"] = whole["other"] = None
        if step % 4 == 2:
            grads["table"] = whole["table"]
        if step % 5 == 3:
            grads["bias"] = whole["bias"] = None
        exact.step(grads)
        plain.step(whole)
    for name in shapes:
        np.testing.assert_allclose(exact.params[name], plain.params[name], rtol=1e-12, atol=1e-14)
        for state in plain.state:
            one, other = exact.state[state][name], plain.state[state][name]
            np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-14)
    assert_same_bits(exact.params["bias"], plain.params["bias"])
    assert exact.state_dict()["lags"] == plain.state_dict()["lags"]


def test_groups_with_and_without_a_closed_form():
    table, dense_w = np.zeros((5, 2)), np.ones(3)
    groups = [{"params": table}, {"params": dense_w, "weight_decay": 0.1}]
    opt = fastopt.RMSProp(groups, lr=0.1, sparse="exact")
    opt.step([(np.array([2]), np.ones((1, 2))), np.ones(3)])
    assert table[2, 0] < 0
    previous = dense_w.copy()
    with pytest.raises(ValueError, match=r"scale_by_rms: .*weight decay"):
        opt.step([(np.array([1]), np.ones((1, 2))), (np.array([1]), np.ones(1))])
    assert_same_bits(dense_w, previous)
    assert opt.step_count == 1
    assert not table[1].any()


@pytest.mark.parametrize("shape", [(0, 3), (4, 0), (3, 1, 0)])
def test_nothing_to_step(shape):
    opt = fastopt.RMSProp(np.zeros(shape), sparse="exact")
    opt.step((np.zeros(0, np.int64), np.zeros((0, *shape[1:]))))
    opt.step((np.arange(min(shape[0], 2)), np.zeros((min(shape[0], 2), *shape[1:]))))
    assert opt.step_count == 2
    assert opt.state["square_avg"].shape == shape


@pytest.mark.parametrize("kind", [np.int8, np.uint16, np.int32, np.uint64])
def test_rows_of_any_integer_type(kind):
    w = np.zeros((50, 1))
    rows = np.array([40, 3, 40, 7], kind)[::-1]
    fastopt.SGD(w, lr=1.0, sparse="exact").step((rows, np.array([[1.0], [2.0], [4.0], [8.0]])))
    assert (w[3], w[7], w[40]) == (-4, -1, -10)


def test_the_parameters_of_a_group_catch_up():
    w = np.ones((6, 2))
    opt = fastopt.SGD([{"params": w, "lr": 0.5}], momentum=0.5, sparse="exact")
    for row in range(3):
        opt.step([(np.array([row]), np.ones((1, 2)))])
    assert opt.groups[0].params is w
    assert w[0].tolist() == [0.125, 0.125]
