"""``python -m bench.comparison``: run all (minutes), store it, and write tables and figure of the page.

``python -m bench.comparison digits costs`` runs only these, and replaces what was stored of them;
``--report`` only writes the page anew.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

import fastopt
from bench import machine
from bench.comparison import report
from bench.comparison.rules import RULES, Rule
from bench.comparison.tasks import TASKS, Task
from bench.measure import interleave, timed

TUNED_ON = 100  # the seed on which a rate is chosen; it is none of those that are shown
SEEDS = range(5)
POINTS = 20  # of a curve
SIZE = 1_000_000  # elements that times are measured with


def run(rule: Rule, task: Task, lr: float, seed: int, points: int) -> list[float]:
    """The loss at so many points of a run, of what there is to evaluate with."""
    problem = task.make(seed)
    w = problem.start
    optimizer = rule.make(w, lr)
    averages = "schedule_free" in rule.settings or "average_decay" in rule.settings
    losses = []
    marks = {round(task.steps * (k + 1) / points) for k in range(points)}
    with np.errstate(all="ignore"):
        for step in range(task.steps):
            optimizer.step(problem.gradient(w, step))
            if step + 1 in marks:
                loss = problem.loss(optimizer.averaged_params() if averages else w)
                losses.append(loss if np.isfinite(loss) else float("inf"))
    return losses


def compare(rule: Rule, task: Task) -> dict[str, Any]:
    """The final loss of each rate on one seed, and the curves of the best rate on five others."""
    losses = {lr: run(rule, task, lr, TUNED_ON, 1)[-1] for lr in rule.rates}
    best = min(losses, key=lambda lr: losses[lr])
    curves = [run(rule, task, best, seed, POINTS) for seed in SEEDS]
    return {"rates": list(losses.items()), "lr": best, "curves": curves}


def costs() -> dict[str, dict[str, float]]:
    """The least time of a step on many elements on one core, and the bytes of states by element."""
    grad = np.random.default_rng(0).standard_normal(SIZE, np.float32)
    samplers: dict[str, Callable[[], float]] = {}
    memory = {}
    for name, rule in RULES.items():
        w = np.ones(SIZE, np.float32)
        optimizer = getattr(fastopt, rule.kind)(w, lr=1e-6, executor="serial", **rule.settings)
        memory[name] = sum(state.nbytes for state in optimizer.state.values()) / SIZE
        samplers[name] = timed(lambda step=optimizer.step: step(grad))  # type: ignore[misc]
    times = interleave(samplers, budget=90.0)
    return {n: {"seconds": min(seconds), "state_bytes": memory[n]} for n, seconds in times.items()}


def main(arguments: list[str]) -> int:
    """Run all, or the tasks that are named and ``costs``; store, and write the page."""
    if "--report" not in arguments:
        import cpuinfo

        facts = machine.facts(cpuinfo.get_cpu_info())
        facts["busy_cores_before"] = machine.busy_cores()
        path = report.RESULTS / f"{machine.name(facts)}.json"
        wanted = arguments or [*TASKS, "costs"]
        stored = json.loads(path.read_text("utf-8")) if arguments else {"tasks": {}}
        results = {**stored, "machine": facts, "size": SIZE}
        for task in (name for name in TASKS if name in wanted):
            results["tasks"][task] = {name: compare(rule, TASKS[task]) for name, rule in RULES.items()}
            print(task, flush=True)
        if "costs" in wanted:
            results["costs"] = costs()
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(_rounded(results)) + "\n", "utf-8")
    report.main()
    return 0


def _rounded(value: Any) -> Any:
    """Four digits; infinity is null."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    if not isinstance(value, float):
        return value
    return float(f"{value:.4g}") if np.isfinite(value) else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
