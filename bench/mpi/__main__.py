"""``python -m bench.mpi``: measure sharded steps on two ranks, store it, and write the page's tables.

``python -m bench.mpi --report`` only writes the tables and the figure, from the stored results.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench import machine
from bench.measure import band
from bench.mpi import report
from bench.stored import newest

RESULTS = Path(__file__).parents[1] / "results" / "mpi"
SIZES = {10**6: 25, 10**7: 15, 25 * 10**6: 11, 5 * 10**7: 11, 10**8: 5}  # elements -> rounds
RANKS = 2


def measured(size: int, rounds: int) -> dict[str, Any]:
    """The bands of the seconds of every job, and of some ratios within a round."""
    beside = shutil.which(Path(sys.executable).with_name("mpiexec"))
    mpiexec = beside or shutil.which("mpiexec")
    if mpiexec is None:
        raise SystemExit("there is no mpiexec: pip install mpi4py mpich")
    command = [mpiexec, "-bind-to", "core", "-n", str(RANKS), sys.executable, "-m", "bench.mpi.ranks"]
    process = subprocess.run(
        [*command, f"{size}", f"{rounds}"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
        env=os.environ | {"NUMBA_NUM_THREADS": "1"},
    )
    result: dict[str, Any] = json.loads(process.stdout)
    seconds = result.pop("seconds")
    sums = {
        "parts": ("reduce", "local", "gather"),
        "parts_at_once": ("reduce_at_once", "local_at_once", "gather_at_once"),
    }
    for name, parts in sums.items():
        seconds[name] = [sum(values) for values in zip(*(seconds[part] for part in parts), strict=True)]
    pairs = {
        "local / one_rank": ("local_at_once", "one_rank"),
        "step / parts_at_once": ("step", "parts_at_once"),
        "step / parts": ("step", "parts"),
        "step / step_at_once": ("step", "step_at_once"),
    }
    ratios = {
        name: band([one / other for one, other in zip(seconds[a], seconds[b], strict=True)])
        for name, (a, b) in pairs.items()
    }
    times = {name: band(values) | {"least": min(values)} for name, values in seconds.items()}
    return result | {"seconds": times, "ratios": ratios}


def main(arguments: list[str]) -> None:
    """Measure if asked to, then write everything."""
    if "--report" not in arguments:
        import cpuinfo
        from mpi4py import MPI

        facts = machine.facts(cpuinfo.get_cpu_info())
        facts["mpi"] = " ".join(MPI.Get_library_version().split()[:3])
        facts |= {"busy_cores_before": machine.busy_cores(), "commit": machine.commit()}
        RESULTS.mkdir(parents=True, exist_ok=True)
        cases = []
        for size, rounds in SIZES.items():  # stored as they come
            cases.append(measured(size, rounds))
            text = json.dumps({"machine": facts, "cases": cases}, indent=1)
            (RESULTS / f"{machine.name(facts)}.json").write_text(text + "\n", "utf-8")
    report.write(newest(RESULTS))


if __name__ == "__main__":
    main(sys.argv[1:])
