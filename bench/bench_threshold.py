"""From which size on all cores are faster than one: where `AUTO_THRESHOLD` comes from."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

import fastopt
from bench import problems
from bench.measure import timed
from bench.problems import RMSPROP

SIZES = [1 << k for k in range(11, 19)]
QUICK = SIZES[2::2]


@pytest.mark.parametrize(
    "size", [pytest.param(n, marks=() if n in QUICK else pytest.mark.full) for n in SIZES]
)
def bench_threshold(size: int, compare: Any, benchmark: Any) -> None:
    if fastopt.get_num_threads() == 1:
        pytest.skip("there is only one core")
    problem = problems.make(RMSPROP, size, np.dtype(np.float32))
    optimizers = {
        executor: RMSPROP.optimizer(problem.arrays["param"], executor=executor)
        for executor in ("serial", "parallel")
    }
    steps = {name: partial(optimizer.step, problem.grad) for name, optimizer in optimizers.items()}
    case = {"question": "threshold", "form": RMSPROP.name, "dtype": "float32", "size": size}
    compare(
        {**case, "threads": fastopt.get_num_threads()},
        {name: timed(step) for name, step in steps.items()},
        dict.fromkeys(steps, problem.bytes_per_element),
        budget=1.0,
    )
    benchmark(steps["parallel"])
