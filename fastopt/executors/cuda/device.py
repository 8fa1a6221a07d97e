"""The device: compiling for it, launching on it, its memory and its streams.

The only file that imports `numba.cuda` and the driver's bindings, so that a successor of theirs has one
place to go to. With ``NUMBA_ENABLE_CUDASIM=1`` the same functions stand on Numba's simulator, which
runs kernels as plain Python in the memory of the host.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from itertools import starmap
from typing import Any, NamedTuple

import numba
import numpy as np
from numba import types

from fastopt.arrays.device_array import DeviceArray
from fastopt.changes import Change, make
from fastopt.codecs.base import Array
from fastopt.codecs.formats import bits_of
from fastopt.executors.cuda.compatibility import older_numpy

SIMULATED = bool(numba.config.ENABLE_CUDASIM)

with older_numpy():
    from numba import cuda as cuda

    if not SIMULATED:
        from cuda.bindings import driver as binding
        from numba.cuda.compiler import compile_cuda, kernel_fixup
        from numba.cuda.core.compiler_lock import global_compiler_lock
        from numba.cuda.core.errors import NumbaError
        from numba.cuda.cudadrv.devicearray import DeviceNDArray
        from numba.cuda.descriptor import cuda_target
        from numba.cuda.dispatcher import CUDADispatcher
        from numba.cuda.extending import intrinsic as intrinsic

if not SIMULATED:
    _ORDINAL = binding.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL

# Enough threads to hide what a block waits for, and small enough that the last blocks end together.
LARGEST_BLOCK, WARP = 256, 32

# Precise: the compiler must not turn a * b + c into one instruction with one rounding, so that results
# are the CPU's to the last bit; square root and division are rounded correctly.
# Fast: all that is allowed to it, but what is subnormal stays so.
PRECISE = {"opt": 3, "fma": 0, "prec-div": 1, "prec-sqrt": 1, "ftz": 0}
FAST = {"opt": 3, "fma": 1, "prec-div": 0, "prec-sqrt": 0, "ftz": 0}


class CudaError(RuntimeError):
    """The driver refused."""


def _call(function: Callable[..., Any], *arguments: object) -> Any:
    """A function of the driver; its error as an exception."""
    return _checked(function, function(*arguments))


def _checked(function: Callable[..., Any], returned: tuple[Any, ...]) -> Any:
    status, *results = returned
    if status != 0:
        raise CudaError(f"{function.__name__} failed: {status.name}")
    return results[0] if len(results) == 1 else results


# Compiling


@cache
def load_compiler() -> None:
    """Import what compiling needs, which numba-cuda leaves to the first compilation.

    Versions that do not work together are found here, before a step.
    """
    if not SIMULATED:
        with older_numpy():
            cuda_target.target_context.refresh()


def options(fast: bool) -> dict[str, int]:
    """NVVM's options."""
    return FAST if fast else PRECISE


if not SIMULATED:

    class _Helper(CUDADispatcher):  # type: ignore[misc]  # it has no hints
        """A function for kernels, compiled for a given architecture: none needs to be there."""

        def __init__(self, python: Any, architecture: tuple[int, int], fast: bool) -> None:
            super().__init__(python, targetoptions={"device": True, "opt": True})
            self._architecture, self._nvvm_options = architecture, options(fast)

        def compile_device(self, args: object, return_type: object = None) -> Any:
            if args not in self.overloads:
                how = {"nvvm_options": self._nvvm_options, "cc": self._architecture}
                compiled = compile_cuda(self.py_func, return_type, args, **how)
                self.overloads[args] = compiled
                compiled.target_context.insert_user_function(
                    compiled.entry_point, compiled.fndesc, [compiled.library]
                )
            return self.overloads[args]


def result_type(function: Any, arguments: tuple[Any, ...]) -> Any:
    """What a `helper` returns for these types; Numba's error if it cannot be compiled."""
    try:
        return function.compile_device(arguments).signature.return_type
    except NumbaError as error:  # another class than that of the same name in Numba
        raise numba.core.errors.TypingError(str(error)) from error


def helper(function: Any, architecture: tuple[int, int], fast: bool) -> Any:
    """Prepare a function that only kernels call."""
    return np.errstate(all="ignore")(function) if SIMULATED else _Helper(function, architecture, fast)


class Code(NamedTuple):
    """A compiled kernel for one architecture, as the driver takes it."""

    entry: str
    machine: bytes
    ptx: bytes


