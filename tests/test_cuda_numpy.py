"""numba-cuda and NumPy: a name that the newest NumPy lacks, and an error that says which two clash."""

import os
import sys
import threading
from importlib.metadata import version
from importlib.util import find_spec
from types import ModuleType

import numpy as np
import pytest

from fastopt.executors.cuda import availability, compatibility
from tests.device import EMULATED, needs_driver
from tests.subprocesses import needs_jit, run

# A NumPy without a name that numba-cuda refers to, whichever NumPy this is. Numba asks for the version.
WITHOUT = "import numpy, numba.np.arrayobj\nif hasattr(numpy, {0!r}): del numpy.{0}\n"

# What a user may have done before: nothing, an import, or a first kernel of his own, which fails.
IMPORTED = "from numba import cuda, types\n"
FAILED = """
from numba import cuda, types
try:
    cuda.compile(lambda x: None, types.void(types.float32[:]), cc=(8, 0), abi="numba")
except AttributeError as error:
    assert "row_stack" in str(error)
else:
    assert numpy.lib.NumpyVersion(numpy.__version__) < "2.0.0"
"""
EARLIER = pytest.mark.parametrize("earlier", ["", IMPORTED, FAILED], ids=["new", "imported", "failed"])

needs_package = pytest.mark.skipif(
    find_spec("numba_cuda") is None,
    reason="numba-cuda is not installed: pip install 'numba-cuda[cu13]'",
)


def in_a_new_process(code, cache):
    paths = [path for path in (os.environ.get("PYTHONPATH"),) if path]
    here = os.path.dirname(os.path.dirname(__file__))
    return run(code, cache, PYTHONPATH=os.pathsep.join([here, *paths]), **EMULATOR)


# The emulator's own variables do not begin like ours, but one.
EMULATOR = {"NUMBA_CUDA_LOW_OCCUPANCY_WARNINGS": "0"} if EMULATED else {}


@needs_jit
@needs_package
@EARLIER
def test_compiles_without_the_name(earlier, tmp_path):
    code = """
from fastopt.executors.cuda import device
device.load_compiler()
assert not hasattr(numpy, "row_stack")
def kernel(length, address):
    pass
made = device.compile_kernel(kernel, (device.types.int64,) * 2, (8, 0), False)
assert ".entry" in made.get_asm_str(cc=(8, 0, ""))
"""
    in_a_new_process(WITHOUT.format("row_stack") + earlier + code, tmp_path)


@needs_driver
@EARLIER
def test_steps_without_the_name(earlier, tmp_path):
    code = """
import fastopt
from numba import cuda
w = cuda.to_device(numpy.full(300, 5, numpy.float32))
opt = fastopt.RMSProp(w, lr=0.1, clip_norm=1e6, state_dtype="8bit")
opt.step(cuda.to_device(numpy.full(300, 10, numpy.float32)))
assert abs(w.copy_to_host() - 4.6837723).max() < 1e-3
assert not hasattr(numpy, "row_stack")

@cuda.jit
def after(x):
    x[0] = 1

after[1, 1](w)
assert w.copy_to_host()[0] == 1
"""
    in_a_new_process(WITHOUT.format("row_stack") + earlier + code, tmp_path)


@needs_jit
@needs_package
@pytest.mark.parametrize("earlier", ["", IMPORTED], ids=["new", "imported"])
def test_another_name_is_missing(earlier, tmp_path):
    """A clash that is not known: what needs a compiler says what does not fit together."""
    code = """
from fastopt.executors.cuda import availability
try:
    availability.require_compiler()
except RuntimeError as error:
    print(error)
from fastopt import system
print(system.facts()["CUDA"])
"""
    printed = in_a_new_process(WITHOUT.format("column_stack") + earlier + code, tmp_path)
    refused, shown = printed.splitlines()
    assert_names_the_clash(refused)
    assert shown == refused.replace("arrays on a CUDA device cannot be stepped", "not available")


