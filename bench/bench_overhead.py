"""What a call costs, shown on a buffer that takes no time: 16 elements."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bench import peers, problems
from bench.measure import timed
from bench.problems import RMSPROP

SIZE = 16
OTHERS = 64  # gradient arrays that take turns


def _in_turn(step: Callable[[Any], object]) -> Callable[[], object]:
    """Call `step` with one gradient array after the other."""
    gradients = [np.ones(SIZE, np.float32) for _ in range(OTHERS)]

    def steps() -> None:
        for gradient in gradients:
            step(gradient)

    return steps


@pytest.mark.parametrize("gradient", ["same", "alternating"])
def bench_overhead(gradient: str, compare: Any, benchmark: Any) -> None:
    peers.check(RMSPROP, SIZE, np.dtype(np.float32), 1)
    problem = problems.make(RMSPROP, SIZE, np.dtype(np.float32))
    steps = {name: peer(problem.view(), 1) for name, peer in peers.PEERS.items()}
    samplers = {name: timed(step) for name, step in steps.items() if step is not None}
    step = steps["fastopt"]
    if gradient == "alternating":
        optimizer = RMSPROP.optimizer(np.zeros(SIZE, np.float32))
        step = _in_turn(optimizer.step)
        samplers["fastopt"] = timed(step, calls=OTHERS)
    compare({"question": "overhead", "gradient": gradient, "size": SIZE, "threads": 1}, samplers)
    benchmark(step)
