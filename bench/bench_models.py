"""A step of torch's optimizers over a network's parameters: fastopt's in torch, and torch's own."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

import fastopt
from bench import problems
from bench.measure import PAUSE, Sampler, timed
from bench.models import MODELS, Shape

torch = pytest.importorskip("torch", reason="torch is not installed")

# Of torch.compile, about torch itself.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")

# Beside the parameter and its gradient; each peer has states of its own.
STATES = {"RMSprop": 1, "SGD": 1, "Adagrad": 1, "Adam": 2, "AdamW": 2, "NAdam": 2}
SETTINGS: dict[str, dict[str, Any]] = {"SGD": {"momentum": 0.9}}
FUSED = ("SGD", "Adagrad", "Adam", "AdamW")


def _params(shapes: list[Shape]) -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    params = []
    for shape in shapes:
        param = torch.nn.Parameter(torch.randn(shape, generator=generator))
        param.grad = 1 + torch.rand(shape, generator=generator)
        params.append(param)
    return params


def _peers(name: str, compiled: bool) -> dict[str, Callable[[list[Any]], Callable[[], object]]]:
    """Name of a peer -> from parameters to its step."""
    import fastopt.interop.torch as fast

    settings = SETTINGS.get(name, {})
    optimizer = getattr(torch.optim, name)
    peers = {
        "fastopt": lambda params: getattr(fast, name)(params, **settings).step,
        "torch_eager": lambda params: optimizer(params, **settings).step,
        "torch": lambda params: optimizer(params, foreach=True, **settings).step,
    }
    if name in FUSED:
        peers["torch_fused"] = lambda params: optimizer(params, fused=True, **settings).step
    if compiled and shutil.which("g++"):
        peers["torch_compiled"] = lambda params: torch.compile(optimizer(params, **settings).step)
    return peers


def _fresh(step: Callable[[], object], params: list[Any]) -> Sampler:
    """A sampler of a step whose gradients are other tensors each time, as after a backward pass."""

    def sample() -> float:
        for param in params:
            param.grad = param.grad.clone()
        time.sleep(PAUSE)
        start = time.perf_counter()
        step()
        return time.perf_counter() - start

    return sample


def _check(name: str, compiled: bool) -> None:
    """After three steps all have the same parameters, but for rounding."""
    expected = None
    for peer, make in _peers(name, compiled).items():
        params = _params([(64, 3, 7, 7), (64,), (1000, 20)])
        step = make(params)
        for _ in range(3):
            step()
        values = [param.detach() for param in params]
        expected = expected or values
        for one, other in zip(values, expected, strict=True):
            torch.testing.assert_close(
                one, other, rtol=2e-6, atol=2e-6, msg=partial("{}: {}".format, peer)
            )


def _cases() -> list[Any]:
    """RMSprop and Adam on both networks, and in a full run the others too."""
    cases = []
    for model in MODELS:
        for name in STATES:
            quick = name in ("RMSprop", "Adam")
            cases.append(pytest.param(model, name, marks=() if quick else pytest.mark.full))
    return cases


@pytest.mark.parametrize(("model", "name"), _cases())
def bench_models(
    model: str, name: str, compare: Any, benchmark: Any, request: pytest.FixtureRequest
) -> None:
    shapes = MODELS[model]()
    size = sum(map(math.prod, shapes))
    compiled = request.config.getoption("--full")
    peers = _peers(name, compiled)
    # Each peer has states, and foreach as many temporaries.
    needed = 4 * size * (2 + (len(peers) + 2) * STATES[name])
    available = problems.available_memory()
    if needed > available:
        pytest.skip(f"needs {needed / 1e9:.1f} GB of memory, {available / 1e9:.1f} are free")
    torch.set_num_threads(fastopt.get_num_threads())
    _check(name, compiled)

    params = _params(shapes)
    steps = {peer: make(params) for peer, make in peers.items()}
    samplers = {peer: timed(step) for peer, step in steps.items()}
    samplers["fresh"] = _fresh(steps["fastopt"], params)
    moved = dict.fromkeys(samplers, 4 * (3 + 2 * STATES[name]))
    case = {"question": "models", "model": model, "optimizer": name, "dtype": "float32", "size": size}
    case |= {"arrays": len(shapes), "threads": fastopt.get_num_threads(), "all_threads": True}
    compare(case, samplers, moved, budget=4.0)
    assert all(torch.isfinite(param).all() for param in params)
    benchmark.pedantic(steps["fastopt"], rounds=5, warmup_rounds=1)
