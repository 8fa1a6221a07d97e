"""RMSProp's relatives: do they run at the speed of their bytes, and how fast are other libraries?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastopt
from bench import peers, peers_optax, peers_torch, problems
from bench.measure import timed
from bench.problems import ADAM, FAMILY, Form

PEERS = {"fastopt": peers.PEERS["fastopt"], **peers_torch.PEERS, **peers_optax.PEERS}
SIZES = {"quick": 5 * 10**7, "full": 10**8}


@pytest.mark.parametrize("size", [SIZES["quick"], pytest.param(SIZES["full"], marks=pytest.mark.full)])
@pytest.mark.parametrize("form", FAMILY, ids=lambda form: form.name)
def bench_family(form: Form, size: int, compare: Any, benchmark: Any) -> None:
    count, dtype = fastopt.get_num_threads(), np.dtype(np.float32)
    needed, available = problems.memory(ADAM, size, dtype), problems.available_memory()
    if needed > available:
        pytest.skip(f"needs {needed / 1e9:.1f} GB of memory, {available / 1e9:.1f} are free")
    peers.check(form, size, dtype, count, PEERS)

    problem = problems.make(form, size, dtype)
    steps = {name: peer(problem.view(), count) for name, peer in PEERS.items()}
    moved = dict.fromkeys(steps, problem.bytes_per_element)
    state = next(name for name in problem.arrays if name.endswith(("sq", "square_avg", "sum")))
    plain = problems.plain(problem, state)
    steps["rmsprop"] = peers.PEERS["fastopt"](plain, count)
    moved["rmsprop"] = plain.bytes_per_element
    present = {name: step for name, step in steps.items() if step is not None}

    case = {"question": "family", "form": form.name, "dtype": "float32", "size": size, "threads": count}
    compare(case, {name: timed(step) for name, step in present.items()}, moved, budget=8.0)
    assert all(np.isfinite(array[:1000]).all() for array in problem.arrays.values())
    benchmark.pedantic(present["fastopt"], rounds=5, warmup_rounds=1)
