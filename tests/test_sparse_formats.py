"""Sparse gradients of parameters in 16 bits, in other formats than the parameters, and 8-bit states."""

import ml_dtypes
import numpy as np
import pytest

import fastopt
from tests.refusals import refusal
from tests.sparse_runs import dense, pair, scipy_array
from tests.support import assert_same_bits, assert_same_run

SHAPE = (40, 3)
HALVES = [np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)]

every_half = pytest.mark.parametrize("half", HALVES, ids=str)
executors = pytest.mark.parametrize("executor", ["serial", "parallel", "reference"])


def start(dtype):
    return np.random.default_rng(1).normal(size=SHAPE).astype(dtype)


def once(rng, dtype, touched):
    rows = np.sort(rng.permutation(SHAPE[0])[:touched])
    return rows, rng.normal(size=(touched, *SHAPE[1:])).astype(dtype)


@every_half
@executors
def test_parameters_of_16_bits(half, executor):
    """Where nothing decays, exact steps are dense ones to the last bit."""
    rng = np.random.default_rng(2)
    exact = fastopt.AdaGrad(start(half), lr=0.1, sparse="exact", executor=executor)
    plain = fastopt.AdaGrad(start(half), lr=0.1)
    for dtype in (half, np.float32, half):
        gradient = once(rng, dtype, 9)
        exact.step(gradient)
        plain.step(dense(gradient, SHAPE, dtype))
    assert_same_run(exact, plain)


@every_half
def test_states_of_16_bits_catch_up(half):
    rng = np.random.default_rng(3)
    settings = {"lr": 0.1, "beta": 0.5, "state_dtype": half}
    exact = fastopt.RMSProp(start(np.float32), **settings, sparse="exact")
    plain = fastopt.RMSProp(start(np.float32), **settings)
    for _ in range(8):
        gradient = once(rng, np.float32, 9)
        exact.step(gradient)
        plain.step(dense(gradient, SHAPE, np.float32))
    # Half of a number is exact, until it is too small for float16.
    np.testing.assert_allclose(exact.params, plain.params, rtol=1e-2)
    one, other = (opt.state["square_avg"].astype(float) for opt in (exact, plain))
    np.testing.assert_allclose(one, other, rtol=0.05, atol=1e-6)
    assert exact.state["square_avg"].dtype == half


@every_half
@executors
def test_duplicates_are_summed_in_32_bits(half, executor):
    w = np.zeros((4, 1), np.float32)
    values = np.array([[2048.0], [1.0], [1.0], [0.5]], half)
    fastopt.SGD(w, lr=1.0, sparse="lazy", executor=executor).step((np.array([2, 2, 2, 0]), values))
    assert w.ravel().tolist() == [-0.5, 0, -2050, 0]  # 2048 in float16 or bfloat16


@every_half
def test_scipy_arrays_are_of_32_bits(half):
    gradient = scipy_array(np.random.default_rng(4), SHAPE, np.float32, "csr")
    w = np.zeros(SHAPE, half)
    fastopt.SGD(w, lr=1.0, sparse="lazy").step(gradient)
    assert_same_bits(w, (0.0 - gradient.toarray()).astype(half))
    with refusal(TypeError, ["grads", "float32", str(half), "float64"]):
        fastopt.SGD(w, sparse="lazy").step(gradient.astype(float))


@every_half
@pytest.mark.parametrize("mode", ["exact", "lazy"])
def test_options_look_at_16_bits(half, mode):
    gradient = once(np.random.default_rng(5), half, 9)
    size = np.linalg.norm(gradient[1].astype(float))
    w = np.zeros(SHAPE, np.float32)
    opt = fastopt.SGD(w, lr=1.0, clip_norm=0.5, zero_grad=True, sparse=mode)
    opt.step(gradient)
    assert np.isclose(opt.last.norm, size)
    assert np.isclose(np.linalg.norm(w), 0.5)
    assert not gradient[1].any()


@executors
def test_stochastic_rounding_does_not_depend_on_the_executor(executor):
    half = np.dtype(np.float16)
    settings = {"lr": 0.1, "momentum": 0.5, "stochastic_rounding": True, "seed": 7, "sparse": "lazy"}
    one = fastopt.RMSProp(start(half), **settings, executor=executor)
    control = fastopt.RMSProp(start(half), **settings, executor="serial")
    for opt in (one, control):
        rng = np.random.default_rng(6)
        for _ in range(5):
            opt.step(once(rng, half, 9))
    assert_same_run(one, control)


def test_exact_steps_have_no_stochastic_rounding():
    with refusal(ValueError, ["sparse='exact'", "stochastic_rounding", "sparse='lazy'"]):
        fastopt.SGD(np.zeros(SHAPE, np.float16), stochastic_rounding=True, sparse="exact")


@pytest.mark.parametrize("mode", ["exact", "lazy"])
def test_states_of_8_bits_are_refused(mode):
    w = np.zeros((5000, 2), np.float32)
    with refusal(ValueError, ["sparse", "8 bits", "params", "blocks"]):
        fastopt.RMSProp(w, state_dtype="8bit", sparse=mode)
    params = [w, np.zeros((10, 2), np.float32)]  # a small one has states of 32 bits
    opt = fastopt.RMSProp(params, state_dtype="8bit", sparse=mode)
    gradient = pair(np.random.default_rng(9), (10, 2), np.float32, 3)
    opt.step([np.ones_like(w), gradient])
    with refusal(ValueError, ["sparse", "8 bits", "params[0]", "blocks"]):
        opt.step([gradient, gradient])
    assert opt.step_count == 1


def test_a_state_is_decoded_after_it_caught_up():
    half = np.dtype(np.float16)
    opt = fastopt.RMSProp(np.zeros((3, 1), half), beta=0.5, sparse="exact")
    opt.step((np.array([0]), np.array([[4.0]], half)))
    opt.step((np.array([1]), np.array([[4.0]], half)))
    assert opt.decoded("square_avg").ravel().tolist() == [4.0, 8.0, 0.0]
