"""What is measured on a GPU, part by part."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import fastopt
from bench.cuda import networks, peers, problems
from bench.cuda.clock import Maker, Way, on_device, on_host
from bench.cuda.problems import RMSPROP, Problem

ROOT = Path(__file__).parents[2]
SMALL = 1024
SCALE = 1024.0
PHASE_BYTES = 4 + 16 + 16 + 2  # of gradient, and of gradient, parameter, state, average, and a copy


class Case(NamedTuple):
    """One row of the report.

    Attributes
    ----------
    part, name : str
    makers : dict
        Who takes part.
    elements : int
    bytes : float
        That a step must move, an element; 0 where that is not the question.
    held : float
        Bytes of memory of a set, an element.
    clock : callable
        From a way and the number of sets to seconds.
    tolerance : float
        Between the numbers after a step, of all who take part.
    """

    part: str
    name: str
    makers: dict[str, Maker]
    elements: int
    bytes: float = 0.0
    held: float = 12.0
    clock: Callable[[Way, int], float] = on_device
    tolerance: float = 2e-6


class Sizes(NamedTuple):
    """How large the buffers are, and whether networks are."""

    large: int = 10**8
    middle: int = 10**7
    small: int = 10**6
    networks: bool = True
    sets: int | None = None  # of buffers; None: what exceeds the L2 cache
    launches: int = 40  # of which the host's time is one sample


TINY = Sizes(1024, 512, 260, networks=False, sets=1, launches=2)


def _steps(part: str, problem: Problem, elements: int) -> Case:
    rounded = problem.dtype != "float32" or problem.state_dtype is not None
    how = {"bytes": problem.bytes, "held": problem.bytes / 1.5, "tolerance": 5e-3 if rounded else 2e-6}
    return Case(part, problem.name, peers.peers(problem), elements, **how)


def core(sizes: Sizes) -> Iterator[Case]:
    """Buffers of float32, beside a copy and all that is there."""
    yield from (_steps("core", problem, sizes.large) for problem in problems.CORE)
    yield from (_steps("core", problems.RMS, elements) for elements in (sizes.middle, sizes.small))


def codecs(sizes: Sizes) -> Iterator[Case]:
    """16-bit numbers and 8-bit states."""
    yield from (_steps("codecs", problem, sizes.large) for problem in problems.CODECS)


def phase(sizes: Sizes) -> Iterator[Case]:
    """Unscale, norm, skip, decay, RMSProp, average, copy, clear; and the norm alone."""
    makers: dict[str, Maker] = {"fastopt": _phase, "copy": partial(peers.copy, PHASE_BYTES)}
    makers["torch, eager"] = peers.needs("torch") or torch_phase
    yield Case("phase", "the whole phase", makers, sizes.large, PHASE_BYTES, 18.0)
    reason = peers.needs("torch")
    norms: dict[str, Maker] = {"fastopt": _norm, "copy": partial(peers.copy, 4)}
    norms["torch"] = reason or _torch_norm
    yield Case("norm", "global_norm", norms, sizes.large, 4.0, 4.0, tolerance=1.0)


def _phase(elements: int, sets: int) -> Way:
    from numba import cuda

    ones = np.ones(elements, np.float32)
    params, grads = ([cuda.to_device(ones) for _ in range(sets)] for _ in range(2))
    copies = [cuda.device_array(elements, np.float16) for _ in range(sets)]
    more = {"weight_decay": 1e-2, "average_decay": 0.999, "clip_norm": elements**0.5}
    opts = [
        fastopt.RMSProp(w, **RMSPROP, **more, skip_nonfinite=True, zero_grad=True, copy_to=copied)
        for w, copied in zip(params, copies, strict=True)
    ]
    first = lambda: float(params[0][:1].copy_to_host()[0])  # noqa: E731
    return Way(lambda i: opts[i].step(grads[i], grad_scale=SCALE), first)


def torch_phase(elements: int, sets: int, device: str = "cuda") -> Way:
    """The whole phase as people write it in eager torch."""
    import torch

    from bench.phase_torch import step_of_tensors

    settings = RMSPROP | {"weight_decay": 1e-2, "average_decay": 0.999, "clip_norm": elements**0.5}
    names = {"param": 1.0, "grad": 1.0, "square_avg": 0.0, "average": 1.0}
    arrays = [
        {name: torch.full((elements,), value, device=device) for name, value in names.items()}
        | {"copy": torch.zeros(elements, device=device, dtype=torch.float16)}
        for _ in range(sets)
    ]
    phases = [step_of_tensors(tensors, settings, SCALE) for tensors in arrays]
    return Way(lambda i: phases[i](), lambda: arrays[0]["param"][0].item())


def _norm(elements: int, sets: int) -> Way:
    from numba import cuda

    grads = [cuda.to_device(np.ones(elements, np.float32)) for _ in range(sets)]
    return Way(lambda i: fastopt.global_norm(grads[i]))


def _torch_norm(elements: int, sets: int) -> Way:
    import torch

    grads = [torch.ones(elements, device="cuda") for _ in range(sets)]
    return Way(lambda i: torch.linalg.vector_norm(grads[i]).item())


def in_torch(sizes: Sizes) -> Iterator[Case]:
    """torch's optimizers over networks: with the same gradients, with fresh ones, and in graphs."""
    names = networks.SHAPES if sizes.networks else [networks.ONE]
    for name in names:
        shapes = networks.SHAPES[name]()
        elements = sum(int(np.prod(shape)) for shape in shapes)
        for kind in networks.OPTIMIZERS if name != networks.ONE else networks.OPTIMIZERS[:1]:
            makers, moved = networks.makers(kind), 4.0 * (3 + 2 * networks.STATES[kind])
            row = partial(Case, elements=elements, bytes=moved, tolerance=1e-5)
            same, fresh = (_all(makers, networks.stepping, shapes, fresh=f) for f in (False, True))
            yield row("torch", f"{name}, {kind}", same)
            clock = partial(on_host, launches=sizes.launches)
            yield row("torch, host", f"{name}, {kind}, fresh gradients", fresh, clock=clock)
        graphs = networks.makers("Adam", capturable=True)
        graphs = {peer: make for peer, make in graphs.items() if peer != "torch, foreach"}
        replays = _all(graphs, networks.replaying, shapes)
        yield Case("graphs", f"{name}, Adam", replays, elements, 28.0, tolerance=1e-4)


