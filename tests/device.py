"""What the tests of the CUDA executor need: a device to run on, and arrays on it.

The tests ask for a device, whichever it is: a GPU, or an emulator of one that numba-cuda takes for a
GPU; most of them also run on Numba's simulator, with fewer elements.
"""

import functools

import numba
import numpy as np
import pytest

from fastopt.executors.cuda import availability
from tests.emulator import EMULATED
from tests.support import assert_same_bits

SIMULATED = bool(numba.config.ENABLE_CUDASIM)


@functools.cache
def _reason():
    if numba.config.DISABLE_JIT:
        return "NUMBA_DISABLE_JIT=1: kernels are compiled"
    return availability.missing()


def skip_without_device():
    """Leave a whole file out, with one reason for all of it."""
    if _reason() is not None:
        pytest.skip(f"CUDA: {_reason()}", allow_module_level=True)


needs_device = pytest.mark.skipif(_reason() is not None, reason=f"CUDA: {_reason()}")
needs_driver = pytest.mark.skipif(
    SIMULATED or _reason() is not None, reason=f"CUDA: {_reason() or 'the simulator has no driver'}"
)
needs_emulator = pytest.mark.skipif(
    not EMULATED, reason="counts what a kernel does, which the emulated GPU alone tells"
)


def sizes(*wanted):
    """Those that are quick enough: the simulator has a thread of Python for every thread."""
    return [size for size in wanted if not SIMULATED or size <= 150]


def to_device(array):
    """A copy on the device, in the array type of Numba."""
    from numba import cuda

    return cuda.to_device(array)


def to_host(array):
    """The content of a device array."""
    return array.copy_to_host()


def assert_same_on_device(opt, w, states):
    """Parameter and states on the device have these bits; a NaN is a NaN."""
    for name, actual, expected in [
        ("param", opt.params, w),
        *((name, opt.state[name], states[name]) for name in opt.state),
    ]:
        result, wanted = to_host(actual), np.asarray(expected)
        # The bits of a NaN are the processor's own.
        assert_same_bits(
            *(np.where(np.isnan(x), x.dtype.type(np.nan), x) for x in (result, wanted)), name
        )


def misaligned(array):
    """A device array with this content whose address is no multiple of 16."""
    from numba import cuda

    spare = cuda.to_device(np.concatenate([np.zeros(1, array.dtype), array.reshape(-1)]))
    return spare[1:].reshape(array.shape)
