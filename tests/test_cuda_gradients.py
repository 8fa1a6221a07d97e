"""New gradient objects in each step: found where they are, and checked, however quickly."""

import gc
import sys
import weakref
from types import SimpleNamespace

import numpy as np
import pytest

import fastopt
from tests.device import (
    assert_same_on_device,
    misaligned,
    needs_driver,
    skip_without_device,
    to_device,
    to_host,
)
from tests.support import problem

skip_without_device()

from fastopt.steps import device_gradients  # noqa: E402  # it imports what may not be installed


class Wrapped:
    """An array of some library that knows no more than the interface."""

    def __init__(self, array, **changes):
        self.array, self.changes = array, changes

    @property
    def __cuda_array_interface__(self):
        return {**self.array.__cuda_array_interface__, **self.changes}


class OfCupy(Wrapped):
    """What is asked of CuPy's arrays."""

    __module__ = "cupy"

    def __init__(self, array):
        super().__init__(array)
        self.shape, self.strides, self.dtype = array.shape, array.strides, array.dtype
        self.data = SimpleNamespace(ptr=array.__cuda_array_interface__["data"][0])


class OfTorch(OfCupy):
    """What is asked of torch's tensors."""

    __module__ = "torch"
    is_cuda, device = True, "cuda:0"

    def detach(self):
        return self

    def data_ptr(self):
        return self.data.ptr

    def stride(self):
        return tuple(step // self.dtype.itemsize for step in self.strides)

    def is_neg(self):
        return False


@pytest.fixture
def _libraries(monkeypatch):
    here = SimpleNamespace(cuda_stream=0, ptr=0)
    cuda = SimpleNamespace(current_stream=lambda _: here, get_current_stream=lambda: here)
    for name in ("torch", "cupy"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(cuda=cuda))


KINDS = {"numba": lambda array: array, "interface": Wrapped, "cupy": OfCupy, "torch": OfTorch}
every_kind = pytest.mark.parametrize("kind", list(KINDS))


@needs_driver
@pytest.mark.usefixtures("_libraries")
@every_kind
@pytest.mark.parametrize("options", [{}, {"clip_norm": 1.0}, {"zero_grad": True}], ids=str)
@pytest.mark.parametrize("count", [1, 3])
def test_new_objects_in_each_step(kind, options, count):
    wrap, size = KINDS[kind], 70
    arrays, grads = zip(*(problem(size + i, np.float32) for i in range(count)), strict=True)
    opt = fastopt.RMSProp([to_device(w) for w in arrays], **options)
    same = fastopt.RMSProp([w.copy() for w in arrays], **options)
    for number, step in enumerate(zip(*grads, strict=True)):
        # At addresses of both kinds, and the third time one is missing.
        place = misaligned if number == 1 else to_device
        wrapped = [wrap(place(g)) for g in step]
        host = [g.copy() for g in step]
        if number == 2 and count > 1:
            wrapped[1] = host[1] = None
        opt.step(wrapped)
        same.step(host)
    for actual, other in zip(opt.params, same.params, strict=True):
        np.testing.assert_array_equal(to_host(actual), other)


@needs_driver
@pytest.mark.usefixtures("_libraries")
@every_kind
@pytest.mark.parametrize("count", [1, 3])
def test_no_step_checks_less(kind, count):
    """What is not acceptable is refused after any number of good steps."""
    wrap, size = KINDS[kind], 64
    params = [to_device(np.ones(size, np.float32)) for _ in range(count)]
    opt = fastopt.SGD(params, lr=0.5)

    def good():
        return [wrap(to_device(np.zeros(size, np.float32))) for _ in range(count)]

    wide = to_device(np.ones(2 * size, np.float32))
    bad = {
        "must have the parameter's shape": wrap(to_device(np.ones(size + 1, np.float32))),
        "must have dtype": wrap(to_device(np.ones(size))),
        "C-contiguous": wrap(wide[::2]),
        "share memory": wrap(params[-1]),
        "must be on CUDA device 0": np.ones(size, np.float32),
    }
    if kind == "interface":
        inside = to_device(np.ones(size + 1, np.float32)).__cuda_array_interface__["data"][0]
        bad["aligned"] = Wrapped(wide[:size], data=(inside + 2, False))
        bad["is not of a CUDA device"] = Wrapped(wide[:size], data=(64, False))
        bad["must not have a mask"] = Wrapped(wide[:size], mask=wide)
    for _ in range(2):
        opt.step(good())
    for text, wrong in bad.items():
        grads = good()
        grads[-1] = wrong
        with pytest.raises((TypeError, ValueError), match=text):
            opt.step(grads)
        opt.step(good())
    assert all(to_host(w).tolist() == [1.0] * size for w in params)


@needs_driver
@pytest.mark.usefixtures("_libraries")
@pytest.mark.parametrize("kind", ["torch", "cupy"])
def test_gradients_are_not_kept(kind):
    """Their libraries give memory that is free to others: a step must not hold it until the next."""
    opt = fastopt.SGD(to_device(np.ones(8, np.float32)))
    for _ in range(2):
        g = KINDS[kind](to_device(np.ones(8, np.float32)))
        opt.step(g)
        gone = weakref.ref(g)
        del g
        gc.collect()
        assert gone() is None


@needs_driver
def test_an_object_may_have_other_memory_by_the_next_step():
    """As one that was resized has."""
    w, g = to_device(np.zeros(8, np.float32)), Wrapped(to_device(np.ones(8, np.float32)))
    opt = fastopt.SGD(w, lr=1.0)
    for number in (1.0, 2.0, 3.0):
        g.array = to_device(np.full(8, number, np.float32))
        opt.step(g)
    assert to_host(w).tolist() == [-6.0] * 8


@needs_driver
def test_formats_may_change():
    w, (g, *_) = problem(40, np.float32)
    opt, same = fastopt.RMSProp(to_device(w)), fastopt.RMSProp(w)
    for dtype in (np.float32, np.float16, np.float16, np.float32):
        opt.step(to_device(g.astype(dtype)))
        same.step(g.astype(dtype))
    assert_same_on_device(opt, w, same.state)


def test_streams_of_the_arrays():
    """A gradient that names another stream than the last one is checked again."""
    array = to_device(np.ones(4, np.float32))
    if not hasattr(array, "__cuda_array_interface__"):
        pytest.skip("the simulator's arrays have no interface")
    one, other = Wrapped(array, stream=None), Wrapped(array, stream=7)
    read = device_gradients.reader(one)
    address = array.__cuda_array_interface__["data"][0]
    assert (read(one), read(other), read(array)) == (
        address,
        device_gradients.OTHER,
        device_gradients.OTHER,
    )
    assert device_gradients.absent(None) == 0
    assert device_gradients.absent(one) == device_gradients.OTHER
    assert device_gradients.reader("no array")("another") == device_gradients.OTHER


def test_the_callers_containers_do_not_matter():
    """Gradients are found by key, of arrays that were taken out of the caller's dict since."""
    a, b = to_device(np.zeros(3)), to_device(np.zeros(3))
    params = {"a": a, "b": b}
    opt = fastopt.SGD(params, lr=1.0, momentum=0.5)
    params["a"] = params.pop("a")
    opt.step({"a": to_device(np.full(3, 1.0)), "b": to_device(np.full(3, 10.0))})
    params.clear()
    opt.step({"b": to_device(np.full(3, 10.0)), "a": to_device(np.full(3, 1.0))})
    assert to_host(a).tolist() == [-2.5] * 3
    assert to_host(b).tolist() == [-25.0] * 3
    assert opt.params["a"] is a
    with pytest.raises(TypeError, match="cannot be changed"):
        opt.params["a"] = b
    with pytest.raises(ValueError, match=r"missing \['b'\]"):
        opt.step({"a": to_device(np.zeros(3))})


@pytest.mark.parametrize("count", [0, 1, 3])
def test_lists_of_another_length_are_refused(count):
    params = [to_device(np.zeros(3)), to_device(np.zeros(3))]
    opt = fastopt.SGD(params, lr=1.0)
    with pytest.raises(ValueError, match=f"must have 2 entries like params, got {count}"):
        opt.step([to_device(np.ones(3))] * count)
    assert not any(to_host(param).any() for param in params)
