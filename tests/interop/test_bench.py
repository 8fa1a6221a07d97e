"""The benchmarks' peers compute what fastopt does, and a run measures and reports all of them."""

from __future__ import annotations

import json
import math
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
    ways, missing = clock.prepare(makers, 10, 2, tolerance=1e-6)
    assert missing.keys() == {"wrong"}
    assert missing["wrong"].startswith("gives 0.99")
    for way in ways.values():
        if way.setup is not None:
            way.setup(0)
        way.step(1)
        way.step(0)
    # The network has one set of parameters, which has been stepped once more.
    assert len({round(way.first(), 6) for name, way in ways.items() if name != "network"}) == 1
    phase = cases.torch_phase(10, 1, device="cpu")
    previous = phase.first()
    phase.step(0)
    assert phase.first() < previous


def test_losses_of_split_weights_on_a_tiny_model() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from bench.split_weights import quality
    from bench.split_weights.ways import QUALITY

    training = quality.Training(layers=1, width=64, heads=2, context=16, batch=4, steps=30)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as where it is measured: several add up in any order
    try:
        ends = {name: quality.final_losses(way, training, 1e-2, 0) for name, way in QUALITY.items()}
        again = quality.final_losses(QUALITY["float32"], training, 1e-2, 0)
    finally:
        torch.set_num_threads(threads)
    letters = quality.tokens()[1]
    base = ends["float32"]
    assert base["model"] == base["wide"] < 0.9 * math.log(letters)  # of guessing
    assert base == again
    for name, losses in ends.items():
        assert losses["model"] == pytest.approx(base["model"], rel=0.05), name
        # In float32, with all digits, it is about the same model.
        assert losses["wide"] == pytest.approx(losses["model"], rel=0.01), name
    assert ends["split 24, 8-bit states"]["wide"] != ends["split 24, 8-bit states"]["model"]


def test_memory_of_split_weights_on_a_small_model() -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("resource", reason="this system does not measure the memory of a process")
    from bench.split_weights import memory, report
    from bench.split_weights.model import Shape
    from bench.split_weights.ways import MEMORY

    shape = Shape(2, 256, 4, 20_000, 32)
    names = report.LARGEST, report.SMALLEST
    jobs = [memory.Job(name, MEMORY[name].dtype, shape, "cpu") for name in names]
    ordinary, smallest = (memory.per_parameter(job, {"float32": 0, "bfloat16": 0}) for job in jobs)
    assert ordinary["counted"] == pytest.approx(
        {"parameters": 4, "gradients": 4, "states": 8}, rel=1e-3
    )
    table = shape.vocabulary * shape.width / smallest["parameters"]
    assert smallest["counted"] == pytest.approx(
        {"parameters": 2, "gradients": 2 * table, "states": 1 + 2 * 260 / 256}, rel=0.01
    )
    # What holds tensors cannot take less than they do. The rest is large beside so small a model.
    assert all(each["peak"] > 0.9 * sum(each["counted"].values()) for each in (ordinary, smallest))


def test_memory_of_activations_is_that_of_frozen_layers() -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    from bench.split_weights import memory
    from bench.split_weights.model import Shape

    shape = Shape(1, 64, 2, 100, 16)
    job = memory.Job.load(json.dumps(memory.Job(memory.ACTIVATIONS, "bfloat16", shape, "cpu")))
    assert job == memory.Job(memory.ACTIVATIONS, "bfloat16", shape, "cpu")
    assert memory.train(job, shape) == {}


def test_times_of_split_weights_on_a_tiny_model() -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    from bench.split_weights import report, times
    from bench.split_weights.model import Shape
    from bench.split_weights.ways import MEMORY, QUALITY

    results = times.measured(Shape(1, 64, 2, 100, 16, True), budget=0.0, rounds=3)
    ordinary = {name for name, way in MEMORY.items() if not way.in_backward}
    assert results["step"].keys() == (QUALITY.keys() | ordinary) - {"float32"}
    assert results["iteration"].keys() == MEMORY.keys()
    assert results["step"][times.FLOAT32]["ratio"]["median"] == 1
    assert all(name in report.times(results) for name in MEMORY)
