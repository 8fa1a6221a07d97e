"""What a call costs besides the mathematics: no memory, no compilation, no import before its time."""

from __future__ import annotations

import gc
import re
import tracemalloc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numba import int64
from numba.core import event

import fastopt
from fastopt.executors import dispatch, threads
from fastopt.executors.cpu import drivers
from fastopt.kernels.compiler import compile_function, helper
from fastopt.steps.stepper import stepper_of
from tests.subprocesses import needs_jit, run, script

EXECUTORS = ["serial", "parallel"]
LARGE = dispatch.AUTO_THRESHOLD + 3


@pytest.fixture
def no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not in memory must be compiled."""
    monkeypatch.setenv("FASTOPT_CACHE", "0")


@contextmanager
def no_compilation() -> Iterator[None]:
    """Whatever Numba compiles, it runs passes."""
    with event.install_recorder("numba:run_pass") as passes:
        yield
    assert not passes.buffer


def buffers(size: int, dtype: type = np.float32) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros(size, dtype), np.ones(size, dtype)


@needs_jit
@pytest.mark.parametrize("executor", EXECUTORS)
def test_steps_allocate_nothing(executor: str) -> None:
    """Far less than an array of the buffer's size at any moment, and nothing that stays."""
    w, g = buffers(LARGE)
    opt = fastopt.RMSProp(w, momentum=0.9, weight_decay=0.1, executor=executor)
    opt.step(g)
    tracemalloc.start()
    try:
        for _ in range(300):  # integers that grow past CPython's small ones, free lists
            opt.step(g)
        previous, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for _ in range(1000):
            opt.step(g)
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - previous < 200
    assert peak - previous < 2000


def test_tracemalloc_sees_arrays() -> None:
    """What the test before relies on."""
    tracemalloc.start()
    try:
        array = np.empty(LARGE, np.float32)
        current, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert current >= array.nbytes


@needs_jit
@pytest.mark.usefixtures("no_disk")
@pytest.mark.parametrize("executor", EXECUTORS)
def test_nothing_is_compiled_twice(executor: str) -> None:
    settings: dict[str, Any] = {"centered": True, "executor": executor}
    w, g = buffers(100)
    opt = fastopt.RMSProp(w, **settings)
    opt.step(g)
    opt.step(g, grad_scale=2.0)  # the factor is compiled in when it is first asked for
    with no_compilation():
        opt.lr, opt.beta, opt.eps = 0.5, 0.5, 1e-3
        opt.step(g, grad_scale=2.0)
        for shape in (), (0,), (7,), (3, 5), (2, 3, 4), (LARGE,):
            w, g = np.zeros(shape, np.float32), np.ones(shape, np.float32)
            fastopt.RMSProp(w, lr=0.1, **settings).step(g)
            fastopt.RMSProp([w.copy(), {"b": w}], lr=lambda step: 0.1, **settings).step([g, {"b": g}])
        fastopt.Optimizer(w, opt.chain, executor=executor).step(g)
        fastopt.rmsprop_step(w, g, square_avg=np.zeros_like(w), grad_avg=np.zeros_like(w), **settings)


@needs_jit
@pytest.mark.usefixtures("no_disk")
def test_a_new_chain_is_compiled() -> None:
    """What the test before relies on."""

    def unheard_of(update: Any, param: Any, state: Any, hyper: Any) -> Any:
        return 0.123 * update, state

    w, _ = buffers(4)
    with pytest.raises(AssertionError), no_compilation():
        fastopt.Optimizer(w, fastopt.Transform(unheard_of))


def test_import_is_light(tmp_path: Path) -> None:
    code = """
    import sys
    import fastopt
    names = [name for name in sys.modules if name.startswith("fastopt.")]
    assert not [name for name in names if "codecs" in name or "device" in name], names
    assert set(fastopt.__all__) <= set(dir(fastopt))
    print({"numba", "llvmlite", "scipy"} & set(sys.modules))
    fastopt.chain(fastopt.transforms.scale(2.0))
    fastopt.flatten([])
    fastopt.empty(10)
    print({"numba", "llvmlite", "scipy"} & set(sys.modules))
    """
    assert run(script(code), tmp_path).splitlines() == ["set()", "set()"]


