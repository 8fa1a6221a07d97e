"""What a new process waits for: `import fastopt`, and the first step with a cold and a warm cache."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

# The clock starts behind `import numpy`, which the user has anyway.
IMPORT = """
import json, time, numpy as np
start = time.perf_counter()
import fastopt
print(json.dumps(time.perf_counter() - start))
"""

STEP = """
import json, time, numpy as np
w, g = np.zeros({size}, np.float32), np.ones({size}, np.float32)
start = time.perf_counter()
import fastopt
fastopt.RMSProp(w).step(g)
print(json.dumps(time.perf_counter() - start))
"""

ONE_CORE, ALL_CORES = 1000, 1_000_000


def _in_new_process(program: str, cache: str) -> float:
    environment = {**os.environ, "FASTOPT_CACHE_DIR": cache, "PYTHONPATH": str(ROOT)}
    environment.pop("FASTOPT_CACHE", None)
    run = [sys.executable, "-c", program]
    process = subprocess.run(run, env=environment, capture_output=True, text=True, check=True)
    return float(json.loads(process.stdout))


def _cold(program: str) -> Callable[[], float]:
    def sample() -> float:
        with tempfile.TemporaryDirectory() as cache:
            return _in_new_process(program, cache)

    return sample


def bench_first_step(compare: Any, benchmark: Any, tmp_path: Path) -> None:
    def warm(program: str) -> Callable[[], float]:
        return lambda: _in_new_process(program, str(tmp_path))

    one, every = STEP.format(size=ONE_CORE), STEP.format(size=ALL_CORES)
    samplers = {
        "import": warm(IMPORT),
        "warm_one_core": warm(one),
        "warm_all_cores": warm(every),
        "cold_one_core": _cold(one),
        "cold_all_cores": _cold(every),
    }
    for program in (one, every):
        _in_new_process(program, str(tmp_path))  # fills the cache, and the system's with files
    compare({"question": "first step"}, samplers, budget=15.0)
    benchmark.pedantic(samplers["warm_one_core"], rounds=3)  # with the start of Python itself
