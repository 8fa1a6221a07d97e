"""``python -m bench [--full] [pytest's options]``: run the benchmarks and store the results.

A run of everything replaces ``bench/results/<machine>.json`` and updates README and pages; a run of a
part (``-k overhead``) only prints what it found, and with ``--add`` puts it in the place of what was
stored.

Every case is kept in ``build/bench`` as soon as it is measured. After an interrupted run ``--resume``
measures the rest, and ``--finish`` stores what there is. A case that fails costs no other.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from bench import machine, report

FOLDER = Path(__file__).parent
RUN = FOLDER.parent / "build" / "bench"  # a run in progress: how it was started, and its cases so far
STARTED, CASES = RUN / "started.json", RUN / "cases.jsonl"
LONGEST = 1800  # seconds of a file: one that hangs is given up


def main(arguments: list[str]) -> int:
    """Run pytest on each file, and store what it measured."""
    if {"--resume", "--finish"} & set(arguments):
        start = _resumed()
    else:
        start = {"arguments": arguments, "commit": machine.commit(), "neighbours": machine.busy_cores()}
        RUN.mkdir(parents=True, exist_ok=True)
        CASES.write_text("", "utf-8")
        STARTED.write_text(json.dumps(start) + "\n", "utf-8")
    files = [] if "--finish" in arguments else sorted(FOLDER.glob("bench_*.py"))
    try:
        failed = [file.name for file in files if not _run(file, _for_pytest(start["arguments"]))]
    except KeyboardInterrupt:
        print("interrupted: --resume measures the rest, --finish stores what there is", file=sys.stderr)
        return int(pytest.ExitCode.INTERRUPTED)
    cases = [json.loads(line)["case"] for line in CASES.read_text("utf-8").splitlines()]
    if cases:
        _store(start, cases)
    for name in failed:
        print(f"{name} failed: what is missing can be measured with -k and --add", file=sys.stderr)
    return int(bool(failed) or not cases)


def _resumed() -> dict[str, Any]:
    """How the run in progress was started.

    Raises
    ------
    SystemExit
        There is none, or what was measured is another commit.
    """
    if not STARTED.exists():
        raise SystemExit("there is no run to resume")
    start: dict[str, Any] = json.loads(STARTED.read_text("utf-8"))
    if start["commit"] != machine.commit():
        raise SystemExit(
            f"the run in progress measures commit {start['commit']}, not {machine.commit()}"
        )
    return start


def _for_pytest(arguments: list[str]) -> list[str]:
    return [argument for argument in arguments if argument != "--add"]


def _run(file: Path, arguments: list[str]) -> bool:
    """Run one file in a process of its own: in memory that others have used, times are others."""
    quiet = ["-v", "--benchmark-columns=median,iqr,rounds", f"--store={CASES}"]
    command = [sys.executable, "-m", "pytest", str(file), *quiet, *arguments]
    try:
        status = subprocess.run(command, timeout=LONGEST).returncode
    except subprocess.TimeoutExpired:
        return False
    return status in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)


def _store(start: Mapping[str, Any], cases: list[dict[str, Any]]) -> None:
    """Print what was measured, and store it if it is everything or to be added."""
    from cpuinfo import get_cpu_info

    facts = machine.facts(get_cpu_info())
    facts |= {"commit": start["commit"], "busy_cores_before": start["neighbours"]}
    results = {"machine": facts, "full": "--full" in start["arguments"], "cases": cases}
    print(report.details(results))
    adds = "--add" in start["arguments"]
    if adds or set(start["arguments"]) <= {"--full"}:
        path = FOLDER / "results" / f"{machine.name(facts)}.json"
        path.parent.mkdir(exist_ok=True)
        if adds:
            results = added(json.loads(path.read_text("utf-8")), results)
        path.write_text(json.dumps(_rounded(results), indent=1) + "\n", "utf-8")
        report.main()


def added(stored: dict[str, Any], results: dict[str, Any]) -> dict[str, Any]:
    """Stored results with the cases of others in the place of those for the same questions.

    Each of them says when it was measured, and of which commit.

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
    when = {"measured": {key: results["machine"][key] for key in ("date", "commit")}}
    return {**stored, "cases": [*unchanged, *(case | when for case in results["cases"])]}


def _rounded(value: object) -> object:
    """Four digits are more than a time on a shared machine has."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
