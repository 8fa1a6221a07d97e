"""``python -m bench.report [results.json]``: the README's table, from stored results.

Prints it, and puts it between the markers in README.md where there are any.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.peers import TITLES

Case = Mapping[str, Any]

README = Path(__file__).parents[1] / "README.md"
RESULTS = Path(__file__).parent / "results"
START, END = "<!-- bench:start -->", "<!-- bench:end -->"


def main(arguments: list[str]) -> None:
    """Print the summary of a result file, the newest one by default, and update the README."""
    path = Path(arguments[0]) if arguments else newest()
    text = summary(json.loads(path.read_text("utf-8")))
    print(text)
    if README.exists():
        before = README.read_text("utf-8")
        after = insert(before, text)
        if after != before:
            README.write_text(after, "utf-8")


def newest() -> Path:
    """The stored results with the latest date."""
    paths = sorted(RESULTS.glob("*.json"))
    if not paths:
        raise SystemExit("there are no results yet: run `python -m bench`")
    return max(paths, key=lambda path: json.loads(path.read_text("utf-8"))["machine"]["date"])


def insert(readme: str, text: str) -> str:
    """The README with `text` between its markers; unchanged if it has none."""
    head, start, rest = readme.partition(START)
    _, end, tail = rest.partition(END)
    if not (start and end):
        return readme
    return f"{head}{START}\n{text}\n{END}{tail}"


def summary(results: Mapping[str, Any]) -> str:
    """The section of the README, in Markdown."""
    cases = results["cases"]
    speed = [
        case
        for case in cases
        if case["question"] == "throughput"
        and (case["form"], case["dtype"]) == ("rmsprop", "float32")
        and case["all_threads"] in (case["size"] >= 10**5, True)
    ]
    columns = ["c", "numpy_in_place", "numpy_naive"]
    heads = ["float32 elements", "a step takes", "GB/s", *(f"{TITLES[peer]} takes" for peer in columns)]
    rows = [
        [
            f"{case['size']:,}",
            _duration(case["peers"]["fastopt"]["seconds"]["median"]),
            f"{case['peers']['fastopt']['gb_per_s']['median']:.0f}",
            *(_times(case, peer) for peer in columns),
        ]
        for case in speed
    ]
    return "\n\n".join([_machine_line(results["machine"]), _table(heads, rows), *_latency(cases)])


def details(results: Mapping[str, Any]) -> str:
    """All that was measured, for the terminal: medians with the band of the middle 60 %."""
    rows = []
    for case in results["cases"]:
        labels = ("form", "dtype", "size", "gradient", "threads")
        what = ", ".join(str(case[label]) for label in labels if label in case)
        for peer, found in case["peers"].items():
            rows.append(
                [
                    case["question"],
                    what,
                    peer,
                    _duration(found["seconds"]["median"]),
                    *(_banded(found.get(key)) for key in ("gb_per_s", "time_ratio", "fraction_of_c")),
                ]
            )
    heads = ["question", "case", "peer", "time", "GB/s", "x first peer's time", "of C's GB/s"]
    return _table(heads, rows)


def _latency(cases: Iterable[Case]) -> list[str]:
    found = {(case["question"], case.get("gradient")): case["peers"] for case in cases}
    lines = []
    same, other = found.get(("overhead", "same")), found.get(("overhead", "alternating"))
    if same and other:
        numpy = same["numpy_in_place"]["seconds"]["median"]
        lines.append(
            f"- A call on 16 elements takes {_median(same, 'fastopt')}, "
            f"{_median(other, 'fastopt')} with another gradient array each time; "
            f"{TITLES['numpy_in_place']} takes {_duration(numpy)}."
        )
    first = found.get(("first step", None))
    if first:
        lines.append(
            f"- In a new process `import fastopt` adds {_median(first, 'import')} to `import numpy`; "
            f"import and first step take {_median(first, 'warm_one_core')} from the cache "
            f"({_median(first, 'warm_all_cores')} on all cores), "
            f"and {_median(first, 'cold_one_core')} ({_median(first, 'cold_all_cores')}) "
            "when there is something to compile."
        )
    return ["\n".join(lines)] if lines else []


def _median(peers: Mapping[str, Any], name: str) -> str:
    return _duration(peers[name]["seconds"]["median"])


def _machine_line(machine: Mapping[str, Any]) -> str:
    compiler = f", {machine['c_compiler']}" if machine["c_compiler"] else ""
    neighbours = machine["busy_cores_before"]
    noise = f" Other programs kept {neighbours} cores busy." if neighbours and neighbours >= 0.5 else ""
    return (
        f"{machine['cpu']}, {machine['threads']} threads ({machine['threading_layer']}), "
        f"{machine['os']}, Python {machine['python']}, NumPy {machine['numpy']}, "
        f"Numba {machine['numba']}{compiler}; {machine['date']}. "
        f"Median over interleaved rounds; in brackets the middle 60 %.{noise}"
    )


def _times(case: Case, peer: str) -> str:
    found = case["peers"].get(peer)
    return f"{_banded(found['time_ratio'])} x" if found else "-"


def _banded(band: Mapping[str, float] | None) -> str:
    if band is None:
        return ""
    places = 2 if band["median"] < 3 else 1 if band["median"] < 30 else 0
    return "{median:.{p}f} ({low:.{p}f}-{high:.{p}f})".format(p=places, **band)


def _duration(seconds: float) -> str:
    units = {"s": 1.0, "ms": 1e-3, "µs": 1e-6}
    unit, scale = next(((u, s) for u, s in units.items() if seconds >= s), ("µs", 1e-6))
    return f"{seconds / scale:.{2 if seconds < 10 * scale else 0}f} {unit}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main(sys.argv[1:])
