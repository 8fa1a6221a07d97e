"""``python -m bench [--full] [pytest's options]``: run the benchmarks and store the results.

A run of everything replaces ``bench/results/<machine>.json`` and updates the README; a run of a part
(``-k overhead``) only prints what it found, and with ``--add`` puts it in the place of what was stored.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from bench import machine, report

FOLDER = Path(__file__).parent


def main(arguments: list[str]) -> int:
    """Run pytest on this folder and boil its report down to what is worth keeping."""
    neighbours = machine.busy_cores()
    adds = "--add" in arguments
    arguments = [argument for argument in arguments if argument != "--add"]
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw.json"
        quiet = [
            "-v",
            "--durations=8",
            "--benchmark-columns=median,iqr,rounds",
            f"--benchmark-json={raw}",
        ]
        status = int(pytest.main([str(FOLDER), *quiet, *arguments]))
        if status != pytest.ExitCode.OK or not raw.exists():
            return status
        found = json.loads(raw.read_text("utf-8"))
    facts = machine.facts(found["machine_info"]["cpu"]) | {"busy_cores_before": neighbours}
    cases = [case["extra_info"] for case in found["benchmarks"]]
    results = {"machine": facts, "full": "--full" in arguments, "cases": cases}
    print(report.details(results))
    if adds or set(arguments) <= {"--full"}:
        path = FOLDER / "results" / f"{machine.name(facts)}.json"
        path.parent.mkdir(exist_ok=True)
        if adds:
            results = _added(json.loads(path.read_text("utf-8")), cases)
        path.write_text(json.dumps(_rounded(results), indent=1) + "\n", "utf-8")
        report.main([str(path)])
    return 0


def _added(stored: dict[str, Any], cases: list[Any]) -> dict[str, Any]:
    """Stored results with other cases for some of the questions."""
    measured = {case["question"] for case in cases}
    kept = [case for case in stored["cases"] if case["question"] not in measured]
    return {**stored, "cases": [*kept, *cases]}


def _rounded(value: object) -> object:
    """Four digits are more than a time on a shared machine has."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
