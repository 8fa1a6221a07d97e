"""The tables and the figure of docs/which-one.md, from stored results."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from bench.comparison.tasks import TASKS
from bench.drawing import colour, save
from bench.report import insert_between
from bench.stored import newest
from bench.tables import duration, processor, table

Results = Mapping[str, Any]

RESULTS = Path(__file__).parents[1] / "results" / "comparison"
DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "which-one.md"
NEAR = 1.1  # times the best of all counts as good
# The curves with a colour; the others are faint.
COLOURED = ("RMSProp", "SGD, momentum 0.9", "AdamW", "Adam, schedule-free", "Prodigy", "DoG, average")


def main() -> None:
    """Write tables and figures of the newest results."""
    results = newest(RESULTS)
    text = PAGE.read_text("utf-8")
    for name, part in parts(results).items():
        text = insert_between(text, f"comparison:{name}", part)
    PAGE.write_text(text, "utf-8")
    save(lambda figure: draw(results, figure), DOCS / "figures", "which-one", (8.0, 6.4))


def parts(results: Results) -> dict[str, str]:
    """What stands between the markers of the page."""
    return {
        "losses": losses(results),
        "rates": rates(results),
        "costs": costs(results),
        "machine": machine_line(results["machine"]),
    }


def final(case: Mapping[str, Any]) -> list[float]:
    """The last losses of the seeds, infinite where a run left all bounds."""
    return [float("inf") if curve[-1] is None else curve[-1] for curve in case["curves"]]


def _by_rank(results: Results) -> dict[str, float]:
    """The rules, those first whose median loss is low on most tasks: by their mean rank."""
    ranks: dict[str, list[int]] = {}
    for rules in results["tasks"].values():
        order = sorted(rules, key=lambda name: statistics.median(final(rules[name])))
        for rank, name in enumerate(order, 1):
            ranks.setdefault(name, []).append(rank)
    return dict(sorted(((n, statistics.mean(r)) for n, r in ranks.items()), key=lambda pair: pair[1]))


def losses(results: Results) -> str:
    """Median of the final losses of five seeds; in bold what is within a tenth of the best."""
    tasks = results["tasks"]
    best = {
        t: min(statistics.median(final(case)) for case in rules.values()) for t, rules in tasks.items()
    }
    rows = []
    for name, rank in _by_rank(results).items():
        row = [name]
        for task, rules in tasks.items():
            ends = final(rules[name])
            middle = statistics.median(ends)
            spread = f"{number(middle)} ({number(min(ends))}-{number(max(ends))})"
            row.append(f"**{spread}**" if middle <= NEAR * best[task] else spread)
        rows.append([*row, f"{rank:.1f}"])
    return table(["optimizer", *(TASKS[task].title for task in tasks), "mean rank"], rows)


def rates(results: Results) -> str:
    """The rate that was taken, and how many of those tried come near it."""
    tasks = results["tasks"]
    rows = []
    for name in _by_rank(results):
        row = [name]
        for rules in tasks.values():
            case = rules[name]
            tried = [value for _, value in case["rates"] if value is not None]
            near = sum(value <= 2 * min(tried) for value in tried)
            row.append(f"{case['lr']:g}" + (f" ({near})" if len(case["rates"]) > 1 else ""))
        rows.append(row)
    return table(["optimizer", *(TASKS[task].title for task in tasks)], rows)


def costs(results: Results) -> str:
    """Time of a step beside RMSProp's, and bytes of states."""
    measured = results["costs"]
    one = measured["RMSProp"]["seconds"]
    rows = [
        [name, duration(cost["seconds"]), f"{cost['seconds'] / one:.2f} x", f"{cost['state_bytes']:g}"]
        for name, cost in sorted(measured.items(), key=lambda pair: pair[1]["seconds"])
    ]
    return table(["optimizer", "a step", "beside RMSProp", "bytes of states an element"], rows)


def machine_line(machine: Mapping[str, Any]) -> str:
    """Where it was measured."""
    busy = machine["busy_cores_before"]
    return (
        f"{processor(machine)}, one of {machine['cores']} cores, {machine['os']}, Python "
        f"{machine['python']}, NumPy {machine['numpy']}, Numba {machine['numba']}; {machine['date']}."
        + (f" Other programs kept {busy} cores busy." if busy and busy >= 0.5 else "")
    )


def number(value: float) -> str:
    """Two digits, as short as they can be."""
    if value == float("inf"):
        return "∞"
    return f"{value:.2g}".replace("e-0", "e-").replace("e+0", "e")


def draw(results: Results, figure: Figure) -> None:
    """Loss against step, the median of five seeds, a panel for each task."""
    tasks = results["tasks"]
    all_axes = figure.subplots(2, 3).ravel()
    for axes, (task, rules) in zip(all_axes, tasks.items(), strict=True):
        steps = TASKS[task].steps
        for name in (*(set(rules) - set(COLOURED)), *COLOURED):
            curves = [[float("nan") if y is None else y for y in c] for c in rules[name]["curves"]]
            middle = [statistics.median(ys) for ys in zip(*curves, strict=True)]
            xs = [round(steps * (k + 1) / len(middle)) for k in range(len(middle))]
            if name in COLOURED:
                line = {"color": f"C{COLOURED.index(name)}", "linewidth": 1.6, "label": name}
            else:
                line = {"color": colour("grid"), "linewidth": 0.8, "zorder": 1}
            axes.plot(xs, middle, **line)
        axes.set(yscale="log", title=TASKS[task].title, xlabel="step")
        lowest = min(statistics.median(final(case)) for case in rules.values())
        axes.set_ylim(bottom=max(lowest / 2, 1e-12))
    handles, labels = all_axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
