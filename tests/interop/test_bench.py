"""The benchmarks' peers compute what fastopt does, and a run measures and reports all of them."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numba
import pytest

from tests.subprocesses import LIMIT

ROOT = Path(__file__).parents[2]
TORCH = ["torch, foreach", "torch, one by one", "torch, fused"]
PEERS = ["roofline", *TORCH, "optax, jit", "Keras on jax, jit"]

pytestmark = pytest.mark.skipif(
    bool(numba.config.DISABLE_JIT), reason="NUMBA_DISABLE_JIT is set: there is nothing to measure"
)


def test_a_run_on_small_buffers() -> None:
    """Every peer is compared with fastopt before it is timed: a wrong one fails here."""
    for library in ("torch", "optax", "keras", "jax"):
        pytest.importorskip(library, reason=f"{library} is not installed")
    run = [sys.executable, "-m", "bench", "--smoke", "2000", "-k", "family"]
    run += ["--benchmark-max-time=0.01", "--benchmark-min-rounds=1"]
    environment = {**os.environ, "KERAS_BACKEND": "jax"}  # what its peer is made for
    environment.pop("NUMBA_NUM_THREADS", None)  # XLA has as many threads as there are cores
    told = subprocess.run(
        run, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert told.returncode == 0, told.stdout + told.stderr
    reported = told.stdout.replace("\N{NO-BREAK SPACE}", " ")
    assert [name for name in PEERS if name not in reported] == []


def test_peers_on_a_gpu_on_the_cpu() -> None:
    """What `bench.cuda` measures on a GPU gives the right number, seen here without one."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    for library in ("optax", "jax"):
        pytest.importorskip(library, reason=f"{library} is not installed")
    from bench.cuda import cases, clock, networks, peers
    from bench.cuda.problems import BETA, EPS, LR
    from fastopt.interop.torch import RMSprop

    how = {"device": "cpu", "lr": LR, "alpha": BETA, "eps": EPS}
    fast = partial(RMSprop, lr=LR, alpha=BETA, eps=EPS)
    network = networks.stepping(fast, [(5,), (2, 3)], True, "cpu")
    makers = {
        "torch, foreach": partial(peers.tensor_step, torch.optim.RMSprop, foreach=True, **how),
        "torch, with fastopt": partial(peers.tensor_step, RMSprop, **how),
        "torch, compiled": partial(peers.torch_compiled, device="cpu"),
        "optax": partial(peers.optax_step, platform="cpu"),
        "network": network,
        "wrong": partial(peers.tensor_step, torch.optim.RMSprop, **how | {"lr": 2 * LR}),
    }
    ways, missing = clock.made(makers, 10, 2, tolerance=1e-6)
    assert missing.keys() == {"wrong"}
    assert missing["wrong"].startswith("gives 0.99")
    for way in ways.values():
        if way.before is not None:
            way.before(0)
        way.step(1)
        way.step(0)
    # The network has one set of parameters, which has been stepped once more.
    assert len({round(way.first(), 6) for name, way in ways.items() if name != "network"}) == 1
    phase = cases.torch_phase(10, 1, device="cpu")
    before = phase.first()
    phase.step(0)
    assert phase.first() < before
