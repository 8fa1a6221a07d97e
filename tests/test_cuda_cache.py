"""CUDA code on disk: found again in a new process, never stale, never in the way."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
from importlib.metadata import distributions
from pathlib import Path

import pytest

from fastopt.kernels import disk_cache, trusted_files
from fastopt.kernels.kernel_identity import Identity
from tests.device import EMULATED, SIMULATED, skip_without_device
from tests.subprocesses import finish, run, script, start

skip_without_device()
if SIMULATED:
    pytest.skip("CUDA: the simulator compiles nothing", allow_module_level=True)

from fastopt.executors.cuda import device, programs  # noqa: E402

# Whether numba-cuda compiled something, or loaded what it takes to.
COUNT = """
import sys
from numba import cuda
from numba.cuda.core import event
passes = event.RecordingListener()
event.register("numba-cuda:run_pass", passes)
def compiled():
    assert bool(passes.buffer) == ("numba.cuda.np.arraymath" in sys.modules)
    return bool(passes.buffer)
"""

# Several kernels: a chain with codes, one array and two, of several formats; the norm and the decision.
STEPS = script(
    COUNT,
    """
import hashlib
import numpy as np, fastopt
sums = hashlib.sha256()
for shape in (300,), (300, 77):
    w, g = ([cuda.to_device(np.linspace(-1, 2, n, dtype=np.float32)) for n in shape] for _ in range(2))
    opt = fastopt.Adam(w, lr=0.1, state_dtype="8bit", clip_norm=1.0, stochastic_rounding=True)
    opt.step(g)
    for array in w:
        sums.update(array.copy_to_host().tobytes())
print(sums.hexdigest()[:8], compiled())
""",
)

# The least that is compiled, into one file, which the user makes.
SCALED = script(
    COUNT,
    """
import numpy as np, fastopt

FACTOR = 0.5
DEVICE_ARRAY = cuda.to_device(np.ones(1, np.float32))

def helper(x):
    return FACTOR * x

def scaled(update, param, state, hyper):
    return helper(update), state

w = cuda.to_device(np.zeros(1, np.float32))
fastopt.Optimizer(w, fastopt.Transform(scaled)).step(cuda.to_device(np.ones(1, np.float32)))
print(float(w.copy_to_host()[0]), compiled())
""",
)
COMPILED, LOADED = "-0.5 True", "-0.5 False"
VARIABLES = {"NUMBA_CUDA_LOW_OCCUPANCY_WARNINGS": "0"} if EMULATED else {}


def run_on_device(code: str, cache: Path | str, **variables: str) -> str:
    return run(code, cache, **on_device(), **variables)


def on_device() -> dict[str, str]:
    here = str(Path(__file__).parents[1])
    paths = [here, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(paths), **VARIABLES}


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that holds the user's transform; to be copied, not written to."""
    folder = tmp_path_factory.mktemp("cache")
    assert run_on_device(SCALED, folder) == COMPILED
    return folder


@pytest.fixture
def cache(warm: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(warm, tmp_path / "cache"))


def files(folder: Path) -> dict[str, int]:
    files = folder.rglob("cuda-*")
    return {path.name: path.stat().st_mtime_ns for path in files}


def test_second_process_compiles_nothing(tmp_path: Path) -> None:
    bits, compiled = run_on_device(STEPS, tmp_path).split()
    known = files(tmp_path)
    assert compiled == "True"
    assert len(known) == 5  # the step and the squares, each of one array and of many; the decision
    assert run_on_device(STEPS, tmp_path) == f"{bits} False"
    assert files(tmp_path) == known


@pytest.mark.parametrize(
    ("old", "new", "result"),
    [("0.5", "1.5", -1.5), ("FACTOR * x", "FACTOR + x", -1.5)],
    ids=["global", "helper"],
)
def test_misses_after_an_edit(cache: Path, old: str, new: str, result: float) -> None:
    known = files(cache)
    edited = SCALED.replace(old, new)
    assert edited != SCALED
    assert run_on_device(edited, cache) == f"{result} True"
    assert files(cache).keys() == known.keys()
    assert run_on_device(SCALED, cache) == LOADED  # the file keeps the newest few


def test_what_cannot_be_identified_is_not_kept(tmp_path: Path) -> None:
    """A device array among the globals has another address in every process."""
    code = SCALED.replace("FACTOR * x", "DEVICE_ARRAY[0] * FACTOR * x")
    for _ in range(2):
        assert run_on_device(code, tmp_path) == COMPILED
    assert files(tmp_path) == {}


