"""Sums over all elements and statistics in steps with sparse gradients, against own formulas."""

from __future__ import annotations

import copy
import math
from itertools import product
from typing import Any

import numpy as np
import pytest
import scipy.sparse

import fastopt
from fastopt import chain
from fastopt import transforms as t
from tests.sparse_sums import LR, STATS, damp, gradient, run, start
from tests.subprocesses import needs_jit
from tests.support import COMPILED, EXECUTORS, assert_same_bits, compiled_suite_only

modes = pytest.mark.parametrize("mode", ["exact", "lazy"])
executors = pytest.mark.parametrize("executor", EXECUTORS)
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "clip": {"clip_norm": 2.0, "skip_nonfinite": True},
    "clear": {"zero_grad": True},
    "per array": {"per_array": True},
}


@modes
@executors
@pytest.mark.parametrize("name", OPTIONS)
def test_one_array_in_every_order(name: str, mode: str, executor: str) -> None:
    # A dense gradient has two blocks of a sum, and each of its rows one; then a row has two.
    for width in (3, 4000, 8200) if executor != "reference" and COMPILED else (3,):
        orders = product(["dense", "sparse"], repeat=4 if width == 3 else 2)
        for order in orders:
            run([(kind,) for kind in (*order, "sparse")], mode, executor, (width,), **OPTIONS[name])


@compiled_suite_only
@modes
@pytest.mark.parametrize("name", OPTIONS)
def test_two_arrays_in_every_order(name: str, mode: str) -> None:
    kinds = [pair for pair in product(["dense", "sparse", None], repeat=2) if any(pair)]
    for order in product(kinds, repeat=2):
        whole = (("sparse", "sparse"), *order, ("sparse", "dense"))
        run(whole, mode, "serial", (3, 5), **OPTIONS[name])


def rows_and_dense(rng: Any, dtype: Any) -> list[Any]:
    """Gradients of a matrix with wide rows, of one with narrow ones, and of a vector."""
    rows = rng.permutation(40)[:9]
    narrow = scipy.sparse.coo_array(
        (rng.normal(size=30).astype(dtype), (rng.integers(0, 60, 30), rng.integers(0, 7, 30))),
        shape=(60, 7),
    )
    return [
        (np.append(rows, rows[:3]), rng.normal(size=(12, 900)).astype(dtype)),
        narrow.tocsr(),
        rng.normal(size=9000).astype(dtype),
    ]


@needs_jit
@modes
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("per_array", [False, True])
def test_the_bits_are_the_same_everywhere(mode: str, dtype: Any, per_array: bool) -> None:
    results = []
    for executor in EXECUTORS:
        rng = np.random.default_rng(1)
        params = [rng.normal(size=shape).astype(dtype) for shape in ((40, 900), (60, 7), (9000,))]
        parts = chain(damp(per_array=per_array), t.scale_by_learning_rate(LR))
        opt = fastopt.Optimizer(params, parts, sparse=mode, stats=STATS, executor=executor)
        for _ in range(3):
            opt.step(rows_and_dense(rng, dtype))
        opt.catch_up()
        saved = opt.state_dict()
        results.append(
            (params, opt.state["average"], repr((opt.stats, saved["carried"], saved["sums"])))
        )
    for params, averages, numbers in results[1:]:
        assert numbers == results[0][2]
        for one, other in zip([*params, *averages], [*results[0][0], *results[0][1]], strict=True):
            assert_same_bits(one, other)


@executors
def test_each_touched_row_counts_as_an_array(executor: str) -> None:
    """So sums have the bits of a step of these rows as arrays of a list, in the order of the rows."""
    rng = np.random.default_rng(2)
    table, rows = rng.normal(size=(12, 70)), np.array([7, 2, 11, 3, 5])
    values = rng.normal(size=(5, 70))
    parts = chain(damp(), t.scale_by_learning_rate(LR))
    how = {"stats": STATS, "executor": executor}
    each = [table[row].copy() for row in np.sort(rows)]
    opt = fastopt.Optimizer(table, parts, sparse="lazy", **how)
    other = fastopt.Optimizer(each, parts, **how)
    for _ in range(3):
        opt.step((rows, values))
        other.step(list(values[np.argsort(rows)]))
        one, two = opt.state_dict(), other.state_dict()
        assert one["carried"] == two["carried"]
        assert opt.stats["grad_norm"] == other.stats["grad_norm"]
        for row, array in zip(np.sort(rows), each, strict=True):
            assert_same_bits(table[row], array)


