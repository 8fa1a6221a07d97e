"""What the shared options mean for sparse gradients, in both modes."""

import copy
import pickle

import numpy as np
import pytest
import scipy.sparse

import fastopt
from tests.sparse_runs import Sizes, dense, pair, scipy_array
from tests.subprocesses import run, script
from tests.support import assert_same_bits, assert_same_run

SHAPE = (30, 4)

modes = pytest.mark.parametrize("mode", ["exact", "lazy"])
executors = pytest.mark.parametrize("executor", ["serial", "parallel", "reference"])


def gradients(steps, seed=1, dtype=np.float64, touched=12):
    rng = np.random.default_rng(seed)
    return [pair(rng, SHAPE, dtype, touched) for _ in range(steps)]


def start(dtype=np.float64):
    return np.random.default_rng(9).normal(size=SHAPE).astype(dtype)


# Looks at all gradients


@modes
@executors
def test_the_norm_is_that_of_the_sums(mode, executor):
    (rows, values), *_ = gradients(1)
    size = np.linalg.norm(dense((rows, values), SHAPE, float))
    for scale, limit in ((1.0, 1e9), (4.0, 1e9), (1.0, 0.5 * size)):
        w = np.zeros(SHAPE)
        opt = fastopt.SGD(w, lr=1.0, clip_norm=limit, sparse=mode, executor=executor)
        opt.step((rows, values), grad_scale=scale)
        assert np.isclose(opt.last.norm, size / scale, rtol=1e-14)
        assert np.isclose(np.linalg.norm(w), min(size / scale, limit), rtol=1e-14)


@executors
def test_the_norm_is_over_dense_and_sparse_ones(executor):
    table, bias, unused = np.zeros(SHAPE), np.zeros(3), np.zeros(2)
    opt = fastopt.SGD([table, bias, unused], lr=1.0, clip_norm=1.0, sparse="lazy", executor=executor)
    opt.step([(np.array([1, 1]), np.full((2, 4), 1.0)), np.full(3, 2.0), None])
    assert np.isclose(opt.last.norm, np.sqrt(4 * 4 + 3 * 4))
    assert np.isclose(np.hypot(np.linalg.norm(table), np.linalg.norm(bias)), 1.0)


@executors
@pytest.mark.parametrize("twice", [0, 3])
def test_the_norm_of_the_same_rows_has_the_same_bits_in_any_order(executor, twice):
    """Rows that come twice too: two numbers have the same sum in either order."""
    rng = np.random.default_rng(5)
    rows = np.append(np.arange(12), np.arange(twice))
    values = rng.normal(size=(rows.size, 4)) * 10.0 ** rng.integers(-3, 3, (rows.size, 1))
    norms = set()
    for _ in range(20):
        order = rng.permutation(rows.size)
        opt = fastopt.SGD(np.zeros(SHAPE), clip_norm=1.0, sparse="lazy", executor=executor)
        opt.step((rows[order], values[order]))
        norms.add(opt.last.norm)
    assert len(norms) == 1


@executors
def test_clipped_exact_steps_are_dense_ones(executor):
    exact = fastopt.RMSProp(start(), lr=0.1, clip_norm=1.0, sparse="exact", executor=executor)
    plain = fastopt.RMSProp(start(), lr=0.1, clip_norm=1.0)
    sizes = Sizes(plain)
    for gradient in gradients(9):
        exact.step(gradient)
        plain.step(dense(gradient, SHAPE, float))
        sizes.follow(plain)
        assert np.isclose(exact.last.norm, plain.last.norm, rtol=1e-14)
    sizes.check(exact, plain)


@modes
@executors
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_steps_that_are_not_finite_are_skipped(mode, executor, bad):
    one, other, third = gradients(3)
    settings = {"lr": 0.1, "skip_nonfinite": True, "sparse": mode, "executor": executor}
    opt, control = fastopt.RMSProp(start(), **settings), fastopt.RMSProp(start(), **settings)
    opt.step(one)
    control.step(one)
    other[1][3, 1] = bad
    opt.step(other)
    assert opt.last.skipped
    opt.step(third)
    control.step(third)
    assert_same_run(opt, control)


