"""Ctrl-C at random moments: what an optimizer holds is always what its count says.

A timer raises KeyboardInterrupt in this process, as Ctrl-C does. A run without interrupts says what
there is after each number of steps.
"""

import contextlib
import signal
import time
import zlib
from typing import Any

import numpy as np

import fastopt
from tests.fuzz import numbers
from tests.fuzz.numbers import Schedule
from tests.fuzz.stories import SHARED

RECIPES = {
    "plain": ("SGD", {}),
    "adam": ("Adam", {"lr": Schedule("falling", 0.01, 0.1)}),
    "momentum": ("RMSProp", {"momentum": 0.9, "average_decay": 0.9}),
    "clipped": ("RMSProp", {"clip_norm": 1.0, "skip_nonfinite": True}),
    "exact": ("SGD", {"sparse": "exact"}),
    "lazy": ("Adam", {"sparse": "lazy"}),
}
STEPS = 60


def draw(seed: int) -> dict[str, Any]:
    """How large, by which executor, and when it is interrupted, in parts of a step's time."""
    recipe = numbers.choose(seed // SHARED, "signals").choice(list(RECIPES))
    rng = numbers.choose(seed, "signals")
    return {
        "signals": recipe,
        "size": rng.choice([16, 4096, 50_000, 300_000]),
        "executor": rng.choice(["auto", "serial", "parallel"]),
        "several": rng.random() < 0.3,
        "delays": [round(rng.random() * rng.choice([0.5, 1, 2, 5]), 4) for _ in range(STEPS // 2)],
    }


class Training:
    """An optimizer of the case, with a few gradients of which each step takes one."""

    def __init__(self, case: dict[str, Any]) -> None:
        kind, settings = RECIPES[case["signals"]]
        shape = (case["size"] // 16, 16) if settings.get("sparse") else (case["size"],)
        rng = np.random.default_rng(7)
        start = [rng.normal(size=shape).astype(np.float32) for _ in range(1 + case["several"])]
        self.params = start
        self.grads = [
            [self.gradient(rng, shape, settings.get("sparse")) for _ in start] for _ in range(3)
        ]
        container = start if case["several"] else start[0]
        self.several = case["several"]
        self.opt = getattr(fastopt, kind)(container, **settings, executor=case["executor"])

    @staticmethod
    def gradient(rng: Any, shape: tuple[int, ...], sparse: Any) -> Any:
        whole = rng.normal(size=shape).astype(np.float32)
        if not sparse or rng.random() < 0.4:
            return whole
        rows = np.sort(rng.choice(shape[0], max(1, shape[0] // 2), replace=False))
        return rows, whole[rows]

    def step(self) -> None:
        grads = self.grads[self.opt.step_count % len(self.grads)]
        self.opt.step(grads if self.several else grads[0])

    def digest(self) -> int:
        """All parameters and states, in a number."""
        checksum = 0
        arrays = list(self.params)
        for item in self.opt.state.values():
            arrays += item if self.several else [item]
        for item in arrays:
            checksum = zlib.crc32(np.ascontiguousarray(item), checksum)
        return checksum


def try_case(case: dict[str, Any]) -> None:
    """As many interrupts as there are delays, and comparisons after each."""
    steady = Training(case)
    history = [steady.digest()]
    begin = time.perf_counter()
    for _ in range(STEPS):
        steady.step()
    duration = (time.perf_counter() - begin) / STEPS
    steady = Training(case)
    training = Training(case)
    with _interrupts() as interrupt_after:
        for delay in case["delays"]:
            try:
                interrupt_after(max(delay * duration, 1e-6))
                while True:
                    training.step()
            except KeyboardInterrupt:
                interrupt_after(0)
            _compare(training, steady, history)


def _compare(training: Training, steady: Training, history: list[int]) -> None:
    count = training.opt.step_count
    while len(history) <= count:
        steady.step()
        history.append(steady.digest())
    what = f"interrupted: not what there is after {count} steps"
    near = [i - count for i, digest in enumerate(history) if digest == training.digest()]
    if not near:
        steady.step()
        near = [1] if steady.digest() == training.digest() else []
    assert near == [0], f"{what}, but {near[0]:+d}" if near else what


@contextlib.contextmanager
def _interrupts() -> Any:
    """A function that has this thread interrupted after so many seconds; 0 calls it off."""
    original = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        yield lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, original)
