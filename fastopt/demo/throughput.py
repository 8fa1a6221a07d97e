"""One step of RMSProp over a large buffer: fastopt beside the same arithmetic in NumPy."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import numpy as np

import fastopt
from fastopt.arrays.checks import Array
from fastopt.demo.memory import affordable
from fastopt.demo.output import progress, table
from fastopt.executors.dispatch import Executor

LR, BETA, EPS = 1e-3, 0.9, 1e-8

MOVED = 5 * 4  # bytes an element that any step must move: read w, g and v, write w and v
HELD = 8 * 4  # bytes an element at most: w, g, v, a second w and v, and three intermediate results

Step = Callable[[], None]


def numpy_plain(w: Array, g: Array, v: Array) -> Step:
    """The formula as it reads: every operation makes a new array."""

    def step() -> None:
        nonlocal w, v
        v = BETA * v + (1 - BETA) * g * g
        w = w - LR * (g / np.sqrt(v + EPS))

    return step


def numpy_in_place(w: Array, g: Array, v: Array) -> Step:
    """The same operations in the same order, without a new array."""
    scratch = np.empty_like(w)

    def step() -> None:
        np.multiply(g, 1 - BETA, out=scratch)
        np.multiply(scratch, g, out=scratch)
        np.multiply(v, BETA, out=v)
        np.add(v, scratch, out=v)
        np.add(v, EPS, out=scratch)
        np.sqrt(scratch, out=scratch)
        np.divide(g, scratch, out=scratch)
        np.multiply(scratch, LR, out=scratch)
        np.subtract(w, scratch, out=w)

    return step


def with_fastopt(w: Array, g: Array, v: Array, executor: Executor = "parallel") -> Step:
    """One pass over memory."""
    state = {"square_avg": v}
    optimizer = fastopt.RMSProp(w, lr=LR, beta=BETA, eps=EPS, state=state, executor=executor)
    return lambda: optimizer.step(g)


def buffers(elements: int, seed: int) -> tuple[Array, Array, Array]:
    """Parameters, gradient and accumulator."""
    w, g, v = (fastopt.empty(elements, np.float32) for _ in range(3))
    np.random.default_rng(seed).standard_normal(out=g, dtype=np.float32)
    w.fill(0)
    v.fill(0)
    return w, g, v


def same_bits(seed: int, elements: int = 4099, steps: int = 3) -> bool:
    """Whether a few steps of fastopt and of NumPy end in the same bits."""
    ends = []
    for make in (with_fastopt, numpy_in_place):
        w, g, v = buffers(elements, seed)
        step = make(w, g, v)
        for _ in range(steps):
            step()
        ends.append((w.tobytes(), v.tobytes()))
    return ends[0] == ends[1]


def measure(steps: dict[str, Step], rounds: int) -> dict[str, float]:
    """The median time of each; one after the other in every round, so that all see the same noise."""
    for step in steps.values():
        step()  # compiles, and maps the memory
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in progress(range(rounds), "timing"):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - start)
    return {name: median(seconds) for name, seconds in times.items()}


def _row(name: str, seconds: float, bytes_moved: int, fastopts: float) -> list[str]:
    speed = f"{bytes_moved / seconds / 1e9:.1f} GB/s"
    return [name, f"{seconds * 1e3:.4g} ms", speed, f"{seconds / fastopts:.1f} x"]


def show(elements: int, rounds: int, seed: int) -> None:
    """Time every way to make the step, and print the medians."""
    size = affordable(elements, HELD)
    threads = fastopt.get_num_threads()
    print(f"One RMSProp step over {size:,} float32 parameters")
    if size < elements:
        print(f"(memory is short for {elements:,})")
    w, g, v = buffers(size, seed)
    steps = {
        "NumPy, as the formula reads": numpy_plain(w, g, v),
        "NumPy, in place": numpy_in_place(w, g, v),
        "fastopt, 1 thread": with_fastopt(w, g, v, "serial"),
    }
    ours = "fastopt, 1 thread"
    if threads > 1:
        ours = f"fastopt, {threads} threads"
        steps[ours] = with_fastopt(w, g, v)
    times = measure(steps, rounds)
    rows = [_row(name, seconds, size * MOVED, times[ours]) for name, seconds in times.items()]
    print(table(["", "time", f"at {MOVED} bytes each", "times as long"], rows))
    verdict = "the same bits" if same_bits(seed) else "NOT the same bits"
    print(f"medians of {rounds} rounds; fastopt and NumPy give {verdict}")
