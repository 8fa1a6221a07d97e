"""The figures of README and pages, from stored results: ``docs/figures/*.svg``, light and dark."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from bench.drawing import colour, save
from bench.peers import TITLES
from bench.roofline import NAME as ROOFLINE
from fastopt.optimizers.registry import NAMES

Case = Mapping[str, Any]
Results = Mapping[str, Any]

FOLDER = Path(__file__).parents[1] / "docs" / "figures"

# What is drawn in which colour and style, in all figures.
LINES = {
    "fastopt": ("C0", "-"),
    "fastopt_fast": ("C0", "--"),
    "c": ("C1", "-"),
    "numpy_in_place": ("C2", "-"),
    "numpy_naive": ("C3", "-"),
    "numexpr": ("C4", "-"),
}
FORMS = {"rmsprop_outside": "RMSProp", "rmsprop": "RMSProp", "adam": "Adam", "adagrad": "AdaGrad"}
# From the one that is nearest to fastopt in kind to the one that is farthest.
BARS = [
    "fastopt",
    "c",
    "torch_fused",
    "torch_compiled",
    "torch",
    "torch_eager",
    "optax",
    "keras",
    "numexpr",
    "numpy_in_place",
]


def chosen(results: Results, question: str, **key: Any) -> list[Case]:
    """The cases of a question: float32 on all cores unless the key says otherwise."""
    fields = {"question": question, "dtype": "float32", "all_threads": True, **key}
    return [case for case in results["cases"] if all(case.get(k, v) == v for k, v in fields.items())]


def largest(cases: Iterable[Case]) -> dict[str, Case]:
    """Form -> its case with the most elements."""
    return {case["form"]: case for case in sorted(cases, key=lambda case: int(case["size"]))}


def speed(results: Results, figure: Figure) -> None:
    """GB/s against size, with the roofline and the sizes of the caches."""
    axes = figure.subplots()
    fastest: dict[int, Case] = {}  # of one core and all, whichever fastopt would take
    for case in chosen(results, "throughput", form="rmsprop", all_threads=False):
        fastest[case["size"]] = case
    for case in chosen(results, "throughput", form="rmsprop"):
        if case.get("all_threads"):
            fastest[case["size"]] = case
    sizes = sorted(fastest)
    lines = {**LINES, ROOFLINE: (colour("ink"), ":")}
    for peer, (line, dashes) in lines.items():
        measured = [
            (n, fastest[n]["peers"][peer]["gb_per_s"]) for n in sizes if peer in fastest[n]["peers"]
        ]
        if not measured:
            continue
        xs, bands = zip(*measured, strict=True)
        middle = [band["median"] for band in bands]
        axes.plot(xs, middle, dashes, color=line, marker=".", label=TITLES[peer], zorder=3)
        lows, highs = ([band[end] for band in bands] for end in ("low", "high"))
        axes.fill_between(xs, lows, highs, color=line, alpha=0.18, linewidth=0)
    _mark_caches(axes, results, sizes)
    axes.set(xscale="log", yscale="log", xlabel="elements", ylabel="GB/s")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    if axes.lines:
        axes.legend(loc="lower center", fontsize=9, ncols=2)


def _mark_caches(axes: Any, results: Results, sizes: list[int]) -> None:
    for name, size in results["machine"]["caches_bytes"].items():
        elements = size / (3 * 4)  # parameter, gradient and accumulator
        if sizes and sizes[0] <= elements <= sizes[-1]:
            axes.axvline(elements, color=colour("faint"), linewidth=0.8, linestyle="--")
            where = axes.get_xaxis_transform()
            axes.text(elements, 1.01, name.partition("_")[0].upper(), transform=where, ha="center")


def peers(
    results: Results, figure: Figure, forms: Iterable[str] = ("rmsprop_outside", "adam", "adagrad")
) -> None:
    """Times as multiples of fastopt's, a bar for each library."""
    family, plain = largest(chosen(results, "family")), largest(chosen(results, "throughput"))
    rows: list[tuple[str, list[tuple[str, Any]]]] = []
    for form in forms:
        ratios: dict[str, Any] = {}
        if form == "rmsprop_outside" and "rmsprop" in plain:
            ratios |= _ratios(plain["rmsprop"])  # the same but for epsilon: here are C and NumPy
        if form in family:
            ratios |= _ratios(family[form])
        if ratios:
            ratios["fastopt"] = {"median": 1.0, "low": 1.0, "high": 1.0}
            rows.append((FORMS[form], [(peer, ratios[peer]) for peer in BARS if peer in ratios]))
    if not rows:
        return
    heights = [len(bars) for _, bars in rows]
    figure.set_figheight(0.6 + 0.35 * len(rows) + 0.26 * sum(heights))
    all_axes = figure.subplots(len(rows), 1, sharex=True, squeeze=False, height_ratios=heights)
    most = max(band["high"] for _, bars in rows for _, band in bars)
    for axes, (title, bars) in zip(all_axes[:, 0], rows, strict=True):
        for place, (peer, band) in enumerate(bars):
            filled = "C0" if peer == "fastopt" else "C1"
            axes.barh(place, band["median"], color=filled, height=0.7)
            axes.plot([band["low"], band["high"]], [place, place], color=colour("ink"), linewidth=1.2)
            text = f"{band['median']:.{1 if band['median'] < 10 else 0}f} x"
            axes.text(max(band["high"], 1) + 0.015 * most, place, text, va="center", fontsize=9)
        axes.set_yticks(range(len(bars)), [TITLES[peer] for peer, _ in bars])
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set_axisbelow(True)
        axes.set_title(title)
        axes.set(xlim=(0, 1.15 * most))
    all_axes[-1, 0].set_xlabel("time of a step, fastopt = 1")


