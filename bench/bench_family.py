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
    "fastopt": peers.PEERS["fastopt"],
    **peers_numexpr.PEERS,
    **peers_torch.PEERS,
    **peers_optax.PEERS,
    **peers_keras.PEERS,
}
SIZES = {"quick": 5 * 10**7, "full": 10**8}


def _cases() -> list[Any]:
    """Size, dtype and threads; the first one is for a quick run."""
    quick, full = SIZES.values()
    rest = [(full, "float32", "all"), (quick, "float64", "all"), (quick, "float32", "serial")]
    rest += [
        (10**6, dtype, threads) for dtype in ("float32", "float64") for threads in ("all", "serial")
    ]
    return [(quick, "float32", "all"), *(pytest.param(*case, marks=pytest.mark.full) for case in rest)]


@pytest.mark.parametrize(("size", "dtype", "threads"), _cases())
@pytest.mark.parametrize(
    "form",
    [*FAMILY, *(pytest.param(form, marks=pytest.mark.full) for form in REST)],
    ids=lambda form: form.name,
)
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
