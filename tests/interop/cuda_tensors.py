"""Tensors on a CUDA device: torch's own, or on an emulated GPU those of the CPU that say they are.

The emulated GPU's memory is that of the host, but kernels reach only what the driver has given. So
what torch makes for such a tensor, states and copies, moves to memory of the driver's, and torch goes
on computing with it on the CPU.
"""

import contextlib
import ctypes
from functools import partial
from types import SimpleNamespace

import numba
import numpy as np
import pytest

from tests.emulator import EMULATED
from tests.interop.torch_pairs import torch

STREAM = 4711
_memory = {}
_recorded = None  # while a graph is captured: what it does, in order


class Emulated(torch.Tensor):
    """A tensor of the CPU, in memory of the emulated GPU."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if str(kwargs.get("device", "")).startswith("cuda"):
            del kwargs["device"]
        with torch._C.DisableTorchFunctionSubclass():
            result = function(*args, **kwargs)
            unwrapped = function in torch.overrides.get_default_nowrap_functions()
            result = result if unwrapped else _moved(result)
        if _recorded is not None and getattr(function, "__name__", "") != "__get__":
            _recorded.append(lambda: _again_into(result, function, args, kwargs))
        return result

    @property
    def is_cuda(self):
        return not self.is_meta

    @property
    def device(self):
        return torch.device("cpu" if self.is_meta else "cuda:0")

    def __deepcopy__(self, memo):
        return memo.setdefault(id(self), _again(to_cpu(self), self.requires_grad))

    def __reduce_ex__(self, protocol):
        return _again, (to_cpu(self), self.requires_grad)


def _again(tensor, requires_grad):
    return to_cuda(tensor).requires_grad_(requires_grad)


def _again_into(result, function, args, kwargs):
    """What a graph does with an operation: the result comes where it was in the capture."""
    with torch._C.DisableTorchFunctionSubclass():
        _copy_into(result, function(*args, **kwargs))


def _copy_into(result, new):
    if isinstance(new, (list, tuple)):
        for target, other in zip(result, new, strict=True):
            _copy_into(target, other)
    elif isinstance(new, torch.Tensor) and new.data_ptr() != result.data_ptr():
        result.copy_(new)


def _moved(result):
    if isinstance(result, (list, tuple)):
        kind = type(result)
        return kind(map(_moved, result)) if kind in (list, tuple) else result
    if not isinstance(result, torch.Tensor) or result.layout != torch.strided:
        return result
    if result.is_meta or result.numel() == 0 or result.untyped_storage().data_ptr() in _memory:
        return result if isinstance(result, Emulated) else result.as_subclass(Emulated)
    return _to_emulated(result)


def _to_emulated(tensor):
    from numba import cuda

    storage = tensor.detach().untyped_storage()
    memory = cuda.device_array(max(storage.nbytes(), 1), np.uint8)
    address = memory.__cuda_array_interface__["data"][0]
    host = np.ctypeslib.as_array((ctypes.c_uint8 * storage.nbytes()).from_address(address))
    _memory[address] = memory  # for as long as the tests run
    ctypes.memmove(address, storage.data_ptr(), storage.nbytes())
    flat = torch.from_numpy(host).view(tensor.dtype)
    with torch.no_grad():
        view = flat.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
    view = view.as_subclass(Emulated)
    return view.requires_grad_(tensor.requires_grad)


def to_cuda(tensor):
    """The tensor on a device, with its strides."""
    if not EMULATED:
        return torch.empty_like(tensor, device="cuda").copy_(tensor)
    with torch.no_grad():
        copied = torch.empty_like(tensor, memory_format=torch.preserve_format).copy_(tensor)
    if copied.numel() == 0:
        return copied.as_subclass(Emulated)
    return _to_emulated(copied)


def to_sparse(tensor):
    """The rows of a tensor of the CPU that are not zero, on a device; emulated ones have no layout."""
    sparse = tensor.to_sparse(1)
    return sparse if EMULATED else sparse.cuda()


def to_cpu(tensor):
    """The tensor on the CPU, with its strides."""
    if isinstance(tensor, Emulated):
        return tensor.detach().as_subclass(torch.Tensor)
    return tensor.detach().cpu()


@contextlib.contextmanager
def current_stream(monkeypatch):
    """Work on a stream of its own; gives its handle."""
    if EMULATED:
        with monkeypatch.context() as patch:
            current = SimpleNamespace(cuda_stream=STREAM)
            patch.setattr(torch.cuda, "current_stream", lambda device=None: current)
            patch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
            yield STREAM
        return
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        yield stream.cuda_stream
    torch.cuda.current_stream().wait_stream(stream)


class _Interface(ctypes.Structure):
    _fields_ = (
        ("version", ctypes.c_uint32 * 2),
        ("functions", ctypes.c_void_p * 4),
        ("describe", ctypes.c_void_p),
        ("stream", ctypes.c_void_p),
    )


def _exchange(subclass):
    """torch's exchange interface, which says of emulated tensors that they are on a device.

    Those of a subclass, or all.
    """
    get, new = ctypes.pythonapi.PyCapsule_GetPointer, ctypes.pythonapi.PyCapsule_New
    get.restype, get.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    new.restype, new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
    name = b"dlpack_exchange_api"
    original = _Interface.from_address(get(torch.Tensor.__dlpack_c_exchange_api__, name))
    interface = _Interface.from_buffer_copy(original)
    words = ctypes.POINTER(ctypes.c_int64)
    describe = ctypes.CFUNCTYPE(ctypes.c_int, words, words)(original.describe)
    cuda, emulated, plain = 2, id(subclass), id(torch.Tensor)

    @numba.cfunc("int32(CPointer(int64), CPointer(int64))")
    def on_device(item, into):
        if emulated == plain:
            status = describe(item, into)
            into[1] = cuda  # after the address
            return status
        if item[1] != emulated:  # after the count of references
            return describe(item, into)
        item[1] = plain  # torch takes longer to find out that a subclass is a tensor
        status = describe(item, into)
        item[1] = emulated
        into[1] = cuda
        return status

    @numba.cfunc("int32(int32, int32, CPointer(int64))")
    def stream(kind, ordinal, into):
        into[0] = STREAM if kind == cuda and ordinal == 0 else -1
        return 0

    interface.describe, interface.stream = on_device.address, stream.address
    _kept.append((interface, describe, on_device, stream))
    return new(ctypes.addressof(interface), name, None)


_kept = []
if EMULATED and hasattr(torch.Tensor, "__dlpack_c_exchange_api__"):
    Emulated.__dlpack_c_exchange_api__ = _exchange(Emulated)


@contextlib.contextmanager
def as_in_the_field():
    """torch's stream and its answer about captures, without a test's monkeypatch."""
    with pytest.MonkeyPatch.context() as patch, current_stream(patch):
        yield


@contextlib.contextmanager
def of_torchs_classes(tensors):
    """Emulated tensors that cost no more to use than torch's own, as long as nothing computes.

    Their classes are torch's, of which all tensors in memory of the device are said to be there; gives
    what makes this so for every tensor, without asking for its memory.
    """
    device = torch.Tensor.device.__get__

    def is_there(tensor):
        return not tensor.is_meta and tensor.untyped_storage().data_ptr() in _memory

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "__dlpack_c_exchange_api__", _exchange(torch.Tensor))
        patch.setattr(torch.Tensor, "is_cuda", property(is_there))
        device_of = property(
            lambda tensor: torch.device("cuda:0") if is_there(tensor) else device(tensor)
        )
        patch.setattr(torch.Tensor, "device", device_of)
        for tensor in tensors:
            is_param = isinstance(tensor, torch.nn.Parameter)
            tensor.__class__ = torch.nn.Parameter if is_param else torch.Tensor

        def everywhere():
            patch.setattr(torch.Tensor, "is_cuda", True)
            patch.setattr(torch.Tensor, "device", torch.device("cuda:0"))

        yield everywhere


@contextlib.contextmanager
def moves_to_cuda(monkeypatch):
    """On an emulated GPU: ``tensor.to(device="cuda")`` moves there, as in loading a checkpoint."""
    if not EMULATED:
        yield
        return
    to = torch.Tensor.to

    def moving(tensor, *args, **kwargs):
        where = kwargs.pop("device", None)
        moved = to(tensor, *args, **kwargs)
        on_device = str(where).startswith("cuda") and not isinstance(moved, Emulated)
        return to_cuda(moved) if on_device else moved

    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "to", moving)
        yield


def capture(monkeypatch, step, written):
    """Capture a step in a graph; gives its replay. The emulation needs to know what a step writes.

    There it is run in the capture, and what it wrote is put back.
    """
    if not EMULATED:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
            step()
        return graph.replay
    from fastopt.executors.cuda import device, programs

    global _recorded
    contents = [to_cpu(tensor).clone() for tensor in written]
    launch, send = programs.Program.launch, device.send

    def record(program, blocks, threads, stream, pointers):
        words = [ctypes.c_int64.from_address(int(pointer)).value for pointer in pointers]

        def again():
            values = np.array(words, np.int64)
            places = values.ctypes.data + 8 * np.arange(len(values))
            launch(program, blocks, threads, stream, places.astype(np.int64))

        recording.append(again)

    recording = _recorded = []
    try:
        with monkeypatch.context() as patch:
            patch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
            patch.setattr(device, "is_capturing", lambda stream: True)
            patch.setattr(programs.Program, "launch", record)
            patch.setattr(device, "send", lambda *copied: _recorded.append(partial(send, *copied)))
            step()
    finally:
        _recorded = None
    for tensor, content in zip(written, contents, strict=True):
        to_cpu(tensor).copy_(content)
    return lambda: [each() for each in recording]


class _Moves(torch.overrides.TorchFunctionMode):
    """What is made on ``"cuda"`` comes to the emulated GPU; a graph of derivatives stays on the CPU."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        device = kwargs.pop("device", None)
        if not torch.is_grad_enabled():
            return function(*args, **kwargs)
        with torch._C.DisableTorchFunctionSubclass():
            result = function(*args, **kwargs)
        return to_cuda(result) if device == "cuda" else result


@torch.no_grad()
def _module_to_cuda(module, device):
    for submodule in module.modules():
        for name, param in submodule._parameters.items():
            submodule._parameters[name] = moved = torch.nn.Parameter(to_cuda(param.detach()))
            moved.register_post_accumulate_grad_hook(_grad_to_cuda)
    return module


@torch.no_grad()
def _grad_to_cuda(param):
    param.grad = to_cuda(param.grad)


@contextlib.contextmanager
def as_on_cuda(monkeypatch):
    """Run a script written for a GPU; where it is emulated its graphs are run and not captured."""
    if not EMULATED:
        yield
        return
    stream = SimpleNamespace(cuda_stream=STREAM, wait_stream=lambda other: None)
    with monkeypatch.context() as patch, _Moves():
        for name, value in {
            "Stream": lambda: stream,
            "stream": contextlib.nullcontext,
            "current_stream": lambda device=None: stream,
            "is_current_stream_capturing": lambda: False,
            "CUDAGraph": lambda: SimpleNamespace(replay=lambda: None),
            "graph": contextlib.nullcontext,
        }.items():
            patch.setattr(torch.cuda, name, value)
        patch.setattr(torch.nn.Module, "to", _module_to_cuda)
        yield
