"""``python -m bench [--full] [pytest's options]``: run the benchmarks and store the results.

A run of everything replaces ``bench/results/<machine>.json`` and updates the README; a run of a part
(``-k overhead``) only prints what it found, and with ``--add`` puts it in the place of what was stored.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from bench import machine, report

FOLDER = Path(__file__).parent


def main(arguments: list[str]) -> int:
    """Run pytest on each file and boil its reports down to what is worth keeping."""
    neighbours = machine.busy_cores()
    adds = "--add" in arguments
    arguments = [argument for argument in arguments if argument != "--add"]
    reports: list[dict[str, Any]] = []
    for file in sorted(FOLDER.glob("bench_*.py")):
        status, report_of_file = _run(file, arguments)
        if status not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            return status
        reports += report_of_file
    if not reports:
        return int(pytest.ExitCode.NO_TESTS_COLLECTED)
    facts = machine.facts(reports[0]["machine_info"]["cpu"]) | {"busy_cores_before": neighbours}
    cases = [case["extra_info"] for report in reports for case in report["benchmarks"]]
    results = {"machine": facts, "full": "--full" in arguments, "cases": cases}
    print(report.details(results))
    if adds or set(arguments) <= {"--full"}:
        path = FOLDER / "results" / f"{machine.name(facts)}.json"
        path.parent.mkdir(exist_ok=True)
        if adds:
            results = added(json.loads(path.read_text("utf-8")), results)
        path.write_text(json.dumps(_rounded(results), indent=1) + "\n", "utf-8")
        report.main([str(path)])
    return 0


def _run(file: Path, arguments: list[str]) -> tuple[int, list[dict[str, Any]]]:
    """Run one file in a process of its own: in memory that others have used, times are others."""
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw.json"
        quiet = ["-v", "--benchmark-columns=median,iqr,rounds", f"--benchmark-json={raw}"]
        quiet += ["-W", "ignore:Not saving anything"]  # where a part of all is asked for
        command = [sys.executable, "-m", "pytest", str(file), *quiet, *arguments]
        status = subprocess.run(command).returncode
        if status != pytest.ExitCode.OK or not raw.exists():
            return status, []
        return status, [json.loads(raw.read_text("utf-8"))]


def added(stored: dict[str, Any], results: dict[str, Any]) -> dict[str, Any]:
    """Stored results with the cases of others in the place of those for the same questions.

    Raises
    ------
    SystemExit
        They are of another machine: a hypervisor may give several processors one name.
    """
    differences = [
        f"{key} {results['machine'][key]!r}, not {stored['machine'][key]!r}"
        for key in machine.LIKE
        if results["machine"][key] != stored["machine"][key]
    ]
    if differences:
        raise SystemExit(f"--add needs the machine of the stored results: {'; '.join(differences)}")
    measured = {case["question"] for case in results["cases"]}
    unchanged = [case for case in stored["cases"] if case["question"] not in measured]
    return {**stored, "cases": [*unchanged, *results["cases"]]}


def _rounded(value: object) -> object:
    """Four digits are more than a time on a shared machine has."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
