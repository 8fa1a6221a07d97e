"""Arrays of subclasses whose methods give something else than those of NumPy's arrays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastopt
from tests.support import COMPILED, EXECUTORS, assert_same_bits

# More rows and elements than a block of sums, and in the compiled suite than are encoded at a time.
SHAPE = (2, 35_000 if COMPILED else 4_500)


class Flattened(np.ndarray):
    """Like a matrix of NumPy: it keeps two dimensions."""

    def reshape(self, *shape: Any, **order: Any) -> Any:
        flat = super().reshape(*shape, **order)
        return flat[np.newaxis] if flat.ndim == 1 else flat


compiled = pytest.mark.parametrize("executor", [each for each in EXECUTORS if each != "reference"])
kinds = pytest.mark.parametrize("kind", [np.matrix, Flattened])


def numbers(seed: int, dtype: Any = np.float32, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def both(make: Callable[[Any], Any], kind: type) -> tuple[Any, Any]:
    """An optimizer of an array, and one of an array of another class."""
    return make(numbers(0)), make(numbers(0).view(kind))


@kinds
@compiled
def test_steps_and_states(kind: type, executor: str) -> None:
    options = {"average_decay": 0.5, "clip_norm": 1.0, "stats": ["grad_norm"], "executor": executor}
    plain, other = both(lambda w: fastopt.Adam(w, **options), kind)
    for seed in 1, 2:
        plain.step(numbers(seed))
        other.step(numbers(seed).view(kind))
    assert isinstance(other.params, kind)
    assert_same_bits(np.asarray(other.params), plain.params)
    assert_same_bits(other.state["average"], plain.state["average"])
    assert other.last == plain.last
    assert other.stats["grad_norm"] == plain.stats["grad_norm"]


@kinds
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gradients_that_are_not_finite_are_skipped(kind: type, dtype: Any) -> None:
    g = numbers(1, dtype).view(kind)
    g[1, -1] = np.nan
    opt = fastopt.SGD(numbers(0, dtype), skip_nonfinite=True)
    opt.step(g)
    assert opt.step_count == 0
    assert opt.last.skipped


@kinds
def test_squares_that_overflow(kind: type) -> None:
    g = 1e200 * numbers(1, np.float64)
    assert fastopt.global_norm(g.view(kind)) == fastopt.global_norm(g)


@kinds
@pytest.mark.parametrize("master_bits", [None, 32])
def test_values_are_set_and_shown(kind: type, master_bits: int | None) -> None:
    dtype = np.float32 if master_bits is None else np.float16
    plain, other = (
        fastopt.SGD(np.zeros(SHAPE, dtype).view(each), master_bits=master_bits)
        for each in (np.ndarray, kind)
    )
    plain.set_params(numbers(1))
    other.set_params(numbers(1).view(kind))
    assert_same_bits(np.asarray(other.params), plain.params)
    assert_same_bits(other.decoded_params(), plain.decoded_params())


@kinds
def test_files_hold_them(kind: type, tmp_path: Path) -> None:
    plain, other = both(lambda w: fastopt.SGD(w, momentum=0.5), kind)
    other.step(numbers(1))
    other.save(tmp_path / "other", params=True)
    plain.load(tmp_path / "other")
    assert_same_bits(plain.params, np.asarray(other.params))
    plain.step(numbers(2))
    plain.save(tmp_path / "plain", params=True)
    other.load(tmp_path / "plain")
    assert_same_bits(plain.params, np.asarray(other.params))


@kinds
@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("mode", ["exact", "lazy"])
def test_rows(kind: type, executor: str, mode: str) -> None:
    options = {"sparse": mode, "momentum": 0.5, "lr": 0.1, "executor": executor}
    plain, other = (
        fastopt.SGD(numbers(0, shape=(5, 3)).view(each), **options) for each in (np.ndarray, kind)
    )
    for rows in [0, 2], [2], [4, 4], [3, 1]:
        values = numbers(len(rows), shape=(len(rows), 3))
        plain.step((np.array(rows), values))
        other.step((np.array(rows), values.view(kind)))
    plain.catch_up()
    other.catch_up()
    assert_same_bits(np.asarray(other.params), plain.params)
