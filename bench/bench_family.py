"""RMSProp's relatives: do they run at the speed of their bytes, and how fast are other libraries?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastopt
from bench import peers, peers_keras, peers_numexpr, peers_optax, peers_torch, problems
from bench.measure import timed
from bench.problems import FAMILY, REST, Form
from bench.roofline import NAME, roofline

PEERS = {
    **{name: peers.PEERS[name] for name in ("fastopt", "fastopt_fast")},
    **peers_numexpr.PEERS,
    **peers_torch.PEERS,
    **peers_optax.PEERS,
    **peers_keras.PEERS,
}
SIZES = {"quick": 5 * 10**7, "full": 10**8}


def _cases() -> list[Any]:
    """The first is for a quick run. The less usual forms are measured once, in a full run."""
    quick, full = SIZES.values()
    rest = [(full, "float32", "all"), (quick, "float64", "all"), (quick, "float32", "serial")]
    rest += [
        (10**6, dtype, threads) for dtype in ("float32", "float64") for threads in ("all", "serial")
    ]
    first = quick, "float32", "all"
    cases = [pytest.param(form, *first, id=form.name) for form in FAMILY]
    cases += [pytest.param(form, *first, id=form.name, marks=pytest.mark.full) for form in REST]
    for form in FAMILY:
        for size, dtype, threads in rest:
            name = f"{form.name}-{size:.0e}-{dtype}-{threads}".replace("e+0", "e")
            cases.append(pytest.param(form, size, dtype, threads, id=name, marks=pytest.mark.full))
    return cases


@pytest.mark.parametrize(("form", "size", "dtype", "threads"), _cases())
def bench_family(form: Form, size: int, dtype: str, threads: str, compare: Any, benchmark: Any) -> None:
    count, number = 1 if threads == "serial" else fastopt.get_num_threads(), np.dtype(dtype)
    needed, available = problems.memory(form, size, number), problems.available_memory()
    if needed > available:
        pytest.skip(f"needs {needed / 1e9:.1f} GB of memory, {available / 1e9:.1f} are free")
    peers.check(form, size, number, count, PEERS)

    problem = problems.make(form, size, number)
    steps = {name: peer(problem.view(), count) for name, peer in PEERS.items()}
    moved = dict.fromkeys(steps, problem.bytes_per_element)
    squares = (name for name in problem.arrays if name.endswith(("sq", "square_avg", "sum")))
    if (state := next(squares, None)) is not None:
        plain = problems.plain(problem, state)
        steps["rmsprop"] = peers.PEERS["fastopt"](plain, count)
        moved["rmsprop"] = plain.bytes_per_element
    steps[NAME], moved[NAME] = roofline(problem, count)
    present = {name: step for name, step in steps.items() if step is not None}

    case = {"question": "family", "form": form.name, "dtype": dtype, "size": size}
    case |= {"threads": count, "all_threads": threads == "all"}
    compare(case, {name: timed(step) for name, step in present.items()}, moved, budget=8.0)
    assert all(np.isfinite(array[:1000]).all() for array in problem.arrays.values())
    benchmark.pedantic(present["fastopt"], rounds=5, warmup_rounds=1)
