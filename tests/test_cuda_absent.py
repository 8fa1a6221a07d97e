"""Where CUDA is missing or broken: no error until it is asked for, and then one that helps."""

import sys
from types import ModuleType

import numba
import numpy as np
import pytest

import fastopt
from fastopt import system
from fastopt.executors.cuda import availability
from tests.subprocesses import LIMIT, needs_jit


class OnDevice:
    """An array that says it is on a device."""

    __cuda_array_interface__ = {  # noqa: RUF012
        "shape": (3,),
        "typestr": "<f4",
        "data": (4096, False),
        "strides": None,
        "version": 3,
    }


@pytest.fixture(autouse=True)
def _looks_again():
    looked = availability.missing, availability.missing_compiler
    for function in looked:
        function.cache_clear()
    yield
    for function in looked:
        function.cache_clear()


@pytest.fixture
def broken(monkeypatch):
    """Make `availability` find numba-cuda, and a driver with this problem."""

    def make(problem):
        fake = ModuleType("fastopt.executors.cuda.device")
        fake.problem = lambda: problem
        fake.load_compiler = lambda: None
        fake.facts = lambda: "a GPU"
        monkeypatch.setattr(availability, "find_spec", lambda name: name)
        monkeypatch.setitem(sys.modules, fake.__name__, fake)
        monkeypatch.setattr("fastopt.executors.cuda.device", fake, raising=False)

    return make


def without_package(monkeypatch):
    monkeypatch.setattr(availability, "find_spec", lambda name: None)
    monkeypatch.setattr(numba.config, "ENABLE_CUDASIM", 0)


def test_package(monkeypatch):
    without_package(monkeypatch)
    words = r"numba-cuda is not installed: pip install 'numba-cuda\[cu13\]' \(or 'numba-cuda\[cu12\]'"
    with pytest.raises(RuntimeError, match=words):
        fastopt.SGD(OnDevice())
    with pytest.raises(RuntimeError, match=words):
        fastopt.global_norm([OnDevice()])
    w = np.ones(3, np.float32)
    with pytest.raises(RuntimeError, match=words):
        fastopt.SGD(w, executor="cuda")
    opt = fastopt.SGD(w, lr=0.5)
    opt.step(np.ones(3, np.float32))
    assert w.tolist() == [0.5] * 3


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        ("CUDA driver library cannot be found.", ["no CUDA driver", "install NVIDIA's driver"]),
        ("Call to cuInit results in CUDA_ERROR_NO_DEVICE", ["no CUDA device", "CUDA_VISIBLE_DEVICES"]),
        ("CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", ["does not work", "MISMATCH", "nvidia-smi"]),
    ],
)
def test_driver_and_device(problem, words, broken):
    broken(problem)
    with pytest.raises(RuntimeError) as caught:
        fastopt.SGD(OnDevice())
    assert all(word in str(caught.value) for word in words), caught.value
    assert availability.describe().startswith("not available: ")


def test_info(broken, monkeypatch):
    broken(None)
    assert availability.describe() == "a GPU"
    without_package(monkeypatch)
    availability.missing.cache_clear()
    assert "numba-cuda is not installed" in system.facts()["CUDA"]


@needs_jit
def test_arrays_in_memory_do_not_import_cuda():
    import subprocess

    code = (
        "import sys, numpy as np, fastopt\n"
        "w = np.ones(3); fastopt.RMSProp(w).step(np.ones(3)); fastopt.global_norm(w)\n"
        "assert not [name for name in sys.modules if name.startswith(('numba.cuda', 'numba_cuda'))]\n"
        "assert not [name for name in sys.modules if name.startswith('fastopt.executors.cuda.d')]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=LIMIT)
