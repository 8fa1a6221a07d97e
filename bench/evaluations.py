"""``python -m bench.evaluations``: the gradients that `fastopt.minimize` takes without a learning rate.

Stores ``results/evaluations/<machine>.json``, and writes the table of docs/scipy.md;
``--report`` only writes the table, from what is stored.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from textwrap import fill
from typing import Any

import fastopt
from bench import machine
from bench.functions import TEN, TWENTY, Case
from bench.report import insert_between
from bench.stored import newest
from bench.tables import processor, table
from fastopt.optimizers.registry import NAMES

RESULTS = Path(__file__).parent / "results" / "evaluations"
PAGE = Path(__file__).parents[1] / "docs" / "scipy.md"
GTOL, MOST = 1e-4, 5000
COLUMNS = "rmsprop", "adam"


def gradients(case: Case, optimizer: str) -> int | None:
    """How many it takes until no element is larger than `GTOL`; None where `MOST` are not enough."""
    result = fastopt.minimize(
        case.fun, case.x0, jac=True, optimizer=optimizer, gtol=GTOL, ftol=None, maxiter=MOST - 1
    )
    return result.njev if result.success else None


def measured() -> dict[str, dict[str, dict[str, int | None]]]:
    """For each optimizer, of each set of functions, by their names."""
    return {
        optimizer: {
            which: {name: gradients(case, optimizer) for name, case in cases.items()}
            for which, cases in {"ten": TEN, "twenty": TWENTY}.items()
        }
        for optimizer in NAMES
    }


def report(results: Mapping[str, Any]) -> dict[str, str]:
    """What stands between the markers of the page: a table, and a sentence about all optimizers."""
    cases = results["gradients"]
    rows = [
        [name, *(str(cases[optimizer][which][name] or "-") for optimizer in COLUMNS)]
        for which in ("ten", "twenty")
        for name in cases[COLUMNS[0]][which]
    ]
    solved = {
        optimizer: [sum(count is not None for count in counts.values()) for counts in sets.values()]
        for optimizer, sets in cases.items()
    }
    best = sorted(solved, key=lambda optimizer: -sum(solved[optimizer]))
    every = ", ".join(f"{NAMES[name]} {solved[name][0]} and {solved[name][1]}" for name in best)
    facts = results["machine"]
    where = f"{processor(facts)}, Python {facts['python']}, NumPy {facts['numpy']}, {facts['date']}"
    sentence = f"Solved of the first ten and of the twenty others: {every}. ({where}.)"
    heads = ["function", *(NAMES[optimizer] for optimizer in COLUMNS)]
    return {"evaluations": f"{table(heads, rows)}\n\n{fill(sentence, 120)}"}


def main(arguments: list[str]) -> None:
    """Measure and store, unless only the table is asked for."""
    if "--report" not in arguments:
        from cpuinfo import get_cpu_info

        facts = machine.facts(get_cpu_info())
        results = {"machine": facts, "gradients": measured()}
        RESULTS.mkdir(parents=True, exist_ok=True)
        path = RESULTS / f"{machine.name(facts)}.json"
        path.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    page = PAGE.read_text("utf-8")
    for name, text in report(newest(RESULTS)).items():
        print(text)
        page = insert_between(page, name, text)
    PAGE.write_text(page, "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
