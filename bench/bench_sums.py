"""What do sums in the pass, statistics and clipping cost?"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pytest

import fastopt
from bench import peers, problems
from bench.measure import timed
from bench.problems import RMSPROP, Problem
from bench.roofline import NAME, roofline
from fastopt import transforms

FLOAT = np.dtype(np.float32)


def _unchanged(update: Any, param: Any, state: Any, hyper: Any) -> Any:
    return update, state


def _square(update: Any, param: Any, state: Any, hyper: Any) -> Any:
    return update * update


def _kept(hyper: Any, sums: Any, carried: Any) -> Any:
    return hyper, (sums[0],)


def _sum_after(params: Any, **means: Any) -> Any:
    """RMSProp behind a transform that adds up the squares of the gradient for the next step."""
    watch = fastopt.Transform(
        _unchanged, sums_after={"squares": _square}, from_sums=_kept, carried={"squares": 0.0}
    )
    lr, beta, eps = (RMSPROP.settings[name] for name in ("lr", "beta", "eps"))
    scaled = transforms.scale_by_rms(beta=beta, eps=eps), transforms.scale_by_learning_rate(lr)
    return fastopt.Optimizer(params, fastopt.chain(watch, *scaled), **means)


NORMS = ("grad_norm", "update_norm", "param_norm")
KINDS: Mapping[str, Any] = {
    "rmsprop": RMSPROP.optimizer,
    "norm": partial(RMSPROP.optimizer, stats=NORMS[:1]),
    "norms": partial(RMSPROP.optimizer, stats=NORMS),
    "sum_after": _sum_after,
    # The norm is known to be larger: gradients are of size 1 to 2.
    "clipped": partial(RMSPROP.optimizer, clip_norm=1.0),
}


def steps_of(problem: Problem, threads: int) -> dict[str, peers.Step]:
    """All kinds of steps in the same memory."""
    param, square_avg = problem.arrays.values()
    means = {"state": {"square_avg": square_avg}, "executor": "serial" if threads == 1 else "auto"}
    return {name: partial(kind(param, **means).step, problem.grad) for name, kind in KINDS.items()}


def _cases() -> list[Any]:
    """The cost of a call, and large buffers; in a full run on one core too, and in the caches."""
    full = [(10**6, "all"), (10**6, "serial"), (10**8, "serial")]
    return [
        (16, "serial"),
        (10**8, "all"),
        *(pytest.param(*case, marks=pytest.mark.full) for case in full),
    ]


@pytest.mark.parametrize(("size", "threads"), _cases())
def bench_sums(size: int, threads: str, compare: Any, benchmark: Any) -> None:
    needed, available = 3 * size * FLOAT.itemsize, problems.available_memory()
    if needed > available:
        pytest.skip(f"needs {needed / 1e9:.1f} GB of memory, {available / 1e9:.1f} are free")
    count = 1 if threads == "serial" else fastopt.get_num_threads()
    problem = problems.make(RMSPROP, size, FLOAT)
    steps = steps_of(problem, count)
    moved = dict.fromkeys(steps, problem.bytes_per_element)
    moved["clipped"] += FLOAT.itemsize
    others = {"c": peers.PEERS["c"](problem, count)}
    others[NAME], moved[NAME] = roofline(problem, count)
    moved["c"] = problem.bytes_per_element
    present = steps | {name: step for name, step in others.items() if step is not None}
    for step in present.values():
        step()
    case = {"question": "sums", "form": RMSPROP.name, "dtype": FLOAT.name, "size": size}
    case |= {"threads": count, "all_threads": threads == "all"}
    with fastopt.threads(count):
        compare(case, {name: timed(step) for name, step in present.items()}, moved, budget=6.0)
    assert all(np.isfinite(array[:1000]).all() for array in problem.arrays.values())
    benchmark.pedantic(steps["norm"], rounds=5, warmup_rounds=1)