def compile_kernel(
    python: object, arguments: Sequence[object], architecture: tuple[int, int], fast: bool
) -> Any:
    """Compile a kernel to Numba's library, from which code for any architecture can be made."""
    with global_compiler_lock:
        how = {"nvvm_options": options(fast), "cc": architecture}
        compiled = compile_cuda(python, types.void, arguments, **how)
        name = compiled.fndesc.llvm_func_name
        compiled.library._entry_name = name
        kernel_fixup(compiled.library.get_function(name), False)
    return compiled.library


def code_of(library: Any) -> Code:
    """The code of a library for the current device."""
    machine = bytes(library.get_cubin().code)
    return Code(library._entry_name, machine, library.get_asm_str().encode() + b"\0")


def load(code: Code) -> int:
    """Put a kernel on the current device: its machine code, or PTX where the driver refuses that.

    It stays there: launches hold the handle that is returned.

    Raises
    ------
    CudaError
        The driver refuses both.
    """
    cuda.current_context()
    try:
        library = _call(binding.cuLibraryLoadData, code.machine, [], [], 0, [], [], 0)
    except CudaError:
        library = _call(binding.cuLibraryLoadData, code.ptx, [], [], 0, [], [], 0)
    kernel = _call(binding.cuLibraryGetKernel, library, code.entry.encode())
    return int(_call(binding.cuKernelGetFunction, kernel))