def assert_names_the_clash(refused):
    clash = f"numba-cuda {version('numba-cuda')} does not work with NumPy {np.__version__} ("
    assert refused.startswith(f"arrays on a CUDA device cannot be stepped: {clash}")
    assert "column_stack" in refused
    assert "pip install --upgrade numba-cuda, or 'numpy<" in refused


@needs_driver
def test_code_on_disk_needs_no_compiler(tmp_path):
    """The first use of a device array is refused where it must be compiled for, and works if not."""
    code = """
import fastopt
from numba import cuda
w = cuda.to_device(numpy.zeros(300, numpy.float32))
try:
    fastopt.SGD(w, lr=0.5).step(cuda.to_device(numpy.ones(300, numpy.float32)))
except RuntimeError as error:
    print(error)
else:
    print(set(w.copy_to_host().tolist()))
"""
    clash = "import numpy.ma\n" + WITHOUT.format("column_stack")  # which needs that name too
    assert_names_the_clash(in_a_new_process(clash + code, tmp_path))
    assert in_a_new_process("import numpy\n" + code, tmp_path) == "{-0.5}"
    assert in_a_new_process(clash + code, tmp_path) == "{-0.5}"


@pytest.fixture
def missing(monkeypatch):
    """What `availability` says if preparing to compile raises this."""

    def raising(error):
        def load_compiler():
            raise error

        device = ModuleType("fastopt.executors.cuda.device")
        device.load_compiler = load_compiler
        monkeypatch.setattr(availability, "find_spec", lambda name: name)
        monkeypatch.setattr(availability, "version", lambda name: "0.30.4")
        monkeypatch.setattr(availability.np, "__version__", "2.6.1")
        monkeypatch.setitem(sys.modules, device.__name__, device)
        monkeypatch.setattr("fastopt.executors.cuda.device", device, raising=False)
        availability.missing_compiler.cache_clear()
        return availability.missing_compiler()

    yield raising
    availability.missing_compiler.cache_clear()


def test_two_versions_are_named(missing):
    said = missing(AttributeError("module 'numpy' has no attribute 'hstack'"))
    assert said == (
        "numba-cuda 0.30.4 does not work with NumPy 2.6.1 (module 'numpy' has no attribute 'hstack'): "
        "pip install --upgrade numba-cuda, or 'numpy<2.6' if there is no newer one"
    )


def test_what_is_not_of_numpy(missing):
    said = missing(ImportError("NVIDIA CUDA Python bindings not found."))
    assert said.startswith(
        "numba-cuda cannot be imported (NVIDIA CUDA Python bindings not found.): pip"
    )


@pytest.fixture
def without(monkeypatch):
    monkeypatch.delattr(np, "row_stack", raising=False)


@pytest.mark.usefixtures("without")
def test_name_is_there_for_a_while():
    with compatibility.older_numpy():
        assert np.row_stack([[1, 2], [3, 4]]).tolist() == [[1, 2], [3, 4]]
        with compatibility.older_numpy():  # an import within an import
            assert hasattr(np, "row_stack")
        assert hasattr(np, "row_stack")
    assert not hasattr(np, "row_stack")


@pytest.mark.usefixtures("without")
def test_name_goes_when_an_import_fails():
    with pytest.raises(ImportError), compatibility.older_numpy():
        raise ImportError
    assert not hasattr(np, "row_stack")


def test_a_name_of_numpy_stays(monkeypatch):
    monkeypatch.setattr(np, "row_stack", np.hstack, raising=False)
    with compatibility.older_numpy():
        assert np.row_stack is np.hstack
    assert np.row_stack is np.hstack


@pytest.mark.usefixtures("without")
def test_threads_wait_for_each_other():
    entered, left = threading.Event(), []

    def second():
        entered.set()
        with compatibility.older_numpy():
            left.append(hasattr(np, "row_stack"))

    with compatibility.older_numpy():
        thread = threading.Thread(target=second)
        thread.start()
        entered.wait()
        thread.join(0.2)
        assert thread.is_alive()  # it waits, and does not take the name away under this import
        assert hasattr(np, "row_stack")
    thread.join()
    assert left == [True]
    assert not hasattr(np, "row_stack")
