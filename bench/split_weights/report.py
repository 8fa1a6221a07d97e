"""The section of docs/split-weights.md about training, and its figure, from stored results."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from matplotlib.figure import Figure

from bench.drawing import colour, save
from bench.report import insert_between
from bench.split_weights.ways import MEMORY
from bench.stored import newest
from bench.tables import duration, processor, table

Results = Mapping[str, Any]

RESULTS = Path(__file__).parents[1] / "results" / "split_weights"
DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "split-weights.md"
FIGURE, SIZE = "split-weights", (8.0, 5.4)
FLOAT32, SPLIT_24 = "float32", "split 24, 8-bit states"
SMALLEST, LARGEST = list(MEMORY)[-1], next(iter(MEMORY))
HELD = "parameters", "gradients", "states"
DEVICES = {"cpu": "", "cuda": "CUDA, "}


def main() -> None:
    """Write the tables and the figure of the newest results."""
    results = newest(RESULTS)
    text = PAGE.read_text("utf-8")
    for name, part in parts(results).items():
        text = insert_between(text, f"split-weights:{name}", part)
    PAGE.write_text(text, "utf-8")
    save(lambda figure: draw(results, figure), DOCS / "figures", FIGURE, SIZE)


def parts(results: Results) -> dict[str, str]:
    """What stands between the markers of the page, of what was measured."""
    writers = {"quality": losses, "memory": memory, "times": times}
    written = {name: write(results[name]) for name, write in writers.items() if name in results}
    return {**written, "machine": machine_line(results)}


def off(ends: Sequence[float], base: Sequence[float]) -> float:
    """How far a mean is from that of float32, in standard deviations of float32's seeds."""
    return (statistics.mean(ends) - statistics.mean(base)) / statistics.stdev(base)


def losses(quality: Results) -> str:
    """Final losses of each way, and how many standard deviations of float32 they are off."""
    base = quality["losses"][FLOAT32]["model"]
    rows = []
    for name, ends in quality["losses"].items():
        seen, wide = ends["model"], ends["wide"]
        pairs = [one - other for one, other in zip(seen, base, strict=True)]
        row = [name, f"{statistics.mean(seen):.4f}", f"{min(seen):.4f}-{max(seen):.4f}"]
        apart = [f"{statistics.mean(pairs):+.4f}", f"{off(seen, base):+.2f}"]
        row += ["", ""] if name == FLOAT32 else apart
        rows.append([*row, f"{statistics.mean(wide):.4f}"])
    distance = off(quality["losses"][SPLIT_24]["model"], base)
    within = "within" if abs(distance) <= 1 else "outside"
    seeds = len(base)
    sentence = (
        f"Over {seeds} seeds float32 ends at {statistics.mean(base):.4f} with a standard deviation of "
        f"{statistics.stdev(base):.4f}. Split 24 is {within} that spread: {distance:+.2f} standard "
        f"deviations from it."
    )
    heads = ["", "mean", f"{seeds} seeds", "less float32", "in deviations", "computed in float32"]
    return f"{table(heads, rows)}\n\n{fill(sentence, 120)}"


def memory(measured: Results) -> str:
    """Bytes a parameter: those counted, and the peaks, with a head of its own and a tied one."""
    tables = []
    for device, title in DEVICES.items():
        if device not in measured:
            continue
        heads = measured[device]
        rows = []
        for name, untied in heads["untied"].items():
            counted = [untied["counted"][part] for part in HELD]
            row = [name, *(f"{value:.2f}" for value in (*counted, sum(counted)))]
            rows.append([*row, f"**{untied['peak']:.2f}**", f"{heads['tied'][name]['peak']:.2f}"])
        columns = ["bytes a parameter", *HELD, "together", f"{title}peak", f"{title}peak, tied head"]
        untied, tied = heads["untied"], heads["tied"]
        sentence = (
            f"{untied[SMALLEST]['parameters'] / 1e6:.0f} million parameters, "
            f"{tied[SMALLEST]['parameters'] / 1e6:.0f} million with a tied head. Activations, "
            f"subtracted, are {untied[LARGEST]['activations'] / 1e6:.0f} MB in float32 and "
            f"{untied[SMALLEST]['activations'] / 1e6:.0f} MB in bfloat16."
        )
        tables.append(f"{table(columns, rows)}\n\n{fill(sentence, 120)}")
    return "\n\n".join(tables)


def times(measured: Results) -> str:
    """Time of a step and of an iteration, and ratios to float32."""
    rows = []
    for name in dict.fromkeys([*measured["step"], *measured["iteration"]]):
        row = [name]
        for kind in ("step", "iteration"):
            case = measured[kind].get(name)
            if case is None:
                row += ["", ""]
            else:
                ratio = case["ratio"]
                row += [
                    duration(case["seconds"]["median"]),
                    f"{ratio['median']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f})",
                ]
        rows.append(row)
    return table(["", "step", "beside float32", "iteration", "beside float32"], rows)


def machine_line(results: Results) -> str:
    """Where it was measured, and what else ran there."""
    facts = results["machine"]
    measured = (name for name in ("quality", "memory", "times") if name in results)
    loads = ", ".join(f"{results[name]['busy_cores_before']} ({name})" for name in measured)
    text = (
        f"{processor(facts)}, {facts['cores']} cores, {facts['os']}, Python {facts['python']}, torch "
        f"{facts['libraries']['torch']}, Numba {facts['numba']}; {facts['date']}. Load averages "
        f"before: {loads}."
    )
    return fill(text, 120)


def draw(results: Results, figure: Figure) -> None:
    """Losses of each seed above, bytes a parameter below."""
    above, below = figure.subplots(2, 1, height_ratios=(1.2, 1.0))
    ends = results["quality"]["losses"]
    base = ends[FLOAT32]["model"]
    names = list(ends)[::-1]
    above.axvspan(min(base), max(base), color=colour("grid"), alpha=0.5, linewidth=0)
    for height, name in enumerate(names):
        values = ends[name]["model"]
        above.plot(values, [height] * len(values), "o", color="C1", alpha=0.6, markersize=4)
        above.plot(statistics.mean(values), height, "|", color="C0", markersize=16, markeredgewidth=2.2)
    above.set_yticks(range(len(names)), names)
    above.set(title="Final loss of each seed, and the mean", xlabel="nats a character")
    heads = results["memory"]["cpu"]["untied"]
    ways = list(heads)[::-1]
    left = [0.0] * len(ways)
    for number, part in enumerate(HELD):
        widths = [heads[name]["counted"][part] for name in ways]
        below.barh(range(len(ways)), widths, left=left, color=f"C{number + 1}", height=0.55, label=part)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    peaks = [heads[name]["peak"] for name in ways]
    below.plot(
        peaks, range(len(ways)), "|", color="C0", markersize=20, markeredgewidth=2.6, label="peak"
    )
    for height, value in enumerate(peaks):
        below.annotate(f"{value:.1f}", (value, height), (6, 0), textcoords="offset points", va="center")
    below.set_yticks(range(len(ways)), ways)
    below.set(title="Bytes a parameter, counted, and the peak measured", xlim=(0, 19))
    below.set_axisbelow(True)
    below.legend(loc="lower right", ncols=2, markerscale=0.6)