def largest_block(handle: int) -> int:
    """The threads of a block with which most threads are at work on the current device."""
    function = binding.CUfunction(handle)
    _, best = _call(binding.cuOccupancyMaxPotentialBlockSize, function, 0, 0, LARGEST_BLOCK)
    return max(WARP, int(best) // WARP * WARP)


def launch(handle: int, blocks: int, threads: int, stream: int, pointers: Array) -> None:
    """Start a kernel; `pointers` is an array of the addresses of its arguments."""
    function, how = binding.CUfunction(handle), (blocks, 1, 1, threads, 1, 1, 0, stream)
    _call(binding.cuLaunchKernel, function, *how, pointers.ctypes.data, 0)


# Devices


def current() -> int:
    """The number of the device that this thread works with."""
    if SIMULATED:
        return 0
    status, number = binding.cuCtxGetDevice()  # a twentieth of the time that Numba takes to say it
    return int(number) if status == 0 else int(cuda.current_context().device.id)


def architecture() -> tuple[int, int]:
    """The compute capability of the current device."""
    if SIMULATED:
        return (0, 0)
    major, minor = cuda.current_context().device.compute_capability
    return int(major), int(minor)


@contextmanager
def on(ordinal: int) -> Iterator[None]:
    """Work with this device for a while."""
    if SIMULATED or current() == ordinal:
        yield
        return
    with cuda.gpus[ordinal]:
        yield


def ordinal(array: DeviceArray) -> int:
    """The number of the device that an array is on.

    Raises
    ------
    ValueError
        It is not in the memory of a device.
    """
    if array.size == 0:
        return current()
    at = ordinal_at(array.address)
    if at is None:
        raise ValueError(f"the memory of {array!r} is not of a CUDA device")
    return at


def ordinal_at(address: int) -> int | None:
    """The number of the device that has this memory, None if it is no device's."""
    if SIMULATED:
        return current()
    current()
    status, number = binding.cuPointerGetAttribute(_ORDINAL, address)
    return int(number) if status == 0 else None


@cache
def problem() -> str | None:
    """Why the driver or the device cannot be used, None if they can."""
    if SIMULATED:
        return None
    try:
        cuda.current_context()
    except Exception as error:  # of many kinds, by what is broken
        return " ".join(str(error).split()).rstrip(": ") or type(error).__name__
    return None


def facts() -> str:
    """The current device, in a line."""
    if SIMULATED:
        return "Numba's simulator"
    gpu = cuda.current_context().device
    name = gpu.name.decode() if isinstance(gpu.name, bytes) else str(gpu.name)
    version = _call(binding.cuDriverGetVersion)
    major, minor = architecture()
    driver = f"driver for CUDA {version // 1000}.{version % 1000 // 10}"
    return f"{name}, compute capability {major}.{minor}, {driver}, {len(cuda.gpus)} in all"


# Memory


def allocate(shape: tuple[int, ...], dtype: Any) -> DeviceArray:
    """New memory, with undefined content."""
    dtype = np.dtype(dtype)
    # Numba does not know the dtypes of ml_dtypes: their bits.
    array = cuda.device_array(shape, bits_of(dtype))
    return DeviceArray(array, shape, dtype, _address(array) if array.size else 0)


def array_type() -> Any:
    """The class of Numba's arrays on a device; None on the simulator, whose memory is the host's."""
    return None if SIMULATED else DeviceNDArray


def _address(array: Any) -> int:
    if SIMULATED:
        return int(array._ary.ctypes.data)
    return int(array.__cuda_array_interface__["data"][0])


def to_device(address: int, host: Array) -> None:
    """Copy a NumPy array, and wait for it."""
    if host.nbytes == 0:
        return
    if SIMULATED:
        ctypes.memmove(address, host.ctypes.data, host.nbytes)
    else:
        _call(binding.cuMemcpyHtoD, address, host.ctypes.data, host.nbytes)
        # That returns once the array was read: other streams, of torch for one, must not be before it.
        _call(binding.cuStreamSynchronize, 0)


def to_host(host: Array, address: int) -> None:
    """Fill a NumPy array, and wait for it."""
    if host.nbytes == 0:
        return
    if SIMULATED:
        ctypes.memmove(host.ctypes.data, address, host.nbytes)
    else:
        _call(binding.cuMemcpyDtoH, host.ctypes.data, address, host.nbytes)


def across(target: int, source: int, size: int) -> None:
    """Copy bytes on the device, or between devices."""
    if size == 0:
        return
    if SIMULATED:
        ctypes.memmove(target, source, size)
    else:
        _call(binding.cuMemcpyDtoD, target, source, size)


def clear(address: int, size: int) -> None:
    """Set bytes to zero."""
    if size == 0:
        return
    if SIMULATED:
        ctypes.memset(address, 0, size)
    else:
        _call(binding.cuMemsetD8, address, 0, size)


def send(address: int, pinned: Array, stream: int) -> None:
    """Copy a pinned array to the device, in the order of the stream, or record that in a graph."""
    if SIMULATED:
        ctypes.memmove(address, pinned.ctypes.data, pinned.nbytes)
    else:
        _call(binding.cuMemcpyHtoDAsync, address, pinned.ctypes.data, pinned.nbytes, stream)


class Pinned:
    """Pinned host memory, from and to which copies are asynchronous."""

    def __init__(self, words: int) -> None:
        self.array = np.zeros(words, np.int64) if SIMULATED else cuda.pinned_array(words, np.int64)
        self._event: Any = None

    def wait(self) -> None:
        """Until the copy that was sent last has left."""
        if self._event is not None:
            _call(binding.cuEventSynchronize, self._event)

    def send(self, address: int, words: int, stream: int) -> None:
        """Copy the first words to the device, in the order of the stream."""
        if SIMULATED:
            send(address, self.array[:words], stream)
        else:
            self._copy(binding.cuMemcpyHtoDAsync, address, self.array.ctypes.data, 8 * words, stream)

    def receive(self, address: int, stream: int, kept: list[Pinned]) -> None:
        """Fill it from the device, in the order of the stream, and append it to a list."""
        where, keep = (self.array.ctypes.data, address, self.array.nbytes), partial(kept.append, self)
        if SIMULATED:
            make([partial(ctypes.memmove, *where), keep])
        else:
            self._copy(binding.cuMemcpyDtoHAsync, *where, stream, also=[keep])

    def _copy(self, *copy: object, also: Sequence[Change] = ()) -> None:
        """Call a function of the driver, and record the event before an interrupt can come."""
        calls: Any = copy, (binding.cuEventRecord, self.event(), copy[-1])
        results = make([*starmap(partial, calls), *also])
        for (function, *_), result in zip(calls, results, strict=False):
            _checked(function, result)

    def has_arrived(self) -> bool:
        """Whether the last copy is through."""
        return self._event is None or binding.cuEventQuery(self._event)[0] == 0

    def event(self) -> int:
        """The handle of the event that follows the last copy."""
        if self._event is None:
            no_timing = binding.CUevent_flags.CU_EVENT_DISABLE_TIMING
            self._event = _call(binding.cuEventCreate, no_timing)
        return int(self._event)

    def __del__(self) -> None:
        if self._event is not None:
            binding.cuEventDestroy(self._event)


# Streams


def synchronize(stream: int | None = None) -> None:
    """Wait for all that a stream, or the whole device, was given to do."""
    if SIMULATED:
        return
    if stream is None:
        _call(binding.cuCtxSynchronize)
    else:
        _call(binding.cuStreamSynchronize, stream)


def is_capturing(stream: int) -> bool:
    """Whether what is launched on a stream is recorded, not run."""
    if SIMULATED:
        return False
    return bool(_call(binding.cuStreamIsCapturing, stream) != 0)
