"""The peak memory of training a model of GPT-2 small's shape, each way in a process of its own.

``python -m bench.split_weights.memory`` and a `Job` as JSON is such a process. What it held before the
model was made, with torch and fastopt loaded and warm, is subtracted. So is the peak of a process that
has gradients for activations only.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable, Mapping
from ctypes import CDLL
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench.split_weights.model import GPT2_SMALL, Shape, Transformer
from bench.split_weights.ways import MEMORY, Way
from fastopt.interop.torch import AdamW, step_in_backward

LENGTH = 16  # tokens: activations are small beside parameters
ITERATIONS = 3
WARM = Shape(1, 64, 2, 100, LENGTH)
ACTIVATIONS = "activations"


class Job(NamedTuple):
    """What a process measures: a way of `MEMORY`, or activations of models of a dtype."""

    way: str
    dtype: str
    shape: Shape
    device: str

    @classmethod
    def load(cls, text: str) -> Job:
        """From JSON."""
        way, dtype, shape, device = json.loads(text)
        return cls(way, dtype, Shape(*shape), device)


def make_model(shape: Shape, dtype: str, device: str) -> Transformer:
    """A model that was never of another dtype or elsewhere, which would count as memory."""
    torch.manual_seed(0)
    default = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        with torch.device(device):
            return Transformer(shape)
    finally:
        torch.set_default_dtype(default)


def make_optimizer(model: Transformer, way: Way) -> Any:
    """The optimizer of a way, at torch's default settings."""
    if way.is_torch:
        return torch.optim.AdamW(model.parameters())
    if way.in_backward:
        return step_in_backward(model, AdamW, **way.settings)
    return AdamW(model.parameters(), **way.settings)


def make_batch(shape: Shape, device: str) -> Tensor:
    """One row of random tokens."""
    generator = torch.Generator().manual_seed(0)
    length = min(LENGTH, shape.context)
    return torch.randint(shape.vocabulary, (1, length + 1), generator=generator).to(device)


def training(model: Transformer, optimizer: Any, batch: Tensor) -> Callable[[], None]:
    """An iteration: forward, backward, and the step."""

    def iterate() -> None:
        model.loss(batch).backward()
        optimizer.step()
        optimizer.zero_grad()

    return iterate


def train(job: Job, shape: Shape) -> dict[str, Any]:
    """A few iterations; the bytes of what they hold, counted."""
    model, batch = make_model(shape, job.dtype, job.device), make_batch(shape, job.device)
    if job.way == ACTIVATIONS:
        model.requires_grad_(False)
        model.positions.requires_grad_(True)  # first of all: gradients go through each layer
        for _ in range(ITERATIONS):
            model.loss(batch).backward()
        return {}
    way = MEMORY[job.way]
    optimizer = make_optimizer(model, way)
    iterate = training(model, optimizer, batch)
    for _ in range(ITERATIONS):
        iterate()
    params = list(model.parameters())
    states = [value for state in optimizer.state.values() for value in state.values()]
    return {
        "parameters": sum(param.numel() for param in params),
        "bytes": {
            "parameters": _bytes(params),
            "gradients": max(map(_nbytes, params)) if way.in_backward else _bytes(params),
            "states": _bytes(states),
        },
    }


def _nbytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _bytes(tensors: list[Tensor]) -> int:
    return sum(map(_nbytes, tensors))


def used(device: str) -> int:
    """The bytes that this process has in memory now."""
    if device != "cpu":
        return int(torch.cuda.memory_allocated())
    CDLL(None).malloc_trim(0)  # what is free already would be reused
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * resource.getpagesize()


def peak(device: str) -> int:
    """The most that it has had."""
    if device != "cpu":
        return int(torch.cuda.max_memory_allocated())
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def run(job: Job) -> dict[str, Any]:
    """What this process takes for a job beyond a small one of its kind."""
    train(job, WARM)
    baseline = used(job.device)
    result = train(job, job.shape)
    return {**result, "peak": peak(job.device) - baseline}


def in_process(job: Job) -> dict[str, Any]:
    """The same in a new process."""
    command = [sys.executable, "-m", "bench.split_weights.memory", json.dumps(job)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def per_parameter(job: Job, activations: Mapping[str, int]) -> dict[str, Any]:
    """The bytes a parameter of a way: at the peak without activations, and counted."""
    in_process(job._replace(shape=WARM))  # compiles what it needs
    result = in_process(job)
    count = result["parameters"]
    return {
        "peak": (result["peak"] - activations[job.dtype]) / count,
        "counted": {name: value / count for name, value in result["bytes"].items()},
        "activations": activations[job.dtype],
        "parameters": count,
    }


def measured(shape: Shape = GPT2_SMALL) -> dict[str, Any]:
    """All ways, with a head of its own and with a tied one, on the CPU and where there is CUDA."""
    results: dict[str, Any] = {"shape": shape._asdict(), "length": LENGTH}
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        for head, is_tied in {"untied": False, "tied": True}.items():
            layout = shape._replace(is_tied=is_tied)
            activations = {}
            for dtype in ("float32", "bfloat16"):
                alone = in_process(Job(ACTIVATIONS, dtype, layout, device))["peak"]
                model = make_model(layout, dtype, "meta")
                activations[dtype] = alone - _bytes(list(model.parameters()))
            for name, way in MEMORY.items():
                result = per_parameter(Job(name, way.dtype, layout, device), activations)
                results.setdefault(device, {}).setdefault(head, {})[name] = result
                print(f"{device}, {head}, {name}: {result}", flush=True)
    return results


if __name__ == "__main__":
    print(json.dumps(run(Job.load(sys.argv[1]))))
