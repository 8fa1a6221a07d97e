"""Device arrays of any library: by the CUDA Array Interface, or by DLPack alone."""

import ctypes

import numpy as np
import pytest

import fastopt
from fastopt.arrays import device_array
from tests.device import needs_driver, to_device, to_host
from tests.support import problem

CAPSULE = b"dltensor"


class DataType(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("dtype", DataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class Managed(ctypes.Structure):
    _fields_ = (("tensor", Tensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


class OnlyDlpack:
    """An array of a library that speaks DLPack and nothing else."""

    def __init__(self, array, strides=None):
        self.array, self.kept = array, []
        self.strides = strides

    def __dlpack_device__(self):
        return 2, 0

    def __dlpack__(self, **options):
        shape = (ctypes.c_int64 * self.array.ndim)(*self.array.shape)
        strides = (ctypes.c_int64 * self.array.ndim)(*self.strides) if self.strides else None
        dtype = DataType(2, 8 * self.array.dtype.itemsize, 1)
        address = self.array.__cuda_array_interface__["data"][0]
        tensor = Tensor(address, 2, 0, self.array.ndim, dtype, shape, strides, 0)
        managed = Managed(tensor, None, None)
        self.kept.append((managed, shape, strides))
        new = ctypes.pythonapi.PyCapsule_New
        new.restype, new.argtypes = (
            ctypes.py_object,
            (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p),
        )
        return new(ctypes.addressof(managed), CAPSULE, None)


@needs_driver
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dlpack(dtype):
    w, grads = problem((3, 7), dtype)
    on_device = to_device(w)
    opt, same = fastopt.RMSProp(OnlyDlpack(on_device)), fastopt.RMSProp(w)
    for g in grads:
        opt.step(OnlyDlpack(to_device(g)))
        same.step(g)
    assert to_host(on_device).tobytes() == w.tobytes()


@needs_driver
def test_dlpack_with_gaps():
    on_device = to_device(np.zeros((4, 6), np.float32))
    opt = fastopt.SGD(to_device(np.zeros((4, 3), np.float32)))
    narrow = OnlyDlpack(on_device[:, :3], strides=(6, 1))
    with pytest.raises(ValueError, match="grads must be C-contiguous"):
        opt.step(narrow)


@pytest.mark.parametrize(
    ("shape", "strides", "expected"),
    [
        ((3, 4), None, True),
        ((3, 4), (16, 4), True),
        ((3, 4), (4, 12), False),
        ((3, 1), (4, 400), True),
        ((0, 4), (1, 1), True),
        ((5,), (8,), False),
        ((), (), True),
    ],
)
def test_contiguous(shape, strides, expected):
    assert device_array.is_contiguous(shape, strides, 4) is expected


def test_what_is_not_on_a_device_enters_as_it_is():
    class OnCpu:
        def __dlpack_device__(self):
            return 1, 0

    for array in (np.ones(3), [1.0], None, OnCpu(), "text"):
        assert device_array.enter("grads", array) is array


class TensorOnCpu:
    """What torch has on a CPU: an interface that raises AttributeError."""

    __module__ = "torch"
    is_cuda, dtype = False, "torch.float32"

    def __dlpack_device__(self):
        return 1, 0


class TensorOnDevice(TensorOnCpu):
    """What torch has on a device: it must be detached before it describes itself."""

    __module__ = "torch"
    is_cuda = True

    def __init__(self, requires_grad=True):
        self.requires_grad = requires_grad

    def detach(self):
        return TensorOnDevice(requires_grad=False)

    def data_ptr(self):
        return 256

    @property
    def __cuda_array_interface__(self):
        if self.requires_grad:
            raise RuntimeError("requires grad")
        return {"shape": (2, 3), "typestr": "<f4", "data": (256, False), "strides": None, "version": 2}


def test_tensors():
    on_cpu, on_device = TensorOnCpu(), TensorOnDevice()
    assert device_array.enter("grads", on_cpu) is on_cpu
    entered = device_array.enter("grads", on_device)
    assert (entered.shape, entered.dtype, entered.address) == ((2, 3), np.float32, 256)
    assert entered.owner is on_device
    assert device_array.leave(entered) is on_device
    assert (entered.size, entered.nbytes, entered.ndim, entered.itemsize) == (6, 24, 2, 4)
    assert all(vars(entered.flags).values())
