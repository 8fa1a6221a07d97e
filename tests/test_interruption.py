"""Whatever interrupts a step, parameters, states and counts agree, and the next step is right."""

import os
import sys
from pathlib import Path

import pytest

from tests import subprocesses
from tests.subprocesses import needs_jit, script

ROOT = Path(__file__).parents[1]
CACHE = os.environ.get("FASTOPT_CACHE_DIR", ROOT / "build" / "cache")


@needs_jit
def test_an_exception_at_any_line():
    """At four lines of each action; ``python -m tests.fuzz.interruption`` does so at more."""
    code = "from tests.fuzz import interruption; print(interruption.play(seed=20, most=4) > 500)"
    process = subprocesses.start(code, CACHE, cwd=ROOT)
    assert subprocesses.finish(process) == "True"


# Ctrl-C at random moments of steps that take milliseconds. `step(i)` takes the i-th step.
INTERRUPTS = """
    import random, signal
    import numpy as np

    def interrupt(step, count, interrupts, seed):
        rng, done = random.Random(seed), 0
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
        while done < interrupts:
            try:
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-4, 1e-2))
                while True:
                    step(count())
            except KeyboardInterrupt:
                done += 1
        signal.setitimer(signal.ITIMER_REAL, 0)
        return count()
"""

MANY = """
    import fastopt

    def made():
        w = [np.ones(3_000_000, np.float32), np.ones(200_000, np.float32), np.ones(16, np.float32)]
        return fastopt.Adam(w, executor=EXECUTOR)

    def gradients(opt, number):
        return [None if (number + i) % 3 == 0 else GRADS[i] for i in range(3)]

    GRADS = [np.linspace(-1, 1, n, dtype=np.float32) for n in (3_000_000, 200_000, 16)]
    opt, plain = made(), made()
    for number in range(3):
        made().step(gradients(opt, number))
    taken = interrupt(lambda i: opt.step(gradients(opt, i)), lambda: opt.step_count, 40, 5)
    for number in range(taken):
        plain.step(gradients(plain, number))
    assert opt.step_count == plain.step_count == taken > 0
    assert opt.state_dict()["lags"] == plain.state_dict()["lags"]
    for own, other in zip(opt.params, plain.params, strict=True):
        assert own.tobytes() == other.tobytes()
    print("same")
"""


@needs_jit
@pytest.mark.skipif(sys.platform == "win32", reason="there are no timers that send signals")
@pytest.mark.parametrize("executor", ["serial", "parallel"])
def test_ctrl_c_in_long_steps(executor):
    code = script(f"EXECUTOR = {executor!r}", INTERRUPTS, MANY)
    assert subprocesses.finish(subprocesses.start(code, CACHE, cwd=ROOT)) == "same"