def _all(makers: Any, how: Callable[..., Maker], *arguments: Any, **named: Any) -> dict[str, Maker]:
    return {
        peer: make if isinstance(make, str) else how(make, *arguments, **named)
        for peer, make in makers.items()
    }


def host(sizes: Sizes) -> Iterator[Case]:
    """What the host takes to start a step of a small buffer."""
    same = peers.peers(problems.RMS)
    del same["torch, compiled"], same["optax"]
    clock = partial(on_host, launches=sizes.launches)
    yield Case("host", "the same gradient", same, SMALL, clock=clock)
    other: dict[str, Maker] = {"fastopt": _other_gradients}
    yield Case("host", "another gradient", other, SMALL, clock=clock)


def _other_gradients(elements: int, sets: int) -> Way:
    from numba import cuda

    w, *grads = (cuda.to_device(np.ones(elements, np.float32)) for _ in range(3))
    opt = fastopt.RMSProp(w, **RMSPROP)

    def step(_: int) -> None:
        grads.reverse()
        opt.step(grads[0])

    return Way(step)


FIRST_STEP = """
import time
import numpy as np, numba, fastopt
from numba import cuda
fastopt.RMSProp, fastopt.Adam
w, g = (cuda.to_device(np.ones(1000, np.float32)) for _ in range(2))
cuda.synchronize()
start = time.perf_counter()
opt = {make}
opt.step(g)
cuda.synchronize()
print(time.perf_counter() - start)
"""
FIRST = {
    "RMSProp": "fastopt.RMSProp(w)",
    "Adam, 8-bit states, clip_norm": "fastopt.Adam(w, state_dtype='8bit', clip_norm=1.0)",
}


def first_steps(rounds: int) -> Iterator[dict[str, Any]]:
    """Rows of the report: the first step of a process, beyond imports and context, cold and warm."""
    for name, make in FIRST.items():
        program, seconds = FIRST_STEP.format(make=make), {}
        with tempfile.TemporaryDirectory() as cache:
            seconds["cold"] = _in_new_process(program, cache)
            seconds["warm"] = min(_in_new_process(program, cache) for _ in range(rounds))
        times = {f"fastopt, {when}": {"seconds": {"median": s}} for when, s in seconds.items()}
        yield {"part": "first step", "name": name, "elements": 1000, "bytes": 0.0, "peers": times}


def _in_new_process(program: str, cache: str) -> float:
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "FASTOPT_CACHE_DIR": cache, "PYTHONPATH": os.pathsep.join(paths)}
    environment.pop("FASTOPT_CACHE", None)
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout)


PARTS: dict[str, Callable[[Sizes], Iterator[Case]]] = {
    "core": core,
    "torch": in_torch,
    "codecs": codecs,
    "phase": phase,
    "host": host,
}
