"""What each further thread brings."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

import fastopt
from bench import problems
from bench.measure import timed
from bench.problems import RMSPROP
from bench.roofline import NAME, roofline


@pytest.mark.parametrize("size", [10**6, 5 * 10**7])
def bench_scaling(size: int, compare: Any, benchmark: Any) -> None:
    most = fastopt.get_num_threads()
    if most == 1:
        pytest.skip("there is only one core")
    problem = problems.make(RMSPROP, size, np.dtype(np.float32))
    step = partial(RMSPROP.optimizer(problem.arrays["param"]).step, problem.grad)

    def on(count: int) -> None:
        with fastopt.threads(count):
            step()

    steps = {f"{count} threads": partial(on, count) for count in range(1, most + 1)}
    case = {"question": "scaling", "form": RMSPROP.name, "dtype": "float32", "size": size}
    moved = dict.fromkeys(steps, problem.bytes_per_element)
    steps[NAME], moved[NAME] = roofline(problem, most)
    compare(case, {name: timed(step) for name, step in steps.items()}, moved, budget=3.0)
    benchmark.pedantic(step, rounds=5, warmup_rounds=1)