def _ratios(case: Case) -> dict[str, Any]:
    return {
        peer: result["time_ratio"] for peer, result in case["peers"].items() if "time_ratio" in result
    }


def bytes_moved(results: Results, figure: Figure) -> None:
    """Time of an element against the bytes that it moves, in units of what memory allows.

    The unit is a byte at the roofline's speed in the same round; or at plain RMSProp's, where a case
    has no roofline.
    """
    axes = figure.subplots()
    points: dict[str, tuple[int, list[float]]] = {}
    for case in sorted(filter(_is_large, results["cases"]), key=lambda case: int(case["size"])):
        result = case["peers"]["fastopt"]
        moved = result["bytes_per_element"]
        if "fraction_of_roofline" in result:
            share = result["fraction_of_roofline"]
            points[_kind(case)] = moved, [moved / share[end] for end in ("low", "median", "high")]
        elif "bytes_ratio" in result:
            share = result["bytes_ratio"]
            points[_kind(case)] = moved, [moved * share[end] for end in ("high", "median", "low")]
    most = 1.15 * max((max(moved, times[1]) for moved, times in points.values()), default=40)
    for moved, (high, middle, low) in points.values():
        axes.plot([moved, moved], [low, high], color="C0", linewidth=1.2)
        axes.plot(moved, middle, "o", color="C0")
    lowest = 0.0
    for moved in sorted({moved for moved, _ in points.values()}):  # one label for what moves as many
        text = _listed([label for label, (other, _) in points.items() if other == moved])
        heights = [times[1] for other, times in points.values() if other == moved]
        if moved > 0.5 * most:  # to the left, above the label before
            lowest = max(*heights, lowest + 0.06 * most)
            axes.text(moved - 0.02 * most, lowest, text, ha="right", va="bottom", fontsize=9)
        else:
            axes.text(moved + 0.02 * most, min(heights), text, ha="left", va="top", fontsize=9)
    axes.plot([0, most], [0, most], color=colour("ink"), linestyle=":", label="at the roofline's speed")
    axes.legend(loc="lower right")
    axes.set(xlabel="bytes an element", ylabel="time, in bytes at full speed")
    axes.set(xlim=(0, most), ylim=(0, most))


NAMED = 2


def _listed(labels: list[str]) -> str:
    """The first few, and how many more there are."""
    more = len(labels) - NAMED
    return ", ".join(labels[:NAMED]) + (f" and {more} more" if more > 0 else "")


LARGE = 10**7


def _is_large(case: Case) -> bool:
    result = case.get("peers", {}).get("fastopt", {})
    return (
        case.get("size", 0) >= LARGE
        and case.get("all_threads", True)
        and "bytes_per_element" in result
        and case.get("dtype") != "float64"
        and "arrays" not in case
    )


COMMON = {"question", "form", "dtype", "size", "threads", "all_threads", "rounds", "reference", "peers"}


def _kind(case: Case) -> str:
    """What a point is called: its form, and whatever else sets the case apart."""
    names = {**NAMES, **FORMS, "rmsprop_everything": "centered, momentum, decay"}
    names |= {"rmsprop_auto": 'RMSProp, lr="auto"', "adamw_schedule_free": "AdamW, schedule-free"}
    form = "the whole phase, copy in" if case["question"] == "phase" else case.get("form", "")
    more = [str(value) for key, value in case.items() if key not in COMMON]
    return " ".join(filter(None, [names.get(form, form), *more]))


def scaling(results: Results, figure: Figure) -> None:
    """Speed by the number of threads, relative to one."""
    axes = figure.subplots()
    most = 1
    for i, case in enumerate(chosen(results, "scaling")):
        counts = {
            int(name.split()[0]): result for name, result in case["peers"].items() if name[0].isdigit()
        }
        counts = dict(sorted(counts.items()))
        most = max(most, *counts)
        ratio = [
            result.get("time_ratio", {"median": 1, "low": 1, "high": 1}) for result in counts.values()
        ]
        axes.plot(
            list(counts),
            [1 / r["median"] for r in ratio],
            color=f"C{i}",
            marker="o",
            label=f"{case['size']:,} elements",
        )
        lows, highs = [1 / r["high"] for r in ratio], [1 / r["low"] for r in ratio]
        axes.fill_between(list(counts), lows, highs, color=f"C{i}", alpha=0.18, linewidth=0)
    axes.plot(
        [1, most], [1, most], color=colour("faint"), linestyle="--", label="one core's speed each"
    )
    axes.set(
        xlabel="threads", ylabel="speed, one thread = 1", xticks=range(1, most + 1, max(1, most // 8))
    )
    axes.set_ylim(0, None)
    axes.legend(loc="lower right")


# Name -> what draws it, and its width and height.
FIGURES: dict[str, tuple[Callable[[Results, Figure], None], tuple[float, float]]] = {
    "speed": (speed, (6.4, 4.2)),
    "peers": (peers, (6.4, 5.2)),
    "readme": (partial(peers, forms=("rmsprop_outside",)), (6.4, 3.2)),
    "bytes": (bytes_moved, (6.4, 3.8)),
    "scaling": (scaling, (6.4, 3.4)),
}


def draw(results: Results, folder: Path = FOLDER) -> list[Path]:
    """Write all figures of these results; the paths of the files."""
    paths = []
    for name, (function, size) in FIGURES.items():
        paths += save(lambda figure, f=function: f(results, figure), folder, name, size)  # type: ignore[misc]
    return paths
