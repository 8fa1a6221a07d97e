"""Bad arguments of the functions beside the optimizers, and what these do with good ones."""

import numpy as np
import pytest

import fastopt
from tests.refusals import N, gradient, params, refusal
from tests.support import assert_same_bits


class OneShot:
    """The arrays of one `rmsprop_step`."""

    def __init__(self):
        self.param, self.grad = params(), gradient()
        self.square_avg, self.grad_avg, self.momentum_buffer = np.zeros((3, N), np.float32)

    def step(self, *, states=(), **settings):
        extra = {name: getattr(self, name) for name in states}
        fastopt.rmsprop_step(self.param, self.grad, square_avg=self.square_avg, **extra, **settings)

    def assert_untouched(self):
        assert self.param.tobytes() == params().tobytes()
        assert not self.square_avg.any()
        assert not self.grad_avg.any()
        assert not self.momentum_buffer.any()


ALL = {"lr": 0.1, "centered": True, "momentum": 0.5}


@pytest.mark.parametrize(
    ("settings", "states"),
    [
        ({"momentum": 0.5}, []),
        ({"centered": True}, []),
        (ALL, ["grad_avg"]),
        (ALL, ["momentum_buffer"]),
    ],
)
def test_one_shot_without_a_state(settings, states):
    one = OneShot()
    missing = "grad_avg" if "centered" in settings and "grad_avg" not in states else "momentum_buffer"
    with refusal(ValueError, ["need", "state", missing]):
        one.step(states=states, **settings)
    one.assert_untouched()


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"lr": -1.0}, ValueError, ["lr", ">= 0", "-1.0"]),
        ({"alpha": 0.9}, TypeError, ["alpha", "beta"]),
        ({"step": -1}, ValueError, ["step", ">= 0", "-1"]),
        ({"step": 1.0}, TypeError, ["step", "whole number", "1.0"]),
        ({"step": True}, TypeError, ["step", "whole number", "True"]),
        ({"grad_scale": 0.0}, ValueError, ["grad_scale", "> 0", "0.0"]),
        ({"states": ["grad_avg"]}, ValueError, ["grad_avg", "square_avg"]),
    ],
)
def test_one_shot_with_bad_settings(settings, error, words):
    one = OneShot()
    with refusal(error, words):
        one.step(**settings)
    one.assert_untouched()


def test_one_shot_with_bad_arrays():
    one = OneShot()
    one.grad = one.grad.tolist()
    with refusal(TypeError, ["grads", "NumPy array", "list"]):
        one.step()
    one.assert_untouched()
    one = OneShot()
    square_avg, one.square_avg = one.square_avg, one.square_avg[1:]
    with refusal(ValueError, ["square_avg", "shape", f"({N},)", f"({N - 1},)"]):
        one.step()
    one.square_avg = square_avg
    one.assert_untouched()


def test_one_shot_steps_equal_an_optimizer():
    w = params()
    settings = ALL | {"lr": lambda step: 0.1 / (1 + step), "bias_correction": True}
    opt = fastopt.RMSProp(w, **settings)
    one = OneShot()
    for step in range(3):
        opt.step(gradient(), grad_scale=2.0)
        one.step(states=["grad_avg", "momentum_buffer"], step=step, grad_scale=2.0, **settings)
    assert_same_bits(one.param, w)
    for name, state in opt.state.items():
        assert_same_bits(getattr(one, name), state, name)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ([np.ones(3), np.ones(3, np.float32)], ["arrays", "one dtype", "float32, float64"]),
        ([np.ones(3), np.ones(3, int)], ["arrays[1]", "float32 or float64", "int64"]),
        ({"a": [np.ones(3), 1.0]}, ["arrays['a'][1]", "float32 or float64", "float"]),
        (None, ["arrays", "float32 or float64", "NoneType"]),
    ],
)
def test_bad_arrays_to_flatten(arrays, words):
    with refusal(TypeError, words):
        fastopt.flatten(arrays)


def test_flatten():
    arrays = {"a": np.ones((2, 3)), "b": (np.zeros(2), np.array(7.0)), "c": np.ones(0)}
    flat, views = fastopt.flatten(arrays)
    assert flat.tolist() == [1.0] * 6 + [0.0, 0.0, 7.0]
    assert views["a"].shape == (2, 3)
    assert views["b"][1].shape == ()
    assert isinstance(views["b"], tuple)
    flat += 1.0
    assert views["a"].tolist() == [[2.0] * 3] * 2
    views["b"][1][...] = 5.0
    assert flat[-1] == 5.0
    assert arrays["b"][1] == 7.0


def test_flatten_nothing():
    flat, views = fastopt.flatten([])
    assert flat.shape == (0,)
    assert views == []


@pytest.mark.parametrize(
    ("n", "dtype", "error", "words"),
    [
        (-1, "f4", ValueError, ["n", "negative", "-1"]),
        ((3, -1), "f4", ValueError, ["n", "negative", "(3, -1)"]),
        (1.5, "f4", TypeError, ["n", "length or a shape", "1.5"]),
        ([3], "f4", TypeError, ["n", "length or a shape", "[3]"]),
        ((3.0,), "f4", TypeError, ["n", "length or a shape", "(3.0,)"]),
        (3, "i4", TypeError, ["dtype", "float32 or float64", "int32"]),
        (3, ">f4", TypeError, ["dtype", "float32 or float64", ">f4"]),
    ],
)
def test_bad_arguments_of_empty(n, dtype, error, words):
    with refusal(error, words):
        fastopt.empty(n, dtype)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("shape", [0, 1, 17, (), (3, 5), (0, 2), 2**21])
def test_empty(shape, dtype):
    """The longest is large enough to be touched by all threads."""
    array = fastopt.empty(shape, dtype)
    assert array.shape == (shape if isinstance(shape, tuple) else (shape,))
    assert array.dtype == dtype
    assert array.flags.c_contiguous
    assert array.flags.writeable
    assert array.size == 0 or array.ctypes.data % 64 == 0
    array[...] = 1.0


def test_empty_on_one_thread():
    """Nobody to share the pages with: the system maps them when they are used."""
    with fastopt.threads(1):
        assert fastopt.empty(2**21).shape == (2**21,)


@pytest.mark.parametrize("n", [0, -1, 10**6])
def test_threads_out_of_range(n):
    most = fastopt.get_num_threads()
    for use in (fastopt.set_num_threads, lambda n: fastopt.threads(n).__enter__()):
        with refusal(ValueError, ["n must be", f"between 1 and {most}", "NUMBA_NUM_THREADS", str(n)]):
            use(n)
    assert fastopt.get_num_threads() == most


@pytest.mark.parametrize("n", [1.0, "2", None, True])
def test_threads_of_the_wrong_kind(n):
    most = fastopt.get_num_threads()
    for use in (fastopt.set_num_threads, lambda n: fastopt.threads(n).__enter__()):
        with refusal(TypeError, ["n must be", "whole number", repr(n)]):
            use(n)
    assert fastopt.get_num_threads() == most
