"""``python -m bench.cuda [--elements N] [--rounds N]``: steps on a GPU, timed by its own clock.

RMSProp in float32, precise and fast, beside a copy on the device of as many bytes, and what of these is
installed with CUDA: torch's foreach and compiled forms and fastopt's step in torch, a fused kernel of
CuPy, optax under jit. Every way has its turn in every round, over sets of arrays that together are
larger than the L2 cache, and must give the right number first. jax has streams of its own: its time is
the host's, until all is done. Where there is no GPU this says so, and does not measure anything.
"""

from __future__ import annotations

import argparse
import os
import random
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np

import fastopt
from bench.measure import band
from fastopt.executors.cuda import availability

BYTES = 20  # an element: three arrays read, two written
WARM_UP = 3
MOST_SETS = 16  # buffers that need more are small: launches are measured, and no bandwidth
LAUNCHES = 200  # of the measurement of the host's work
SMALL = 1024

LR, BETA, EPS = 1e-3, 0.9, 1e-8
ONE_STEP = 1.0 - LR / ((1.0 - BETA) ** 0.5 + EPS)  # from 1, with a gradient of 1


class Way(NamedTuple):
    """A way to step: `step(i)` on the i-th set, `first()` an element of set 0."""

    step: Callable[[int], None]
    first: Callable[[], float]
    wait: Callable[[], None] | None = None  # for what is not in the default stream