@modes
def test_nonfinite_numbers_stay_in_their_element(mode):
    w = np.zeros((4, 2))
    opt = fastopt.RMSProp(w, lr=0.1, sparse=mode)
    opt.step((np.array([0, 2]), np.array([[1.0, np.nan], [np.inf, 1.0]])))
    for _ in range(3):
        opt.step((np.array([0, 1, 2]), np.ones((3, 2))))
    assert np.isnan(opt.params).tolist() == [[False, True], [False, False], [True, False], [False] * 2]


# In the same pass


@modes
@executors
def test_zero_grad_clears_the_values(mode, executor):
    for gradient in (*gradients(1), scipy_array(np.random.default_rng(2), SHAPE, float, "csr")):
        w = np.zeros(SHAPE)
        opt = fastopt.SGD(w, lr=1.0, zero_grad=True, sparse=mode, executor=executor)
        previous = dense(gradient, SHAPE, float)
        opt.step(gradient)
        assert_same_bits(w, 0.0 - previous)
        assert not dense(gradient, SHAPE, float).any()


@pytest.mark.parametrize("kind", ["csr", "csc", "coo", "bsr", "dia"])
def test_zero_grad_keeps_what_is_stored_where(kind):
    gradient = scipy_array(np.random.default_rng(3), SHAPE, float, kind)
    stored = gradient.nnz
    fastopt.SGD(np.zeros(SHAPE), zero_grad=True, sparse="lazy").step(gradient)
    assert not gradient.data.any()
    assert gradient.data.size >= stored or kind == "dia"


@executors
def test_bounds_project_all_rows_once(executor):
    """Also those that were outside to begin with, when they catch up."""
    low = np.linspace(-1.0, 0.0, 120).reshape(SHAPE)
    settings = {"lr": 0.1, "bounds": (low, 0.7), "average_decay": 0.9}
    exact = fastopt.RMSProp(2 * start(), **settings, sparse="exact", executor=executor)
    plain = fastopt.RMSProp(2 * start(), **settings)
    sizes = Sizes(plain)
    for gradient in gradients(6, touched=3):
        exact.step(gradient)
        plain.step(dense(gradient, SHAPE, float))
        sizes.follow(plain)
    assert_same_bits(exact.params > 0.7, np.zeros(SHAPE, bool))
    sizes.check(exact, plain)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_a_copy_follows(momentum):
    w = start(np.float32)
    target = w.astype(np.float16)
    opt = fastopt.SGD(w, lr=0.1, momentum=momentum, copy_to=target, sparse="exact")
    for rows, values in gradients(5, dtype=np.float32, touched=3):
        opt.step((rows, values))
        assert_same_bits(target[rows], w[rows].astype(np.float16))
    opt.catch_up()
    assert_same_bits(target, w.astype(np.float16))


@modes
def test_parameters_of_the_same_structure(mode):
    """Averages, copies and states of the caller's own."""
    average, copies = [start(), np.ones(3)], [np.zeros(SHAPE), np.zeros(3)]
    params = [start(), np.ones(3)]
    opt = fastopt.SGD(
        params, lr=0.1, average_decay=0.5, copy_to=copies, state={"average": average}, sparse=mode
    )
    gradient = np.array([4, 2]), np.ones((2, 4))
    opt.step([gradient, np.ones(3)])
    assert_same_bits(copies[0][[2, 4]], params[0][[2, 4]])
    assert_same_bits(copies[1], params[1])
    expected = 0.5 * start()[4] + 0.5 * params[0][4]
    np.testing.assert_allclose(opt.state["average"][0][4], expected, rtol=1e-15)