@needs_jit
def test_steps_do_not_import_scipy(tmp_path: Path) -> None:
    """Numba does so for the first function that it compiles, and for functions that call BLAS."""
    steps = f"""
    import sys
    import numba, numpy as np, fastopt
    for size in 10, {LARGE}:
        fastopt.RMSProp(np.zeros(size, np.float32)).step(np.ones(size, np.float32))
    print("scipy.linalg" in sys.modules)
    """
    product = """
    print(numba.njit(lambda a: np.dot(a, a))(np.eye(2))[0, 0], "scipy.linalg" in sys.modules)
    """
    assert run(script(steps + product), tmp_path).splitlines() == ["False", "1.0 True"]
    assert run(script(steps), tmp_path) == "False"


@needs_jit
def test_helpers_have_no_machine_code_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would take a tenth of the time of a first step."""
    monkeypatch.setenv("FASTOPT_CACHE", "0")  # from disk it would come without its helpers
    twice = helper(lambda x: 2 * x)
    four_times = compile_function(lambda x: twice(twice(x)), int64(int64), "four-times")
    assert four_times(3) == 12
    (compiled,) = twice.overloads.values()
    assert compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name) == 0


@needs_jit
@pytest.mark.usefixtures("no_disk")
def test_loops_on_all_cores_are_no_parfors() -> None:
    """Numba compiles the body of a `prange` apart, which took a fifth of a first step."""
    threads.layer()
    with event.install_recorder("numba:run_pass") as passes:
        drivers.parallel.__wrapped__()
    names = [each.data["name"].split()[0] for _, each in passes.buffer]
    assert "native_lowering" in names
    assert not [name for name in names if name in ("parfor_pass", "native_parfor_lowering")]


def test_names() -> None:
    for name in fastopt.__all__:
        assert name in dir(fastopt)
        assert getattr(fastopt, name) is not None
    assert sorted(fastopt.__all__) == sorted(fastopt._HOMES)
    source = Path(fastopt.__file__).read_text("utf-8")
    name = r"(?:from .* import \w+ as )?([^_\W]\w*)(?:: _OneShot)?"  # type checkers read no tables
    typed = set(re.findall(rf"^    {name}$", source, re.MULTILINE))
    assert typed == set(fastopt.__all__)
    with pytest.raises(AttributeError, match="no attribute 'RMSprop'"):
        fastopt.RMSprop  # noqa: B018
    with pytest.raises(ImportError, match="RMSprop"):
        from fastopt import RMSprop  # noqa: F401


@pytest.mark.parametrize("executor", [*EXECUTORS, "reference"])
@pytest.mark.parametrize("structure", ["array", "list", "dict"])
def test_gradients_are_not_kept_alive(executor: str, structure: str) -> None:
    wrap = {"array": lambda x: x, "list": lambda x: [x], "dict": lambda x: {"a": x}}[structure]
    opt = fastopt.RMSProp(wrap(np.zeros(8, np.float32)), executor=executor)
    for _ in range(3):
        g = np.ones(8, np.float32)
        alive = weakref.ref(g)
        opt.step(wrap(g))
        del g
        gc.collect(0)  # the youngest: all would take long among so many
        assert alive() is None


def test_attributes_are_read_without_a_dict() -> None:
    """CPython keeps those of an object within it if there are few; a step of 16 elements reads ten."""
    assert len(vars(stepper_of(fastopt.RMSProp(np.ones(3)))())) < 30


def test_attributes_of_a_stepper_are_found_fast():
    """Python shares the keys of up to 29 attributes between objects; with 30 a step took 5 % longer."""
    assert len(vars(stepper_of(fastopt.SGD(np.ones(3)))())) < 30
