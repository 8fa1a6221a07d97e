"""The tables and the figure of docs/mpi.md, from stored results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.mpi.model import Machine, Parts, fitted, networks, overlapped, parts
from bench.report import insert_between
from bench.tables import banded, processor, table, when
from fastopt.interop.mpi.partition import small_pieces

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "mpi.md"
SIZES, RANKS = (10**9, 10**10, 10**11, 10**12), (8, 64, 1024)

MEASURED = [
    ("a step", "step"),
    ("its parts, one after the other", "parts"),
    ("... reduce-scatter", "reduce"),
    ("... local step", "local"),
    ("... all-gather", "gather"),
    ("a step with one chunk", "step_at_once"),
    ("its parts, one after the other", "parts_at_once"),
    ("... reduce-scatter", "reduce_at_once"),
    ("... local step", "local_at_once"),
    ("... all-gather", "gather_at_once"),
    ("one rank steps everything", "one_rank"),
    ("the all-reduce of three numbers", "agree"),
]
RATIOS = [
    ("local step / one rank steps everything", "local / one_rank"),
    ("step / parts with one chunk", "step / parts_at_once"),
    ("step / parts in chunks", "step / parts"),
    ("step / step with one chunk", "step / step_at_once"),
]


def duration(seconds: float) -> str:
    """With two or three digits."""
    for unit, scale in (("min", 60.0), ("s", 1.0), ("ms", 1e-3)):
        if seconds >= scale and (unit != "min" or seconds >= 120):
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def power(number: int) -> str:
    """10⁹."""
    return "10" + str(len(str(number)) - 1).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))


def write(results: Mapping[str, Any]) -> None:
    """Put everything into the page."""
    PAGE.write_text(page(PAGE.read_text("utf-8"), results), "utf-8")
    draw(fit(results["cases"]))


def page(text: str, results: Mapping[str, Any]) -> str:
    """The page with the tables between its markers."""
    cases = results["cases"]
    here = fit(cases)
    text = insert_between(text, "mpi:measured", measured(results))
    text = insert_between(text, "mpi:model", reproduced(here, cases))
    return insert_between(text, "mpi:predicted", predicted(here))


def measured(results: Mapping[str, Any]) -> str:
    """Times and ratios, a column for each size."""
    facts, cases = results["machine"], results["cases"]
    line = (
        f"{processor(facts)}, {facts['cores']} cores, {cases[0]['ranks']} ranks with one thread each, "
        f"{facts['mpi']}, Python {facts['python']}, NumPy {facts['numpy']}, Numba {facts['numba']}; "
        f"{when(facts)}. Float32 RMSProp. Times are the least and the median of all rounds; ratios "
        "are formed within a round, and have in brackets the middle 60 %."
    )
    heads = ["elements", *(f"{case['size']:,}" for case in cases)]
    rows = [["chunks", *(str(case["pieces"]) for case in cases)]]
    for title, name in MEASURED:
        rows.append([title, *(_time(case["seconds"][name]) for case in cases)])
    for title, name in RATIOS:
        rows.append([title, *(banded(case["ratios"][name]) for case in cases)])
    return f"{line}\n\n{table(heads, rows)}"


def _time(seconds: Mapping[str, float]) -> str:
    return f"{duration(seconds['least'])}, {duration(seconds['median'])}"


def of_case(case: Mapping[str, Any]) -> Parts:
    """The least times of the parts: those that other programs disturbed least."""
    seconds = {name: times["least"] for name, times in case["seconds"].items()}
    return Parts(seconds["agree"], seconds["reduce"], seconds["local"], seconds["gather"])


def fit(cases: list[Mapping[str, Any]]) -> Machine:
    """The model's numbers for this machine, from its largest case."""
    case = max(cases, key=lambda case: case["size"])
    parts = of_case(case)
    return fitted("this machine", case["size"], case["ranks"], parts.agree, parts)


def reproduced(here: Machine, cases: list[Mapping[str, Any]]) -> str:
    """What the model says for the cases that were measured."""
    line = (
        f"Here `a` is {duration(here.latency)}, `B_reduce` {here.reduce / 1e9:.2f} GB/s, `B_gather` "
        f"{here.gather / 1e9:.2f} GB/s and `M` {here.memory / 1e9:.1f} GB/s."
    )
    heads = ["elements", *(f"{part}: model / measured" for part in ("reduce", "local", "gather"))]
    rows = []
    for case in cases:
        model = parts(here, case["size"], case["ranks"], case["pieces"])
        measured = of_case(case)
        pairs = zip(model[1:], measured[1:], strict=True)
        rows.append([f"{case['size']:,}", *(f"{one / two:.2f}" for one, two in pairs)])
    text = f"{line}\n\n{table(heads, rows)}"
    if near := _near(rows):
        text += f"\n\nFrom {near} elements on the model is within a fifth of what was measured."
    return text


def _near(rows: list[list[str]]) -> str:
    """The size from which on all quotients are within a fifth; empty if that is the largest alone."""
    near = ""
    for size, *quotients in reversed(rows[:-1]):
        if not all(1 / 1.2 <= float(quotient) <= 1.2 for quotient in quotients):
            break
        near = size
    return near


def predicted(here: Machine) -> str:
    """Steps of large models on networks."""
    machines = networks(here.memory)
    heads = ["parameters", "ranks", "chunks", *(machine.name for machine in machines)]
    rows = []
    for size in SIZES:
        for ranks in RANKS:
            pieces = small_pieces(size, ranks, 4)
            cells = []
            for machine in machines:
                apart = parts(machine, size, ranks, pieces).total
                together = overlapped(machine, size, ranks, pieces)
                cells.append(f"{duration(together)} ({duration(apart)})")
            rows.append([power(size), str(ranks), str(pieces), *cells])
    return table(heads, rows)


def draw(here: Machine, folder: Path = DOCS / "figures") -> list[Path]:
    """A step against the number of ranks, for each network."""
    from bench import drawing

    def by_ranks(figure: Any) -> None:
        machines, ranks = networks(here.memory), [2**k for k in range(3, 11)]
        places = figure.subplots(1, len(machines), sharey=True)
        for axes, machine in zip(places, machines, strict=True):
            for size in SIZES:
                times = [overlapped(machine, size, p, small_pieces(size, p, 4)) for p in ranks]
                local = [parts(machine, size, p, 1).local for p in ranks]
                (line,) = axes.plot(ranks, times, label=power(size))
                axes.plot(ranks, local, color=line.get_color(), linestyle=":", linewidth=1)
            axes.set(title=machine.name, xscale="log", yscale="log", xlabel="ranks")
        places[0].set_ylabel("seconds a step")
        places[0].legend(title="parameters", fontsize="small")

    return drawing.save(by_ranks, folder, "mpi-model", (9.0, 3.6))
