"""``python -m bench.cuda [--only PART] [--rounds N] [--seconds S]``: steps on a GPU.

Buffers of several formats, networks in torch, graphs, the norm, the whole phase, what the host takes,
and the first step of a process, each beside a copy on the device and the libraries that are installed;
those that are missing are named with the reason. A whole run stores `results/cuda/<GPU>.json`, from
which ``python -m bench.cuda.report`` writes the table of `docs/cuda.md`. Where there is no GPU this
says so, and measures nothing.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.cuda import cases, report
from bench.cuda.clock import freed, in_turns, prepare, sets_of
from fastopt.executors.cuda import availability

LIMIT = 230.0  # seconds of a whole run: what is not reached then is named
FIRST_STEPS = "first step"


def measured(case: cases.Case, sets: int, rounds: int, budget: float) -> dict[str, Any]:
    """What was measured of a case, for the report."""
    with freed():
        ways, missing = prepare(case.makers, case.elements, sets, case.tolerance)
        bands = in_turns(ways, sets, case.clock, rounds, budget)
        ways.clear()
    row = {"part": case.part, "name": case.name, "elements": case.elements, "bytes": case.bytes}
    times = {peer: {"seconds": seconds} for peer, seconds in bands.items()}
    return row | {"peers": times, "missing": missing}


def measure(
    parts: list[str], sizes: cases.Sizes, rounds: int, limit: float
) -> Iterator[dict[str, Any]]:
    """Measure the cases of these parts, as far as there is time."""
    start = time.perf_counter()
    chosen = [case for part in parts if part in cases.PARTS for case in cases.PARTS[part](sizes)]
    for number, case in enumerate(chosen):
        left = limit - (time.perf_counter() - start)
        row = {"part": case.part, "name": case.name, "elements": case.elements, "bytes": case.bytes}
        if left < 0:
            yield row | {"peers": {}, "missing": {"all": f"not reached within {limit:.0f} s"}}
            continue
        sets = sizes.sets or sets_of(case.elements, case.held)
        yield measured(case, sets, rounds, left / (2 * (len(chosen) - number)))
    if FIRST_STEPS in parts:
        yield from cases.first_steps(2)


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, and store a whole run; the result is the exit status."""
    parts = [*cases.PARTS, FIRST_STEPS]
    parser = argparse.ArgumentParser(prog="python -m bench.cuda", description="Steps on a GPU.")
    parser.add_argument("--only", choices=parts, action="append", help="measure a part, store nothing")
    parser.add_argument("--rounds", type=int, default=15, help="of each case, two at least")
    parser.add_argument("--seconds", type=float, default=LIMIT, help="that a run may take")
    parser.add_argument("--smoke", action="store_true", help="tiny buffers: whether everything runs")
    parser.add_argument("--results", type=Path, default=report.RESULTS, help="where to store")
    options = parser.parse_args(arguments)
    missing = availability.missing()
    if missing is not None:
        print(f"the benchmarks for a GPU did not run: {missing}")
        return 0
    machine = report.machine()
    print(machine["gpu"])
    sizes = cases.TINY if options.smoke else cases.Sizes()
    rows = []
    for row in measure(options.only or parts, sizes, max(2, options.rounds), options.seconds):
        print(report.line(row), flush=True)
        rows.append(row)
    if not options.only and (not options.smoke or options.results != report.RESULTS):
        path = report.store({"machine": machine, "cases": rows}, options.results)
        print(f"stored {path}; python -m bench.cuda.report writes the page")
    failed = any(_is_broken(row) for row in rows)
    return 1 if failed else 0


def _is_broken(row: dict[str, Any]) -> bool:
    """Whether fastopt itself failed, for another reason than a library that is not there."""
    reasons = [why for peer, why in row.get("missing", {}).items() if peer.startswith("fastopt")]
    return any("is not installed" not in why and "has no CUDA" not in why for why in reasons)


if __name__ == "__main__":
    raise SystemExit(main())
