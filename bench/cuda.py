"""``python -m bench.cuda [--elements N] [--rounds N]``: steps on a GPU, timed by its own clock.

RMSProp in float32, precise and fast, beside a copy on the device of as many bytes and torch's foreach
and compiled forms where torch is installed with CUDA. Every way has its turn in every round, over sets
of arrays that together are larger than the L2 cache. Where there is no GPU it says so, and does not
measure anything.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np

import fastopt
from bench.measure import band
from fastopt.executors.cuda import availability

BYTES = 20  # an element: three arrays read, two written
WARM_UP = 3
MOST_SETS = 16  # buffers that need more are small: launches are measured, and no bandwidth
LAUNCHES = 200  # of the measurement of the host's work
SMALL = 1024


def _sets(elements: int) -> int:
    """How many sets of arrays it takes to be twice as large as the L2 cache, two at least."""
    from numba import cuda

    cache = int(getattr(cuda.get_current_device(), "L2_CACHE_SIZE", 0)) or 64 << 20
    return min(max(2, -(-2 * cache // (12 * elements))), MOST_SETS)


def own(elements: int, sets: int, executor: str) -> Callable[[int], None]:
    """A step of fastopt on one of the sets."""
    from numba import cuda

    ones = np.ones(elements, np.float32)
    grads = [cuda.to_device(ones) for _ in range(sets)]
    opts = [fastopt.RMSProp(cuda.to_device(ones), executor=executor) for _ in range(sets)]
    return lambda i: opts[i % sets].step(grads[i % sets])


def copy(elements: int, sets: int) -> Callable[[int], None]:
    """A copy that reads and writes as many bytes as a step moves."""
    from numba import cuda

    words = BYTES * elements // 8
    pairs = [[cuda.device_array(words, np.float32) for _ in range(2)] for _ in range(sets)]
    return lambda i: pairs[i % sets][0].copy_to_device(pairs[i % sets][1])


def torch_step(elements: int, sets: int, compiled: bool, device: str = "cuda") -> Callable[[int], None]:
    """A step of torch's RMSprop on one of the sets."""
    import torch

    steps = []
    for _ in range(sets):
        param = torch.ones(elements, device=device, requires_grad=True)
        param.grad = torch.ones(elements, device=device)
        opt = torch.optim.RMSprop([param], lr=1e-3, alpha=0.9, foreach=True)
        steps.append(torch.compile(opt.step) if compiled else opt.step)
    return lambda i: steps[i % sets]()


def ways(elements: int, sets: int) -> dict[str, Callable[[int], None]]:
    """What can be measured here, by name."""
    found: dict[str, Any] = {
        "copy on the device": copy(elements, sets),
        "fastopt": own(elements, sets, "cuda"),
        "fastopt, fast mode": own(elements, sets, "cuda-fast"),
    }
    if find_spec("torch") is not None:
        import torch

        if torch.cuda.is_available():
            found["torch foreach"] = torch_step(elements, sets, compiled=False)
            found["torch compiled"] = torch_step(elements, sets, compiled=True)
    return found


def seconds(step: Callable[[int], None], sets: int) -> float:
    """Of one step over each of the sets, by events in the default stream."""
    from numba import cuda

    first, last = cuda.event(), cuda.event()
    first.record()
    for i in range(sets):
        step(i)
    last.record()
    last.synchronize()
    return float(cuda.event_elapsed_time(first, last)) / 1e3 / sets


def measure(elements: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of a step in each round, by way."""
    from numba import cuda

    sets = _sets(elements)
    steps = ways(elements, sets)
    for step in steps.values():
        for i in range(WARM_UP * sets):
            step(i)
    cuda.synchronize()
    samples: dict[str, list[float]] = {name: [] for name in steps}
    names, shuffle = list(steps), random.Random(0).shuffle
    for _ in range(rounds):
        shuffle(names)
        for name in names:
            samples[name].append(seconds(steps[name], sets))
    return samples


def host_work() -> float:
    """Seconds that the host takes to launch a step of a small buffer."""
    from numba import cuda

    step = own(SMALL, 1, "cuda")
    step(0)
    cuda.synchronize()
    start = time.perf_counter()
    for i in range(LAUNCHES):
        step(i)
    passed = time.perf_counter() - start
    cuda.synchronize()
    return passed / LAUNCHES


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
    print(f"host, to launch a step: {host_work() * 1e6:.1f} us")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
