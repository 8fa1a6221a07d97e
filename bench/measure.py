"""Times of several ways to do one thing, taken in turns.

A shared machine is fast in one second and slow in the next. So nothing is timed after the other: in
every round each way has its turn, ratios are formed within a round, and what is reported is the
median over the rounds with the band that holds the middle three fifths of them.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Mapping
from itertools import repeat
from typing import TypeAlias

Sampler: TypeAlias = Callable[[], float]
Band: TypeAlias = dict[str, float]

TURN = 0.01  # seconds that one turn of a quick function lasts
PAUSE = 0.004  # seconds between turns: worker threads of the one before stop spinning
SLOW = 0.1  # seconds of a call that needs no warming up
# Rounds: of what takes long; of the rest if time is short, in a quick run and a full one; of all.
FEWEST, QUICK, ENOUGH, MOST = 3, 9, 15, 61
LONG = 1.0  # seconds of a turn


def timed(function: Callable[[], object], calls: int = 1) -> Sampler:
    """A sampler of `function`, which counts as that many calls: seconds a call, warm."""

    def run(times: int) -> float:
        start = time.perf_counter()
        for _ in repeat(None, times):
            function()
        return time.perf_counter() - start

    times = 1
    while (last := run(times)) < TURN / 2 and times < 1 << 20:
        times *= 2
    warms_up = last < SLOW

    def sample() -> float:
        time.sleep(PAUSE)
        if warms_up:
            run(max(1, times // 4))  # untimed: caches, threads and clock are as in a loop
        return run(times) / times / calls

    return sample


def interleave(
    samplers: Mapping[str, Sampler], budget: float, enough: int = ENOUGH
) -> dict[str, list[float]]:
    """Let every sampler have its turn, `enough` rounds and more, for about `budget` seconds.

    Returns
    -------
    dict
        Name of a sampler -> its seconds in each round; what takes long has only the first few.
    """
    samples: dict[str, list[float]] = {name: [] for name in samplers}
    names = list(samplers)
    shuffle = random.Random(0).shuffle
    collecting = gc.isenabled()
    gc.disable()
    try:
        start = time.perf_counter()
        for rounds in range(MOST):
            if rounds >= enough and time.perf_counter() - start > budget:
                break
            shuffle(names)  # nobody always follows the same neighbour, whose data are in the cache
            for name in names:
                if rounds < FEWEST or samples[name][-1] < LONG:
                    samples[name].append(samplers[name]())
    finally:
        if collecting:
            gc.enable()
    return samples


def band(values: list[float]) -> Band:
    """The median, and where the middle 60 % of the values lie."""
    cuts = statistics.quantiles(values, n=5, method="inclusive")
    return {"median": statistics.median(values), "low": cuts[0], "high": cuts[3]}


def ratios(above: list[float], below: list[float]) -> list[float]:
    """The quotient in each round that both took part in."""
    return [one / other for one, other in zip(above, below, strict=False)]
