"""An optimizer runs the code that it was made with, and a new one the code of its own time."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastopt
from fastopt.executors import reference
from fastopt.executors.cpu import kernels
from tests.subprocesses import COUNT_PASSES, needs_jit, run, script

FACTOR = 1.0


def scaled(update, param, state, hyper):
    return FACTOR * update, state


def helper(x):
    return x


def helped(update, param, state, hyper):
    return helper(update), state


def closed_over() -> tuple[Any, Any]:
    factor = 1.0

    def nonlocal_update(update, param, state, hyper):
        return factor * update, state

    def change() -> None:
        nonlocal factor
        factor = 3.0

    return nonlocal_update, change


def change_global() -> None:
    global FACTOR
    FACTOR = 3.0


def change_helper() -> None:
    global helper

    def helper(x):
        return x * 3.0


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    original = FACTOR, helper
    yield
    globals()["FACTOR"], globals()["helper"] = original


@pytest.fixture
def moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, Any]]:
    """A module with a name like NumPy's, and its reload."""
    file = tmp_path / "numpy_moves.py"
    file.write_text("def move(x):\n    return x\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    module = importlib.import_module("numpy_moves")

    def moved(update, param, state, hyper):
        return module.move(update), state

    def change() -> None:
        file.write_text("def move(x):\n    return x * 3.0\n")
        importlib.invalidate_caches()
        importlib.reload(module)

    yield moved, change
    del sys.modules["numpy_moves"]


def array_of_ones() -> tuple[Any, Any]:
    table = np.ones(3, np.float32)

    def indexed(update, param, state, hyper):
        return table[1] * update, state

    def change() -> None:
        table[1] = 3.0

    return indexed, change


WAYS = {
    "global": lambda: (scaled, change_global),
    "helper": lambda: (helped, change_helper),
    "nonlocal": closed_over,
    "array": array_of_ones,
}


def check(executor: str, update: Any, change: Any) -> None:
    def stepped(opt: Any, dtype: Any = np.float32) -> float:
        previous = float(opt.params[0])
        opt.step(np.ones(2, dtype))
        return previous - float(opt.params[0])

    transform = fastopt.Transform(update)
    old = fastopt.Optimizer(np.zeros(2, np.float32), transform, executor=executor)
    assert stepped(old) == 1.0
    change()
    new = fastopt.Optimizer(np.zeros(2, np.float32), transform, executor=executor)
    assert stepped(new) == 3.0
    for dtype in np.float16, np.float32:  # the first is compiled now
        assert stepped(old, dtype) == 1.0
        assert stepped(new, dtype) == 3.0


@pytest.mark.parametrize("executor", ["serial", "reference"])
@pytest.mark.parametrize("way", WAYS)
def test_changes_reach_new_optimizers_only(way: str, executor: str) -> None:
    check(executor, *WAYS[way]())


@pytest.mark.parametrize("executor", ["serial", "reference"])
def test_reloaded_module(moves: tuple[Any, Any], executor: str) -> None:
    check(executor, *moves)


def linear(update, param, state, hyper):
    (average,) = state
    average = 0.5 * FACTOR * average + update
    return average, (average,)


def bound(new, param, state, hyper):
    return max(new, -FACTOR), state


CHAINS = {
    "linear": fastopt.Transform(linear, state={"average": 0.0}, no_gradient=linear),
    "once": fastopt.Transform(bound, after=True, no_gradient="once"),
}


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("executor", ["serial", "reference"])
def test_rows_catch_up_by_the_code_of_the_optimizer(executor: str, chain: str) -> None:
    """What happens without a gradient is old code too."""

    def stepped(change: Any) -> Any:
        w = np.array([[0.0], [-4.0], [-2.0]])
        opt = fastopt.Optimizer(w, CHAINS[chain], sparse="exact", executor=executor)
        opt.step((np.array([1]), np.full((1, 1), 0.25)))
        change()
        for _ in range(3):
            opt.step((np.array([0]), np.zeros((1, 1))))
        opt.catch_up()
        return w[:, 0].tolist()

    once = chain == "once"
    assert stepped(change_global) == ([0.0, -1.0, -1.0] if once else [0.0, -4.0 - 0.25 * 1.875, -2.0])
    new = 0.25 * (1.0 + 1.5 + 1.5**2 + 1.5**3)
    assert stepped(lambda: None) == ([0.0, -3.0, -2.0] if once else [0.0, -4.0 - new, -2.0])


@needs_jit
def test_equal_content_shares_one_kernel() -> None:
    """Closures made anew with the same values leave nothing behind."""

    def offset(amount: float) -> Any:
        def offset_update(update, param, state, hyper):
            return update + amount, state

        return fastopt.Transform(offset_update)

    def make(amount: float) -> None:
        for executor in "serial", "reference":
            fastopt.Optimizer(np.zeros(1), offset(amount), executor=executor).step(np.ones(1))

    caches = kernels.kernel, reference.scalar_functions, reference.probe
    make(0.5)
    sizes = [cache.cache_info().currsize for cache in caches]
    for _ in range(20):
        make(0.5)
    assert [cache.cache_info().currsize for cache in caches] == sizes
    make(1.5)
    assert [cache.cache_info().currsize for cache in caches] != sizes


def test_the_reference_keeps_objects_of_any_kind() -> None:
    """For a print or a list that collects: they are those of the caller, not copies."""
    seen: list[float] = []

    def noted(update, param, state, hyper):
        seen.append(float(update))
        return update, state

    opt = fastopt.Optimizer(np.zeros(2), fastopt.Transform(noted), executor="reference")
    seen.clear()
    opt.step(np.array([1.0, 2.0]))
    assert seen == [1.0, 2.0]


def test_keyword_defaults_and_literals_of_inner_functions_take_the_dtype() -> None:
    def inner(update, param, state, hyper):
        def more(x):
            return 0.1 * x

        return more(update), state

    for executor in "serial", "reference":
        w = np.zeros(1, np.float32)
        fastopt.Optimizer(w, fastopt.Transform(inner), executor=executor).step(np.ones(1, np.float32))
        assert w[0] == -np.float32(0.1)


MINE = """
import collections, enum
import numba, numpy as np, fastopt, numpy_moves
Pair = collections.namedtuple("Pair", "a b")
class Level(enum.IntEnum):
    HIGH = 1
SHORT = np.zeros(2000, np.float32)
SHORT[1000] = 1
LONG = np.zeros(300_000, np.float32)
LONG[1000] = 1
PAIR = Pair(1, 2)

@numba.vectorize
def vectorized(x):
    return x * 1.0

@numba.cfunc("float64(float64)")
def for_c(x):
    return x * 1.0

def of_short(update, param, state, hyper):
    return SHORT[1000] * update, state

def of_long(update, param, state, hyper):
    return LONG[1000] * update, state

def of_level(update, param, state, hyper):
    return update * np.float32(Level.HIGH.value), state

def of_pair(update, param, state, hyper):
    return update * np.float32(PAIR.a), state

def of_vectorized(update, param, state, hyper):
    return vectorized(update), state

def of_c(update, param, state, hyper):
    return for_c(update), state

def moved(update, param, state, hyper):
    return numpy_moves.move(update), state
"""
MOVES = """
def move(x):
    return x * 1.0
"""
RUN = script(
    COUNT_PASSES,
    """
import sys
sys.path.insert(0, ".")
sys.dont_write_bytecode = True
import numpy as np, fastopt, mine
fastopt.RMSProp(np.zeros(1, np.float32), executor="serial").step(np.zeros(1, np.float32))
for name in "of_short", "of_level", "of_pair", "of_vectorized", "of_c", "moved", "of_long":
    _passes.buffer.clear()
    w = np.zeros(1, np.float32)
    transform = fastopt.Transform(getattr(mine, name))
    fastopt.Optimizer(w, transform, executor="serial").step(np.ones(1, np.float32))
    print(float(w[0]), compiled(), end=" ")
""",
)


@needs_jit
def test_values_in_other_processes(tmp_path: Path) -> None:
    """Found again or made anew, and never old; what has addresses compiled in is not kept."""
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "numpy_moves.py").write_text(MOVES)
    cold = "-1.0 True " * 7
    assert run(RUN, tmp_path / "cache", cwd=tmp_path) == cold.strip()
    assert run(RUN, tmp_path / "cache", cwd=tmp_path) == "-1.0 False " * 6 + "-1.0 True"
    edits = ("HIGH = 1", "HIGH = 3"), ("[1000] = 1", "[1000] = 3"), ("Pair(1,", "Pair(3,")
    text = MINE.replace("x * 1.0", "x * 3.0")
    for old, new in edits:
        text = text.replace(old, new)
    (tmp_path / "mine.py").write_text(text)
    (tmp_path / "numpy_moves.py").write_text(MOVES.replace("1.0", "3.0"))
    assert run(RUN, tmp_path / "cache", cwd=tmp_path) == cold.replace("1", "3").strip()
