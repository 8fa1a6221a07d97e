"""The benchmarks' peers compute what fastopt does, and a run measures and reports all of them."""

from __future__ import annotations

import os
import subprocess
import sys
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
    from bench import cuda
    from fastopt.interop.torch import RMSprop

    ways = {
        "torch, foreach": cuda.torch_step(torch.optim.RMSprop, 10, 2, device="cpu", foreach=True),
        "torch, with fastopt": cuda.torch_step(RMSprop, 10, 2, device="cpu"),
        "torch, compiled": cuda.torch_compiled(10, 2, device="cpu"),
        "optax, jit": cuda.optax_step(10, 2, platform="cpu"),
    }
    for name, way in ways.items():
        cuda.check(name, way)
        way.step(1)
        way.step(0)
    assert len({round(way.first(), 6) for way in ways.values()}) == 1