@modes
@executors
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_statistics_leave_the_bits_of_a_step_alone(mode: str, executor: str, dtype: Any) -> None:
    rng, finals = np.random.default_rng(3), []
    start, orders = rng.normal(size=(30, 70)).astype(dtype), []
    for _ in range(4):
        rows = rng.integers(0, 30, 6)
        orders.append((rows, rng.normal(size=(6, 70)).astype(dtype)))
    names = "grad_rms", "update_norm", "clipped_share"
    rounded = {"stochastic_rounding": True} if dtype == np.float16 and mode == "lazy" else {}
    for stats in ((), names):
        w = start.copy()
        how = {"sparse": mode, "stats": stats, "executor": executor, **rounded}
        opt = fastopt.RMSProp(w, lr=0.01, clip_value=1.0, **how)
        for rows, values in orders:
            opt.step((rows, values.copy()))
        finals.append((w, opt.state["square_avg"]))
    for one, other in zip(*finals, strict=True):
        assert_same_bits(one, other)
    whole = np.zeros(start.shape)
    np.add.at(whole, orders[-1][0], orders[-1][1].astype(np.float64))
    assert math.isclose(opt.stats["grad_rms"], np.sqrt((whole**2).mean()), rel_tol=1e-3)
    assert math.isclose(opt.stats["clipped_share"], (abs(whole) > 1).mean(), rel_tol=1e-9)


@modes
@pytest.mark.parametrize("how", ["load", "copy"])
def test_a_resumed_run_has_the_same_bits(tmp_path: Any, mode: str, how: str) -> None:
    def fresh() -> tuple[list[np.ndarray], Any]:
        params = start((3, 5))
        parts = chain(damp(), t.scale_by_learning_rate(LR))
        return params, fastopt.Optimizer(params, parts, sparse=mode, stats=STATS)

    kinds = [("sparse", "dense"), ("sparse", None), ("dense", "sparse"), ("sparse", "sparse")]
    params, opt = fresh()
    for number in range(len(kinds) + 4):
        if number == len(kinds):
            if how == "copy":
                resumed = copy.deepcopy(opt)
                others = resumed.params
            else:
                opt.save(tmp_path / "run.npz")
                others, resumed = fresh()
                for one, other in zip(params, others, strict=True):
                    other[:] = one
                resumed.load(tmp_path / "run.npz")
        grads = [gradient(k, p, number) for k, p in zip(kinds[number % 4], params, strict=True)]
        opt.step(copy.deepcopy(grads))
        if number >= len(kinds):
            resumed.step(copy.deepcopy(grads))
            assert opt.stats == resumed.stats
            assert opt.state_dict()["sums"] == resumed.state_dict()["sums"]
            assert opt.state_dict()["carried"] == resumed.state_dict()["carried"]
            for one, other in zip(params, others, strict=True):
                assert_same_bits(one, other)


@modes
@executors
def test_a_skipped_step_changes_nothing(mode: str, executor: str) -> None:
    w = np.ones((4, 3))
    parts = chain(damp(), t.skip_nonfinite(), t.scale_by_learning_rate(LR))
    opt = fastopt.Optimizer(w, parts, sparse=mode, executor=executor, stats=STATS)
    opt.step((np.array([1, 2]), np.ones((2, 3))))
    previous = w.tobytes(), repr(opt.stats), repr(opt.state_dict()["carried"])
    opt.step((np.array([0]), np.full((1, 3), np.nan)))
    assert (w.tobytes(), repr(opt.stats), repr(opt.state_dict()["carried"])) == previous
    assert opt.step_count == 1
    opt.step((np.array([0]), np.ones((1, 3))))
    assert np.isfinite(w).all()
    assert w[0, 0] < 1


@modes
def test_the_global_norm_in_a_chain_is_that_of_dense_steps(mode: str) -> None:
    """What the option `clip_norm` does; behind the rates of RMSProp it sees caught up averages."""
    w, dense = (np.linspace(-1, 1, 12).reshape(4, 3) for _ in range(2))
    parts = chain(t.scale_by_rms(beta=0.5, eps=0.01), t.clip_by_global_norm(1.0))
    opt = fastopt.Optimizer(w, parts, sparse=mode)
    average = np.zeros((4, 3))
    for number in range(5):
        rows, values = gradient("sparse", w, number)
        g = np.zeros((4, 3))
        np.add.at(g, rows, values)
        touched = np.unique(rows) if mode == "lazy" else np.arange(4)
        average[touched] = 0.5 * average[touched] + 0.5 * g[touched] ** 2
        u = g / np.sqrt(average + 0.01)
        norm = np.sqrt((u * u).sum())
        dense -= u / norm if norm > 1 else u
        opt.step((rows, values))
        assert np.allclose(w, dense, rtol=1e-12, atol=1e-14)
