"""What a call costs besides the mathematics: no memory, no compilation, no import before its time."""

from __future__ import annotations

import ctypes
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
from fastopt.arrays import object_layout
from fastopt.executors import dispatch
from fastopt.kernels.compiler import compile_function, helper
from fastopt.steps import memory_stepper
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
def test_helpers_have_no_machine_code_of_their_own() -> None:
    """It would take a tenth of the time of a first step."""
    twice = helper(lambda x: 2 * x)
    four_times = compile_function(lambda x: twice(twice(x)), int64(int64), "four-times")
    assert four_times(3) == 12
    (compiled,) = twice.overloads.values()
    assert compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name) == 0


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


def test_headers_are_readable_here() -> None:
    """Steps are only quick where they are: a new layout should be noticed."""
    assert object_layout.headers_are_readable()


def test_attributes_are_read_without_a_dict() -> None:
    """CPython keeps those of an object within it if there are few; a step of 16 elements reads ten."""
    assert len(vars(stepper_of(fastopt.RMSProp(np.ones(3)))())) < 30


@pytest.mark.parametrize("count", [1, 5, 1000])
def test_items_of_a_list_are_found(count: int) -> None:
    objects: list[Any] = []
    for number in range(count):  # lists move when they grow
        objects.append(np.zeros(number % 3))
    objects[: count // 3] = [None] * (count // 3)
    ids = (ctypes.c_ssize_t * count).from_address(object_layout.items_of(objects))
    assert list(ids) == [id(item) for item in objects]


BAD: dict[str, tuple[Any, type[Exception]]] = {
    "list": ([1.0] * 6, TypeError),
    "dtype": (np.ones((2, 3)), TypeError),
    "integers": (np.ones((2, 3), np.int32), TypeError),
    "length": (np.ones(5, np.float32), ValueError),
    "shape": (np.ones((3, 2), np.float32), ValueError),
    "dimensions": (np.ones(6, np.float32), ValueError),
    "order": (np.asfortranarray(np.ones((2, 3), np.float32)), ValueError),
    "strides": (np.ones((2, 6), np.float32)[:, ::2], ValueError),
    "alignment": (np.ones(25, np.int8)[1:].view(np.float32).reshape(2, 3), ValueError),
    "byte order": (np.ones((2, 3), ">f4" if np.little_endian else "<f4"), ValueError),
    "mask": (np.ma.masked_array(np.ones((2, 3), np.float32), mask=True), TypeError),
}


@pytest.fixture(params=[True, False], ids=["by header", "in Python"])
def by_header(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """With the check in machine code, and as on a Python whose arrays are laid out otherwise."""
    if not request.param:
        monkeypatch.setattr(memory_stepper, "headers_are_readable", lambda: False)
    return bool(request.param)


@needs_jit
@pytest.mark.parametrize("executor", EXECUTORS)
def test_steps_are_the_same_with_and_without_headers(by_header: bool, executor: str) -> None:
    rng = np.random.default_rng(0)
    params = [rng.standard_normal(shape, np.float32) for shape in ((), (5,), (3, 4), (0, 2))]
    grads = [rng.standard_normal(p.shape, np.float32) for p in params]
    expected = [p.copy() for p in params]
    opt = fastopt.RMSProp(params, lr=0.1, executor=executor)
    reference = fastopt.RMSProp(expected, lr=0.1, executor="reference")
    assert stepper_of(opt)().by_header is by_header
    for _ in range(3):
        opt.step(grads)
        reference.step(grads)
    for p, e in zip(params, expected, strict=True):
        assert p.tobytes() == e.tobytes()
    assert opt.step_count == 3


@needs_jit
@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize(("bad", "error"), BAD.values(), ids=BAD)
def test_bad_gradients_are_refused(
    by_header: bool, executor: str, bad: Any, error: type[Exception]
) -> None:
    """By the same errors, before anything is written: not even the array in front of the bad one."""
    good = np.ones((2, 3), np.float32)
    params = [np.full((2, 3), 5.0, np.float32) for _ in range(2)]
    opt = fastopt.RMSProp(params, executor=executor)
    alone = fastopt.RMSProp(params[0], executor="reference")
    with pytest.raises(error) as expected:
        alone.step(bad)
    with pytest.raises(error) as got:
        opt.step([good, bad])
    assert str(got.value).replace("grads[1]", "grads") == str(expected.value)
    assert all((p == 5.0).all() for p in params)
    assert all((v == 0.0).all() for v in opt.state["square_avg"])
    assert opt.step_count == 0
    opt.step([good, good])
    assert opt.step_count == 1
    assert params[0].tobytes() == params[1].tobytes() != np.full((2, 3), 5.0, np.float32).tobytes()


@needs_jit
@pytest.mark.parametrize("executor", EXECUTORS)
def test_overlap_is_refused(by_header: bool, executor: str) -> None:
    memory = np.zeros(24, np.float32)
    w, v = memory[4:8], memory[12:16]
    opt = fastopt.RMSProp(w, state={"square_avg": v}, executor=executor)
    for start in range(21):
        overlaps = any(first - 4 < start < first + 4 for first in (4, 12))
        if overlaps:
            with pytest.raises(ValueError, match="must not share memory"):
                opt.step(memory[start : start + 4])
        else:
            opt.step(memory[start : start + 4])
    assert not memory.any()


@needs_jit
def test_a_gradient_of_a_subclass_is_checked_again(by_header: bool) -> None:
    """The header check knows plain arrays only; Python lets through what is one in substance."""

    class Named(np.ndarray):
        pass

    w, g = buffers(6)
    opt = fastopt.RMSProp(w, lr=0.1)
    opt.step(g.view(Named))
    expected, _ = buffers(6)
    fastopt.RMSProp(expected, lr=0.1, executor="reference").step(g)
    assert w.tobytes() == expected.tobytes()
    assert opt.step_count == 1
