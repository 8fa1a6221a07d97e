"""What a new process waits for: `import fastopt`, and the first step with a cold and a warm cache.

Beside them stands what Numba takes by itself: its import, and a loop that adds one to the same array.
"""

from __future__ import annotations

import hashlib
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

NUMBA = """
import json, time, numpy as np
start = time.perf_counter()
import numba
print(json.dumps(time.perf_counter() - start))
"""

LOOP = """
import json, time, numpy as np
w = np.zeros({size}, np.float32)
start = time.perf_counter()
import numba

@numba.njit("void(float32[::1])", cache=True, parallel={size} > 1000)
def add_one(w):
    for i in numba.prange(w.size):
        w[i] += 1

add_one(w)
print(json.dumps(time.perf_counter() - start))
"""

ONE_CORE, ALL_CORES = 1000, 1_000_000


def _in_new_process(program: str, cache: str, bytecode: Path) -> float:
    """Run a program whose compiled code is kept in a folder; it times itself."""
    environment = {**os.environ, "FASTOPT_CACHE_DIR": cache, "NUMBA_CACHE_DIR": cache}
    # An installed package has its bytecode, which takes 0.2 s to compile.
    environment |= {"PYTHONPATH": str(ROOT), "PYTHONPYCACHEPREFIX": str(bytecode)}
    for name in ("FASTOPT_CACHE", "PYTHONDONTWRITEBYTECODE"):
        environment.pop(name, None)
    file = bytecode / f"{hashlib.sha256(program.encode()).hexdigest()[:8]}.py"  # Numba caches no others
    if not file.exists():
        file.write_text(program, "utf-8")
    run = [sys.executable, str(file)]
    process = subprocess.run(run, env=environment, capture_output=True, text=True, check=True)
    return float(json.loads(process.stdout))


def bench_first_step(compare: Any, benchmark: Any, tmp_path: Path) -> None:
    filled, bytecode = tmp_path / "compiled", tmp_path / "bytecode"
    bytecode.mkdir()

    def warm(program: str) -> Callable[[], float]:
        return lambda: _in_new_process(program, str(filled), bytecode)

    def cold(program: str) -> Callable[[], float]:
        def sample() -> float:
            with tempfile.TemporaryDirectory() as cache:
                return _in_new_process(program, cache, bytecode)

        return sample

    one, every = STEP.format(size=ONE_CORE), STEP.format(size=ALL_CORES)
    loop_one, loop_every = LOOP.format(size=ONE_CORE), LOOP.format(size=ALL_CORES)
    samplers = {
        "import": warm(IMPORT),
        "warm_one_core": warm(one),
        "warm_all_cores": warm(every),
        "cold_one_core": cold(one),
        "cold_all_cores": cold(every),
        "numba_import": warm(NUMBA),
        "numba_loop_warm_one_core": warm(loop_one),
        "numba_loop_warm_all_cores": warm(loop_every),
        "numba_loop_cold_one_core": cold(loop_one),
        "numba_loop_cold_all_cores": cold(loop_every),
    }
    for name, sample in samplers.items():
        if "cold" not in name:
            sample()  # fills the cache, and the system's with files
    compare({"question": "first step"}, samplers, budget=30.0)
    benchmark.pedantic(samplers["warm_one_core"], rounds=3)  # with the start of Python itself
