"""Time of a step and of an iteration over GPT-2 small's parameters, all ways in turns."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from bench.measure import band, interleave, ratios
from bench.split_weights.memory import LENGTH, make_batch, make_model, make_optimizer, training
from bench.split_weights.model import GPT2_SMALL, Shape, Transformer
from bench.split_weights.ways import MEMORY, QUALITY

FLOAT32 = "fastopt, float32"  # which the others are compared with
TIED = GPT2_SMALL._replace(is_tied=True)
BUDGET = 25.0  # seconds


def time_step(model: Transformer, grads: list[Tensor], step: Callable[[], object]) -> float:
    """The seconds of a step with these gradients."""
    for param, grad in zip(model.parameters(), grads, strict=True):
        param.grad = grad
    start = perf_counter()
    step()
    seconds = perf_counter() - start
    model.zero_grad()
    return seconds


def time_iteration(iterate: Callable[[], None]) -> float:
    """The seconds of forward and backward passes and of a step."""
    start = perf_counter()
    iterate()
    return perf_counter() - start


def measured(shape: Shape = TIED, budget: float = BUDGET, rounds: int = 9) -> dict[str, Any]:
    """The bands of seconds, and of ratios to float32 within a round."""
    batch = make_batch(shape, "cpu")
    start = make_model(shape, "float32", "cpu")
    # Gradients of the kind that a pass gives, kept: each step has the same ones.
    start.loss(batch).backward()
    wide = [param.grad for param in start.parameters() if param.grad is not None]
    grads = {"float32": wide, "bfloat16": [grad.bfloat16() for grad in wide]}
    start.zero_grad()
    steps: dict[str, Callable[[], float]] = {}
    iterations: dict[str, Callable[[], float]] = {}
    ways = {FLOAT32: QUALITY["float32"], **MEMORY, **QUALITY}
    ways.pop("float32")
    for name, way in ways.items():
        model = deepcopy(start).to(getattr(torch, way.dtype))
        optimizer = make_optimizer(model, way)
        if not way.in_backward:
            steps[name] = partial(time_step, model, grads[way.dtype], optimizer.step)
            steps[name]()
        if name in MEMORY:
            iterations[name] = partial(time_iteration, training(model, optimizer, batch))
            iterations[name]()
    samplers = {("step", name): sample for name, sample in steps.items()}
    samplers |= {("iteration", name): sample for name, sample in iterations.items()}
    names = {f"{kind}: {name}": (kind, name) for kind, name in samplers}
    times = interleave({key: samplers[pair] for key, pair in names.items()}, budget, rounds)
    results: dict[str, Any] = {"shape": shape._asdict(), "length": LENGTH}
    results["parameters"] = sum(param.numel() for param in start.parameters())
    results["threads"] = torch.get_num_threads()
    for key, (kind, name) in names.items():
        results.setdefault(kind, {})[name] = {
            "seconds": band(times[key]) | {"least": min(times[key])},
            "ratio": band(ratios(times[key], times[f"{kind}: {FLOAT32}"])),
        }
    return results