# Saving


@modes
@pytest.mark.parametrize("way", ["file", "dict", "pickle", "copy"])
def test_a_resumed_run_gives_the_same_bits(mode, way, tmp_path):
    def make(w):
        return fastopt.RMSProp(w, lr=0.1, momentum=0.5, average_decay=0.9, sparse=mode)

    opt = make(start())
    for gradient in gradients(6, touched=3):
        opt.step(gradient)
    if way == "file":
        opt.save(tmp_path / "all.npz", params=True)
        other = make(start())
        other.step(gradients(1)[0])  # behind, which loading makes up for
        other.load(tmp_path / "all.npz")
    elif way == "dict":
        other = make(opt.params.copy())
        other.step(gradients(1)[0])
        other.params[...] = opt.params
        other.load_state_dict(opt.state_dict())
    else:
        other = pickle.loads(pickle.dumps(opt)) if way == "pickle" else copy.deepcopy(opt)
        assert other.sparse == mode
    assert_same_run(opt, other)
    for gradient in gradients(6, seed=2, touched=3):
        opt.step(gradient)
        other.step(gradient)
    assert_same_run(opt, other)


def test_a_checkpoint_of_an_exact_run_is_one_of_a_dense_run():
    exact = fastopt.RMSProp(start(), lr=0.1, sparse="exact")
    for gradient in gradients(4, touched=3):
        exact.step(gradient)
    plain = fastopt.RMSProp(exact.params.copy(), lr=0.1)
    plain.load_state_dict(exact.state_dict())
    assert_same_run(exact, plain)


# Functions


@modes
def test_one_step_functions(mode):
    (gradient,) = gradients(1, touched=3)
    w, average = start(), np.full(SHAPE, 2.0)
    opt = fastopt.RMSProp(start(), lr=0.1, sparse=mode, state={"square_avg": average.copy()})
    fastopt.rmsprop_step(w, gradient, square_avg=average, lr=0.1, sparse=mode)
    opt.step(gradient)
    assert_same_bits(w, opt.params)
    assert_same_bits(average, opt.state["square_avg"])
    others = np.setdiff1d(np.arange(30), gradient[0])
    assert (average[others] == (2.0 if mode == "lazy" else 2.0 * 0.9)).all()


def test_it_shows():
    assert "sparse='lazy'" in repr(fastopt.SGD(np.zeros(3), sparse="lazy"))
    assert "sparse" not in repr(fastopt.SGD(np.zeros(3)))
    assert fastopt.SGD(np.zeros(3), sparse="exact").sparse == "exact"


def test_scipy_is_not_imported(tmp_path):
    code = """
    import sys
    import numpy as np
    import fastopt
    w = np.zeros((4, 2))
    opt = fastopt.RMSProp(w, sparse="exact")
    for rows in ([1, 1], [2, 3]):
        opt.step((np.array(rows), np.ones((2, 2))))
    assert opt.state["square_avg"].any()
    print("scipy.sparse" in sys.modules)
    """
    assert run(script(code), tmp_path, NUMBA_DISABLE_JIT="1") == "False"


def test_large_and_small_steps_agree():
    """Enough rows for all cores, and for the rows ahead to be fetched."""
    rng = np.random.default_rng(6)
    w = rng.normal(size=(5000, 16)).astype(np.float32)
    rows = rng.permutation(5000)[:4000]
    values = rng.normal(size=(4000, 16)).astype(np.float32)
    matrix = scipy.sparse.csr_array(dense((rows, values), w.shape, np.float32))
    results = []
    for executor, gradient in (("auto", (rows, values)), ("serial", matrix), ("parallel", matrix)):
        opt = fastopt.RMSProp(w.copy(), lr=0.1, executor=executor, sparse="lazy")
        opt.step(gradient)
        results.append(opt)
    assert_same_run(results[0], results[1])
    assert_same_run(results[0], results[2])
