"""How fast large buffers are updated, by size, dtype, form and threads."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

import fastopt
from bench import peers, peers_numexpr, problems
from bench.measure import timed
from bench.problems import EVERYTHING, FORMS, RMSPROP, Form
from bench.roofline import NAME, roofline

PEERS = {**peers.PEERS, **peers_numexpr.PEERS}

SIZES = [10**k for k in range(3, 9)]

# The rest of all combinations is for --full, and so is one core at work on the largest buffers.
QUICK = {
    *((RMSPROP, "float32", size) for size in SIZES),
    (RMSPROP, "float64", 10**7),
    (EVERYTHING, "float32", 10**8),
}

# Starting threads costs more than they gain on smaller buffers: `bench_threshold.py`.
WORTH_THREADS = 10**5


def _cases() -> list[Any]:
    cases = []
    for form in FORMS:
        for dtype in ("float32", "float64"):
            for size in SIZES:
                for threads in ("serial", "all")[: 1 + (size >= WORTH_THREADS)]:
                    slow = threads == "serial" and (size >= 10**8 or dtype == "float64")
                    quick = (form, dtype, size) in QUICK and not slow
                    marks = [] if quick else [pytest.mark.full]
                    name = f"{form.name}-{dtype}-{size:.0e}-{threads}".replace("e+0", "e")
                    cases.append(pytest.param(form, dtype, size, threads, id=name, marks=marks))
    return cases


@pytest.mark.parametrize(("form", "dtype", "size", "threads"), _cases())
def bench_throughput(
    form: Form, dtype: str, size: int, threads: str, compare: Any, benchmark: Any
) -> None:
    count = 1 if threads == "serial" else fastopt.get_num_threads()
    number = np.dtype(dtype)
    needed, available = problems.memory(form, size, number), problems.available_memory()
    if needed > available:
        pytest.skip(f"needs {needed / 1e9:.1f} GB of memory, {available / 1e9:.1f} are free")
    peers.check(form, size, number, count, PEERS)

    problem = problems.make(form, size, number)
    steps = {name: peer(problem.view(), count) for name, peer in PEERS.items()}
    moved = dict.fromkeys(steps, problem.bytes_per_element)
    if form is not RMSPROP:  # what its bytes would take at the speed of the plain form
        plain = problems.plain(problem)
        steps["rmsprop"] = peers.PEERS["fastopt"](plain, count)
        moved["rmsprop"] = plain.bytes_per_element
    steps[NAME], moved[NAME] = roofline(problem, count)
    present = {name: step for name, step in steps.items() if step is not None}

    case = {"question": "throughput", "form": form.name, "dtype": dtype, "size": size}
    case |= {"threads": count, "all_threads": threads == "all"}
    budget = 6.0 if size >= 10**8 else 2.0
    with fastopt.threads(count):
        compare(case, {name: timed(step) for name, step in present.items()}, moved, budget)
    assert all(np.isfinite(array[:1000]).all() for array in problem.arrays.values())
    benchmark.pedantic(partial(present["fastopt"]), rounds=5, warmup_rounds=1)
