"""Times on a GPU: all ways take turns, over sets of buffers that together exceed the L2 cache."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from bench.measure import band

WARM_UP = 3
MOST_SETS = 16  # buffers that need more are small: launches are measured, and no bandwidth
FEWEST = 3  # rounds, however long they take


class Way(NamedTuple):
    """A way to step: `step(i)` on the i-th set, `first()` an element of set 0."""

    step: Callable[[int], object]
    first: Callable[[], float] | None = None  # None: it computes nothing that could be checked
    wait: Callable[[], object] | None = None  # for what is not in the default stream
    setup: Callable[[int], object] | None = None  # untimed, as a backward pass before a step


# What makes a way for some elements and sets of buffers, or why it cannot.
Maker = Callable[[int, int], Way] | str


def sets_of(elements: int, held: float) -> int:
    """How many sets of `held` bytes an element it takes to be twice as large as the L2 cache."""
    from numba import cuda

    cache = int(getattr(cuda.get_current_device(), "L2_CACHE_SIZE", 0)) or 64 << 20
    return min(max(2, -(-2 * cache // int(held * elements))), MOST_SETS)


def prepare(
    makers: Mapping[str, Maker], elements: int, sets: int, tolerance: float
) -> tuple[dict[str, Way], dict[str, str]]:
    """The ways that work and agree with fastopt's number after one step, and why others do not."""
    ways: dict[str, Way] = {}
    missing: dict[str, str] = {}
    expected: float | None = None
    for name, make in makers.items():
        if isinstance(make, str):
            missing[name] = make
            continue
        try:
            way = make(elements, sets)
            number = _first_number(way)
        except Exception as error:  # no compiler, too little memory: of many kinds
            missing[name] = f"{type(error).__name__}: {error}".partition("\n")[0][:200]
            continue
        if number is not None:
            expected = number if expected is None else expected
            if not abs(number - expected) <= tolerance:
                missing[name] = f"gives {number!r} after one step, and not {expected!r}"
                continue
        ways[name] = way
    return ways, missing


def _first_number(way: Way) -> float | None:
    if way.setup is not None:
        way.setup(0)
    way.step(0)
    if way.wait is not None:
        way.wait()
    return None if way.first is None else way.first()


def on_device(way: Way, sets: int) -> float:
    """Seconds of a step over each of the sets, by events; by the host's clock where they see nothing.

    The time includes what the device waits for the host.
    """
    from numba import cuda

    if way.setup is not None:
        for i in range(sets):
            way.setup(i)
    if way.wait is not None:
        way.wait()
        start = time.perf_counter()
        for i in range(sets):
            way.step(i)
        way.wait()
        return (time.perf_counter() - start) / sets
    first, last = cuda.event(), cuda.event()
    cuda.synchronize()
    first.record()
    for i in range(sets):
        way.step(i)
    last.record()
    last.synchronize()
    return float(cuda.event_elapsed_time(first, last)) / 1e3 / sets


def on_host(way: Way, sets: int, launches: int) -> float:
    """Seconds that the host takes for a step, while the device works or has nothing to do."""
    from numba import cuda

    taken = 0.0
    cuda.synchronize()
    for number in range(launches):
        if way.setup is not None:
            way.setup(number % sets)
        start = time.perf_counter()
        way.step(number % sets)
        taken += time.perf_counter() - start
    cuda.synchronize()
    return taken / launches


def in_turns(
    ways: Mapping[str, Way], sets: int, seconds: Callable[[Way, int], float], rounds: int, budget: float
) -> dict[str, dict[str, float]]:
    """The median and the band of each way's seconds, of as many rounds as the budget has time for."""
    from numba import cuda

    for way in ways.values():
        for i in range(WARM_UP * sets if rounds > FEWEST else sets):
            if way.setup is not None:
                way.setup(i % sets)
            way.step(i % sets)
        if way.wait is not None:
            way.wait()
    cuda.synchronize()
    samples: dict[str, list[float]] = {name: [] for name in ways}
    names, shuffle, start = list(ways), random.Random(0).shuffle, time.perf_counter()
    for number in range(rounds):
        if number >= FEWEST and time.perf_counter() - start > budget:
            break
        shuffle(names)
        for name in names:
            samples[name].append(seconds(ways[name], sets))
    return {name: band(times) for name, times in samples.items()}


@contextmanager
def freed() -> Iterator[None]:
    """Give back what libraries keep of the device's memory, when a case is through."""
    import gc
    import sys

    try:
        yield
    finally:
        gc.collect()
        torch: Any = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()
        cupy: Any = sys.modules.get("cupy")
        if cupy is not None:
            cupy.get_default_memory_pool().free_all_blocks()
