"""Sparse gradients: what does a step cost that touches 10,000 rows, whatever the matrix has?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any

import numpy as np
import pytest
import scipy.sparse

import fastopt
from bench.measure import timed
from bench.problems import RMSPROP, Array, available_memory

WIDTH, TOUCHED = 64, 10_000
FLOAT = np.dtype(np.float32)
BATCHES = 16  # touched rows differ from step to step, as they do in training

Pair = tuple[Array, Array]


def _pairs(rows: int, random: np.random.Generator) -> list[Pair]:
    """Gradients of rows in any order, some of them more than once."""
    values = random.standard_normal((TOUCHED, WIDTH)).astype(FLOAT)
    return [(random.integers(0, rows, TOUCHED), values) for _ in range(BATCHES)]


def _distinct(rows: int, random: np.random.Generator) -> list[Pair]:
    """Gradients of rows in order, each once."""
    values = random.standard_normal((TOUCHED, WIDTH)).astype(FLOAT)
    every = max(rows // TOUCHED, 1)
    starts = np.arange(TOUCHED) * every
    return [(starts + random.integers(0, every), values) for _ in range(BATCHES)]


def _csr(pairs: list[Pair], rows: int) -> list[Any]:
    """The same as sparse arrays."""
    matrices = []
    for touched, values in pairs:
        indptr = np.zeros(rows + 1, np.int32)
        indptr[touched + 1] = WIDTH
        columns = np.tile(np.arange(WIDTH, dtype=np.int32), TOUCHED)
        parts = values.reshape(-1), columns, np.cumsum(indptr, dtype=np.int32)
        matrices.append(scipy.sparse.csr_array(parts, shape=(rows, WIDTH)))
    return matrices


def _dense(pair: Pair, rows: int) -> Array:
    dense = np.zeros((rows, WIDTH), FLOAT)
    np.add.at(dense, *pair)
    return dense


def _check(pairs: list[Pair], rows: int) -> None:
    """Exact steps are dense ones but for rounding."""
    exact = RMSPROP.optimizer(np.ones((rows, WIDTH), FLOAT), sparse="exact")
    plain = RMSPROP.optimizer(np.ones((rows, WIDTH), FLOAT))
    for pair in pairs[:4]:
        exact.step(pair)
        plain.step(_dense(pair, rows))
    for one, other in ((exact, plain), (plain, exact)):
        np.testing.assert_allclose(one.params, other.params, rtol=2e-6)
        average = one.state["square_avg"], other.state["square_avg"]
        np.testing.assert_allclose(*average, rtol=2e-6, atol=1e-30)


def _stepper(opt: Any, gradients: list[Any]) -> Callable[[], None]:
    following: Iterator[Any] = cycle(gradients)

    def step() -> None:
        opt.step(next(following))

    for _ in gradients:  # all rows of the timed steps have been touched and are behind
        step()
    return step


@pytest.mark.parametrize(
    "rows", [10**4, 10**6, *(pytest.param(n, marks=pytest.mark.full) for n in (10**5, 10**7))]
)
def bench_sparse(rows: int, compare: Any, benchmark: Any) -> None:
    # Parameter, average and, for the dense step, the gradient.
    if available_memory() < 4 * rows * WIDTH * FLOAT.itemsize:
        pytest.skip(f"{rows} rows do not fit into memory")
    random = np.random.default_rng(0)
    pairs, distinct = _pairs(rows, random), _distinct(rows, random)
    if rows <= 10**5:
        _check(pairs, rows)
        _check(distinct, rows)
    # All in the same memory: what is in it does not matter for the time.
    param, average = (fastopt.empty((rows, WIDTH), FLOAT) for _ in range(2))
    param.fill(1.0)
    average.fill(1.0)

    def make(**sparse: str) -> Any:
        return RMSPROP.optimizer(param, state={"square_avg": average}, **sparse)

    steps = {
        "fastopt": _stepper(make(sparse="exact"), pairs),
        "exact_distinct": _stepper(make(sparse="exact"), distinct),
        "exact_csr": _stepper(make(sparse="exact"), _csr(distinct[:3], rows)),
        "lazy": _stepper(make(sparse="lazy"), pairs),
    }
    if rows <= 10**6:
        steps["dense"] = _stepper(make(), [_dense(pairs[0], rows)])
    case = {"question": "sparse", "form": "rmsprop", "dtype": "float32", "size": TOUCHED * WIDTH}
    case |= {"rows": rows, "touched": TOUCHED, "width": WIDTH, "all_threads": True}
    case |= {"threads": fastopt.get_num_threads()}
    compare(case, {name: timed(step) for name, step in steps.items()}, budget=6.0)
    benchmark.pedantic(steps["fastopt"], rounds=5, warmup_rounds=1)
