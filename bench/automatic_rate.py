"""``python -m bench.automatic_rate``: ``lr="auto"`` beside thirteen constant learning rates.

All rates run side by side, as groups of one optimizer, on the same minibatches. Stores
``results/automatic_rate/<machine>.json``, and writes the tables of docs/automatic.md;
``--report`` only writes the tables, from what is stored.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

import fastopt
from bench import machine
from bench.report import insert_between
from bench.stored import newest
from bench.tables import processor, table

if TYPE_CHECKING:
    from bench.rate_problems import Problem

RESULTS = Path(__file__).parent / "results" / "automatic_rate"
PAGE = Path(__file__).parents[1] / "docs" / "automatic.md"
GRID = [1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0]
KINDS = fastopt.RMSProp, fastopt.SGD, fastopt.Adam
LONG = 20_000
SETS = "chosen on", "kept back"


def final_losses(problem: Problem, kind: Any, seed: int, steps: int) -> list[float]:
    """Of the last iterates, with each rate of the grid and at last the automatic one."""
    rng = np.random.default_rng(seed)
    x = np.tile(problem.x0, (len(GRID) + 1, 1))
    rates = [*GRID, "auto"]
    opt = kind([{"params": row, "lr": lr} for row, lr in zip(x, rates, strict=True)])
    with np.errstate(all="ignore"):  # large rates diverge
        for _ in range(steps):
            opt.step(list(problem.gradient(x, rng)))
        losses = problem.loss(x)
    return [float(loss) if math.isfinite(loss) else math.inf for loss in losses]


def compared(problem: Problem, kind: Any, steps: int, seeds: int) -> dict[str, Any]:
    """The mean losses over the seeds: at first, with the best rate, and with the automatic one."""
    runs = [final_losses(problem, kind, s, steps) for s in range(seeds if problem.noisy else 1)]
    *grid, automatic = np.mean(runs, 0).tolist()
    first = float(problem.loss(problem.x0[None])[0])
    best = min(grid)
    return {"noisy": problem.noisy, "steps": steps, "first": first, "best": best} | {
        "rate": GRID[grid.index(best)],
        "automatic": automatic,
    }


def measured() -> dict[str, Any]:
    """Of each optimizer and problem; and of RMSProp for long runs on the noisy ones."""
    results: dict[str, Any] = {"losses": {}, "long": {}}
    from bench.rate_problems import chosen_on, kept_back  # which need scikit-learn

    for which, make in zip(SETS, (chosen_on, kept_back), strict=True):
        problems = make()
        for kind in KINDS:
            losses = {n: compared(p, kind, p.steps, 3) for n, p in problems.items()}
            results["losses"].setdefault(kind.__name__, {})[which] = losses
        noisy = {name: problem for name, problem in problems.items() if problem.noisy}
        results["long"] |= {n: compared(p, fastopt.RMSProp, LONG, 1) for n, p in noisy.items()}
    return results


def _within(case: Mapping[str, Any], share: float) -> bool:
    return bool(case["automatic"] <= (1 + share) * case["best"])


def _is_close(case: Mapping[str, Any]) -> bool:
    """Within a thousandth of the first loss: where the best is nothing, ratios say little."""
    return bool(case["automatic"] - case["best"] <= 1e-3 * case["first"])


def _of_decrease(case: Mapping[str, Any]) -> float:
    return float((case["first"] - case["automatic"]) / (case["first"] - case["best"]))


def _cell(case: Mapping[str, Any]) -> str:
    ratio = case["automatic"] / case["best"] if case["best"] > 0 else math.inf
    if ratio <= 100:
        return f"{ratio:.2f} ({case['rate']:g})"
    return f"{100 * _of_decrease(case):.2f} % ({case['rate']:g})"


def counts(results: Mapping[str, Any]) -> str:
    """How many problems are within which distance, of each set and of both."""
    rows = []
    for kind, sets in results["losses"].items():
        for which, cases in [
            *sets.items(),
            ("both", {k: v for s in sets.values() for k, v in s.items()}),
        ]:
            every = list(cases.values())
            noisy = [case for case in every if case["noisy"]]
            good = [
                sum(_within(case, 0.05) for case in every),
                sum(_within(case, 0.15) for case in every),
                sum(_within(case, 0.05) or _is_close(case) for case in every),
            ]
            enough = sum(_of_decrease(case) >= 0.98 for case in noisy)
            cells = [*(f"{count} of {len(every)}" for count in good), f"{enough} of {len(noisy)}"]
            rows.append([f"{kind}, {which}", *cells])
    heads = ["", "within 5 %", "within 15 %", "5 % or 0.001 of the first", "98 % of the best decrease"]
    return table(heads, rows)


def report(results: Mapping[str, Any]) -> dict[str, str]:
    """The texts between the markers of the page."""
    losses = results["losses"]
    rows = [
        [name, *(_cell(losses[kind][which][name]) for kind in losses)]
        for which in SETS
        for name in losses["RMSProp"][which]
    ]
    long = [[name, _cell(case)] for name, case in results["long"].items()]
    facts = results["machine"]
    where = (
        f"{processor(facts)}, Python {facts['python']}, NumPy {facts['numpy']}, fastopt "
        f"{facts['fastopt']}, {facts['date']}. float64, three seeds (one for the long runs)."
    )
    return {
        "automatic:counts": f"{counts(results)}\n\n{fill(where, 120)}",
        "automatic:all": table(["problem", *losses], rows),
        "automatic:long": table(["20,000 steps", "RMSProp"], long),
    }


def main(arguments: list[str]) -> None:
    """Measure and store, unless only the tables are asked for."""
    if "--report" not in arguments:
        from cpuinfo import get_cpu_info

        results = {"machine": machine.facts(get_cpu_info()), **measured()}
        RESULTS.mkdir(parents=True, exist_ok=True)
        path = RESULTS / f"{machine.name(results['machine'])}.json"
        path.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    page = PAGE.read_text("utf-8")
    for name, text in report(newest(RESULTS)).items():
        print(text, end="\n\n")
        page = insert_between(page, name, text)
    PAGE.write_text(page, "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
