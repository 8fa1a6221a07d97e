"""The benchmarks' peers compute what fastopt does, and a run measures, stores and reports all of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numba
import pytest

ROOT = Path(__file__).parents[2]
PEERS = [
    "roofline",
    "torch, foreach",
    "torch, one by one",
    "torch, fused",
    "optax, jit",
    "Keras on jax",
]

pytestmark = pytest.mark.skipif(
    bool(numba.config.DISABLE_JIT), reason="NUMBA_DISABLE_JIT is set: there is nothing to measure"
)


def test_a_run_on_small_buffers() -> None:
    """Every peer is compared with fastopt before it is timed: a wrong one fails here."""
    run = [sys.executable, "-m", "bench", "--smoke", "2000", "-k", "family"]
    run += ["--benchmark-max-time=0.01", "--benchmark-min-rounds=1"]
    environment = {**os.environ, "KERAS_BACKEND": "jax"}  # what its peer is made for
    told = subprocess.run(
        run, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert told.returncode == 0, told.stdout + told.stderr
    missing = [name for name in PEERS if name.replace(" ", "\N{NO-BREAK SPACE}") not in told.stdout]
    assert not missing, told.stdout