def _sets(elements: int) -> int:
    """How many sets of arrays it takes to be twice as large as the L2 cache, two at least."""
    from numba import cuda

    cache = int(getattr(cuda.get_current_device(), "L2_CACHE_SIZE", 0)) or 64 << 20
    return min(max(2, -(-2 * cache // (12 * elements))), MOST_SETS)


def own(elements: int, sets: int, fast: bool) -> Way:
    """fastopt."""
    from numba import cuda

    ones = np.ones(elements, np.float32)
    grads, params = ([cuda.to_device(ones) for _ in range(sets)] for _ in range(2))
    opts = [fastopt.RMSProp(w, lr=LR, beta=BETA, eps=EPS, fast=fast) for w in params]
    return Way(lambda i: opts[i].step(grads[i]), lambda: float(params[0][:1].copy_to_host()[0]))


def copy(elements: int, sets: int) -> Way:
    """A copy that reads and writes as many bytes as a step moves."""
    from numba import cuda

    words = BYTES * elements // 8
    pairs = [[cuda.device_array(words, np.float32) for _ in range(2)] for _ in range(sets)]
    return Way(lambda i: pairs[i][0].copy_to_device(pairs[i][1]), lambda: ONE_STEP)


def _tensors(elements: int, sets: int, device: str) -> list[Any]:
    import torch

    params = [torch.ones(elements, device=device, requires_grad=True) for _ in range(sets)]
    for param in params:
        param.grad = torch.ones(elements, device=device)
    return params


def torch_step(kind: Any, elements: int, sets: int, device: str = "cuda", **options: Any) -> Way:
    """An RMSprop of torch's making, or made like it."""
    params = _tensors(elements, sets, device)
    opts = [kind([param], lr=LR, alpha=BETA, eps=EPS, **options) for param in params]
    return Way(lambda i: opts[i].step(), lambda: params[0][0].item())


def torch_compiled(elements: int, sets: int, device: str = "cuda") -> Way:
    """The formula, compiled once for all sets: compiled optimizers would be as many programs."""
    import torch

    def update(param: Any, grad: Any, square: Any) -> None:
        square.mul_(BETA).addcmul_(grad, grad, value=1.0 - BETA)
        param.addcdiv_(grad, square.sqrt().add_(EPS), value=-LR)

    given = [
        (p.detach(), p.grad, torch.zeros_like(p.detach())) for p in _tensors(elements, sets, device)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch about its own future
        compiled = torch.compile(update)
        compiled(*(array.clone() for array in given[0]))
    return Way(lambda i: compiled(*given[i]), lambda: given[0][0][0].item())


def cupy_kernel(cupy: Any, elements: int, sets: int) -> Way:
    """A kernel that CuPy makes of the formula."""
    update = cupy.ElementwiseKernel(
        "float32 g, float32 lr, float32 beta, float32 rest, float32 eps",
        "float32 v, float32 w",
        "v = beta * v + rest * g * g; w = w - lr * g / (sqrt(v) + eps)",
        "rmsprop",
    )
    grads, params = ([cupy.ones(elements, np.float32) for _ in range(sets)] for _ in range(2))
    squares = [cupy.zeros(elements, np.float32) for _ in range(sets)]

    def step(i: int) -> None:
        update(grads[i], LR, BETA, 1.0 - BETA, EPS, squares[i], params[i])

    return Way(step, lambda: float(params[0][0]))


def optax_step(elements: int, sets: int, platform: str = "gpu") -> Way:
    """optax under jit, old buffers donated to the new ones."""
    import jax
    import optax

    where = jax.devices(platform)[0]
    with jax.default_device(where):
        grads, params = ([jax.numpy.ones(elements, np.float32) for _ in range(sets)] for _ in range(2))
    optimizer = optax.rmsprop(LR, decay=BETA, eps=EPS, eps_in_sqrt=False)
    states = [optimizer.init(param) for param in params]

    def update(param: Any, state: Any, grad: Any) -> tuple[Any, Any]:
        change, state = optimizer.update(grad, state, param)
        return optax.apply_updates(param, change), state

    jitted = jax.jit(update, donate_argnums=(0, 1))

    def step(i: int) -> None:
        params[i], states[i] = jitted(params[i], states[i], grads[i])

    return Way(step, lambda: float(params[0][0]), lambda: jax.block_until_ready((params, states)))


def makers() -> Iterator[tuple[str, Callable[[int, int], Way] | str]]:
    """What can be measured here, by name; a text says why it cannot."""
    yield "copy on the device", copy
    yield "fastopt", lambda n, sets: own(n, sets, fast=False)
    yield "fastopt, fast mode", lambda n, sets: own(n, sets, fast=True)
    yield from _of_torch()
    if find_spec("cupy") is None:
        yield "CuPy, fused", "CuPy is not installed"
    else:
        import cupy

        yield "CuPy, fused", lambda n, sets: cupy_kernel(cupy, n, sets)
    if find_spec("optax") is None:
        yield "optax, jit", "optax is not installed"
    else:
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # else jax takes all memory
        import jax

        try:
            jax.devices("gpu")
        except RuntimeError:
            yield "optax, jit", "jax has no GPU"
        else:
            yield "optax, jit", optax_step


def _of_torch() -> Iterator[tuple[str, Callable[[int, int], Way] | str]]:
    problem = "torch is not installed"
    if find_spec("torch") is not None:
        import torch

        problem = "" if torch.cuda.is_available() else "torch has no CUDA"
    if problem:
        yield "torch", problem
        return
    from fastopt.interop.torch import RMSprop

    yield "torch, foreach", lambda n, s: torch_step(torch.optim.RMSprop, n, s, foreach=True)
    yield "torch, compiled", torch_compiled
    yield "torch, with fastopt", lambda n, s: torch_step(RMSprop, n, s)


def check(name: str, way: Way) -> None:
    """Take a first step, and see that it is the right one."""
    way.step(0)
    if way.wait is not None:
        way.wait()
    found = way.first()
    if not abs(found - ONE_STEP) < 1e-6:
        raise AssertionError(f"{name} gives {found!r} after one step, and not {ONE_STEP!r}")


def ways(elements: int, sets: int) -> tuple[dict[str, Way], dict[str, str]]:
    """Those that work, and for the others why they do not."""
    found, missing = {}, {}
    for name, make in makers():
        if isinstance(make, str):
            missing[name] = make
            continue
        try:
            found[name] = make(elements, sets)
            check(name, found[name])
        except AssertionError:
            raise
        except Exception as error:  # no compiler, too little memory: of many kinds
            if name.startswith(("copy", "fastopt")):
                raise
            found.pop(name, None)
            missing[name] = f"{type(error).__name__}: {error}".partition("\n")[0]
    return found, missing


def seconds(way: Way, sets: int) -> float:
    """Of one step over each of the sets: by events, or by the host's clock where these see nothing."""
    from numba import cuda

    if way.wait is not None:
        way.wait()
        start = time.perf_counter()
        for i in range(sets):
            way.step(i)
        way.wait()
        return (time.perf_counter() - start) / sets
    first, last = cuda.event(), cuda.event()
    first.record()
    for i in range(sets):
        way.step(i)
    last.record()
    last.synchronize()
    return float(cuda.event_elapsed_time(first, last)) / 1e3 / sets


def measure(elements: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of a step in each round, by way."""
    from numba import cuda

    sets = _sets(elements)
    found, missing = ways(elements, sets)
    for name, reason in missing.items():
        print(f"{name}: did not run: {reason}")
    for way in found.values():
        for i in range(WARM_UP * sets):
            way.step(i % sets)
    cuda.synchronize()
    samples: dict[str, list[float]] = {name: [] for name in found}
    names, shuffle = list(found), random.Random(0).shuffle
    for _ in range(rounds):
        shuffle(names)
        for name in names:
            samples[name].append(seconds(found[name], sets))
    return samples


def host_work() -> dict[str, float]:
    """Seconds that the host takes to launch a step of a small buffer, by way."""
    from numba import cuda

    taken = {}
    for name, way in ways(SMALL, 1)[0].items():
        for _ in range(WARM_UP):
            way.step(0)
        cuda.synchronize()
        start = time.perf_counter()
        for _ in range(LAUNCHES):
            way.step(0)
        taken[name] = (time.perf_counter() - start) / LAUNCHES
        cuda.synchronize()
    return taken


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; the result is the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.cuda", description="Steps on a GPU.")
    parser.add_argument("--elements", type=int, default=10**8)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args(arguments)
    missing = availability.missing()
    if missing is not None:
        print(f"the benchmarks for a GPU did not run: {missing}")
        return 0
    print(availability.describe())
    samples = measure(options.elements, options.rounds)
    moved = BYTES * options.elements
    reference = band(samples["copy on the device"])["median"]
    print(f"{options.elements} float32, {BYTES} bytes an element; median of {options.rounds} rounds")
    for name, times in samples.items():
        found = band(times)
        speed, ratio = moved / found["median"] / 1e9, found["median"] / reference
        spread = f"{found['low'] * 1e3:.3f} to {found['high'] * 1e3:.3f}"
        print(f"{name:20} {found['median'] * 1e3:8.3f} ms ({spread}) {speed:7.0f} GB/s {ratio:6.2f} x")
    print(f"the host, to launch a step of {SMALL} elements")
    for name, taken in host_work().items():
        print(f"{name:20} {taken * 1e6:8.1f} us")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
