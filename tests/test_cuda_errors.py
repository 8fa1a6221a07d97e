"""What is refused on a device: before anything is written, and with words that help."""

import contextlib

import numpy as np
import pytest

import fastopt
from tests.device import (
    assert_same_on_device,
    needs_driver,
    skip_without_device,
    to_device,
    to_host,
)
from tests.support import problem

skip_without_device()

N = 12


class Described:
    """An array with an interface of its own making."""

    def __init__(self, array, **changes):
        self.array = array
        self.__cuda_array_interface__ = {**array.__cuda_array_interface__, **changes}


@contextlib.contextmanager
def unharmed(**settings):
    """An optimizer that an error leaves as it is."""
    w, (g, *_) = problem(N, np.float32)
    opt, same = fastopt.RMSProp(to_device(w), **settings), fastopt.RMSProp(w, **settings)
    yield opt
    assert opt.step_count == 0
    opt.step(to_device(g))
    same.step(g)
    assert_same_on_device(opt, w, same.state)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: np.ones(N, np.float32), ValueError, ["on CUDA device 0", "in memory"]),
        (lambda: to_device(np.ones(N)), TypeError, ["float32", "float64"]),
        (lambda: to_device(np.ones(N - 1, np.float32)), ValueError, ["(12,)", "(11,)"]),
        (lambda: to_device(np.ones((2, 6), np.float32)), ValueError, ["(12,)", "(2, 6)"]),
        (lambda: None, TypeError, ["NoneType"]),
        (lambda: [1.0] * N, TypeError, ["list"]),
    ],
)
def test_gradient(make, error, words):
    with unharmed() as opt, pytest.raises(error) as caught:
        opt.step(make())
    assert all(word in str(caught.value) for word in ["grads", *words]), caught.value


@needs_driver
def test_gradient_of_the_wrong_form():
    matrix = to_device(np.ones((N, 2), np.float32))
    with unharmed() as opt:
        with pytest.raises(ValueError, match="grads must be C-contiguous"):
            opt.step(matrix[:, 0])
        with pytest.raises(TypeError, match="grads must not have a mask"):
            opt.step(Described(to_device(np.ones(N, np.float32)), mask=matrix))
        with pytest.raises(ValueError, match="grads must be in native byte order"):
            opt.step(Described(to_device(np.ones(N, np.float32)), typestr=">f4"))
        odd = to_device(np.ones(4 * N + 1, np.int8))
        address = odd.__cuda_array_interface__["data"][0] + 1
        with pytest.raises(ValueError, match="grads must be aligned"):
            opt.step(Described(odd, typestr="<f4", shape=(N,), data=(address, False)))
        with pytest.raises(ValueError, match="is not of a CUDA device"):
            opt.step(Described(odd, typestr="<f4", shape=(N,), data=(4096, False)))
    on_device = to_device(np.ones(N, np.float32))
    read_only = Described(on_device, data=(on_device.__cuda_array_interface__["data"][0], True))
    with unharmed(zero_grad=True) as opt, pytest.raises(ValueError, match="grads must be writeable"):
        opt.step(read_only)


@needs_driver
def test_a_read_only_gradient_is_fine():
    on_device = to_device(np.ones(N, np.float32))
    address = on_device.__cuda_array_interface__["data"][0]
    opt = fastopt.SGD(to_device(np.ones(N, np.float32)), lr=0.5)
    opt.step(Described(on_device, data=(address, True)))
    assert to_host(opt.params).tolist() == [0.5] * N


def test_gradient_that_shares_memory():
    buffer = to_device(np.ones(3 * N, np.float32))
    opt = fastopt.RMSProp(buffer[:N])
    with pytest.raises(ValueError, match="grads must not share memory with params"):
        opt.step(buffer[N - 4 : 2 * N - 4])
    with pytest.raises(ValueError, match=r"grads must not share memory with state\['square_avg'\]"):
        opt.step(opt.state["square_avg"])
    assert to_host(buffer).tolist() == [1.0] * (3 * N)
    opt.step(buffer[N : 2 * N])
    several = fastopt.SGD([buffer[:N], buffer[N : 2 * N]], zero_grad=True)
    grads = to_device(np.ones(N + 4, np.float32))
    with pytest.raises(ValueError, match="must not share memory"):
        several.step([grads[:N], grads[4:]])


def test_params():
    on_device = to_device(np.ones(N, np.float32))
    with pytest.raises(ValueError, match=r"params\[1\] must be where params\[0\] is: it is in memory"):
        fastopt.SGD([on_device, np.ones(N, np.float32)])
    with pytest.raises(ValueError, match="must be where params is"):
        fastopt.RMSProp(on_device, state={"square_avg": np.ones(N, np.float32)})
    with pytest.raises(ValueError, match="must be where params is"):
        fastopt.RMSProp(on_device, copy_to=np.ones(N, np.float32))
    with pytest.raises(ValueError, match="must be where params is"):
        fastopt.RMSProp(np.ones(N, np.float32), bounds=(on_device, None))
    with pytest.raises(ValueError, match="must not share memory"):
        fastopt.SGD([on_device, on_device])
    with pytest.raises(TypeError, match="float32 or float64, not int32"):
        fastopt.SGD(to_device(np.ones(N, np.int32)))
    assert to_host(on_device).tolist() == [1.0] * N


@pytest.mark.parametrize("executor", ["serial", "parallel", "reference"])
def test_executors_of_the_cpu(executor):
    with pytest.raises(ValueError, match="one of auto, cuda for arrays on a device"):
        fastopt.SGD(to_device(np.ones(3)), executor=executor)


@pytest.mark.parametrize("fast", [False, True])
def test_the_executor_of_the_device(fast):
    with pytest.raises(ValueError, match="needs params on a CUDA device, and these are in memory"):
        fastopt.SGD(np.ones(3), executor="cuda", fast=fast)
    w = to_device(np.ones(3))
    opt = fastopt.SGD(w, lr=0.5, executor="cuda", fast=fast)
    opt.step(to_device(np.ones(3)))
    assert to_host(w).tolist() == [0.5] * 3
    assert (opt.executor, opt.fast) == ("cuda", fast)


def test_sparse_gradients_are_for_memory():
    with pytest.raises(ValueError, match="sparse must be None for arrays on a device"):
        fastopt.SGD(to_device(np.ones((3, 2))), sparse="lazy")


def test_nothing_is_behind():
    opt = fastopt.SGD(to_device(np.ones((3, 2))))
    opt.catch_up()
    opt.catch_up(np.array([0, 2]))
    with pytest.raises(ValueError, match="rows must be from 0 to 2, got 3 to 3"):
        opt.catch_up(np.array([3]))


def test_gradients_on_the_device_for_params_in_memory():
    w = np.ones(3)
    opt = fastopt.SGD(w)
    with pytest.raises(TypeError, match="grads must be a NumPy array"):
        opt.step(to_device(np.ones(3)))
    assert w.tolist() == [1.0] * 3


def test_hyperparameters():
    with unharmed() as opt:
        with pytest.raises(ValueError, match="lr must be a number >= 0"):
            opt.lr = -1.0
        with pytest.raises(ValueError, match="grad_scale must be a number > 0"):
            opt.step(to_device(np.ones(N, np.float32)), grad_scale=0.0)