@pytest.mark.skipif(not EMULATED, reason="the emulated GPU alone can be of another architecture")
def test_each_architecture_has_code_of_its_own(cache: Path) -> None:
    for result in COMPILED, LOADED:
        assert run_on_device(SCALED, cache, GPU_EMULATOR_CC="90") == result
    assert run_on_device(SCALED, cache) == LOADED


def test_cache_can_be_turned_off_and_the_folder_unwritable(tmp_path: Path) -> None:
    (tmp_path / "a file").touch()
    assert run_on_device(SCALED, tmp_path, FASTOPT_CACHE="0") == COMPILED
    assert run_on_device(SCALED, tmp_path / "a file") == COMPILED
    assert files(tmp_path) == {}


def test_processes_that_start_at_once(tmp_path: Path) -> None:
    both = [start(SCALED, tmp_path, **on_device()) for _ in range(2)]
    assert {finish(process) for process in both} <= {COMPILED, LOADED}
    assert run_on_device(SCALED, tmp_path) == LOADED
    assert len(files(tmp_path)) == 1


# What is in a file


def kernel(address, index):
    pass


@pytest.fixture
def compiles(tmp_path, monkeypatch):
    """``compiles()``: get a small kernel ready to be launched; whether it had to be compiled."""
    monkeypatch.setenv("FASTOPT_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("FASTOPT_CACHE", raising=False)

    def get(**options):
        calls = []

        def make():
            calls.append(kernel)
            return kernel

        known, arguments = Identity("small", "key", True), [device.types.int64] * 2
        program = programs.Program(known, make, arguments, device.architecture(), **options)
        program.load()
        assert program.handle()
        return bool(calls)

    assert get()
    assert not get()
    return get


def with_payload(raw, change):
    """The file with other code in the place of its own."""
    ((stamp, payload),) = pickle.loads(raw[disk_cache.CHECKSUM :])
    content = pickle.dumps([(stamp, pickle.dumps(change(device.Code(*pickle.loads(payload)))))])
    return hashlib.sha256(content).digest() + content


NO_PTX = b".version 1.0\0"
DAMAGES = {
    "empty": lambda raw: b"",
    "a wrong bit": lambda raw: raw[:-9] + bytes([raw[-9] ^ 1]) + raw[-8:],
    "no code": lambda raw: with_payload(raw, lambda code: None),
    "too few": lambda raw: with_payload(raw, lambda code: tuple(code)[:2]),
    "text": lambda raw: with_payload(raw, lambda code: tuple(code._replace(machine="text"))),
    "another kernel": lambda raw: with_payload(raw, lambda code: tuple(code._replace(entry="other"))),
    "refused": lambda raw: with_payload(raw, lambda code: (code.entry, b"\x7fELF", NO_PTX)),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_files_are_replaced(damage, compiles, tmp_path):
    (path,) = tmp_path.rglob("cuda-small*.bin")
    path.write_bytes(damage(path.read_bytes()))
    assert compiles()
    assert not compiles()


@pytest.mark.skipif(os.name != "posix", reason="owners and modes are POSIX's")
def test_what_others_can_write_to_is_not_run(compiles, tmp_path, monkeypatch):
    monkeypatch.setattr(trusted_files, "_warned", False)
    (path,) = tmp_path.rglob("cuda-small*.bin")
    path.chmod(0o666)
    with pytest.warns(RuntimeWarning, match="others may write to it"):
        assert compiles()
    assert not compiles()  # a new file


def test_ptx_is_loaded_where_the_driver_refuses_machine_code(compiles, tmp_path):
    (path,) = tmp_path.rglob("cuda-small*.bin")
    raw = path.read_bytes()
    path.write_bytes(with_payload(raw, lambda code: tuple(code._replace(machine=b"\x7fELF of others"))))
    assert not compiles()


def test_other_versions_and_options_have_code_of_their_own(compiles, monkeypatch):
    monkeypatch.setattr(programs, "COMPILERS", ("numba",))
    assert compiles()
    assert compiles(fast=True)
    assert not compiles()


def test_all_versions_that_compile_are_known():
    """Each package that numba-cuda takes its compiler from, under one of its names."""
    assert "numba-cuda" in programs.COMPILERS
    installed = {package.metadata["Name"] for package in distributions()}
    assert installed & {name for name in programs.COMPILERS if "nvjitlink" in name}
