"""``python -m bench.report``: the README's numbers, all tables and the figures.

Prints the texts, puts them between the markers in README.md, docs/benchmarks.md and docs/codecs.md
where there are any, and draws into docs/figures/. Everything comes from stored results: tables and
figures from the newest, and beside them the main table of each other machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bench import figures
from bench.codecs_table import codecs
from bench.peers import TITLES
from bench.stored import newest_first
from bench.tables import banded, duration, median, processor, table, when
from fastopt.optimizers.registry import NAMES

Case = Mapping[str, Any]
Results = Mapping[str, Any]

ROOT = Path(__file__).parents[1]
README, DETAILS = ROOT / "README.md", ROOT / "docs" / "benchmarks.md"
FORMATS = ROOT / "docs" / "codecs.md"

# The rows of the main table: what is measured, in words, and the case that tells.
ROWS: list[tuple[str, dict[str, Any]]] = [
    ("RMSProp, in cache", {"question": "throughput", "form": "rmsprop", "size": 10**6}),
    ("RMSProp", {"question": "throughput", "form": "rmsprop", "size": 10**8}),
    ("RMSProp as in torch", {"question": "family", "form": "rmsprop_outside"}),
    ("centered, momentum, decay", {"question": "throughput", "form": "rmsprop_everything"}),
    ("Adam", {"question": "family", "form": "adam"}),
    ("AdaGrad", {"question": "family", "form": "adagrad"}),
    ("the whole phase¹", {"question": "phase", "copy": "float16"}),
    ("1000 arrays of 64 to 4096", {"question": "many", "model": "1000 small"}),
]
ROWS += [
    (f"in torch: {optimizer}, {model}", {"question": "models", "optimizer": optimizer, "model": model})
    for optimizer in ("RMSprop", "Adam")
    for model in ("ResNet-50", "GPT-2 small")
]
COLUMNS = ["c", "numpy_in_place", "torch_eager", "torch", "torch_compiled", "torch_fused", "optax"]
PHASE = (
    "¹ Unscale, check for NaN and infinity, clip by the global norm, decay, RMSProp, average the "
    "weights, copy to float16 and clear the gradient."
)
ANOTHER = (
    "The same rows on another machine, and of the fastopt of that day: compare what others take there, "
    "not times. All sections below are of the first machine again."
)
# What a section of the details asks.
QUESTIONS = {
    "codecs": "Low-precision storage",
    "family": "RMSProp, Adam and AdaGrad, beside other libraries",
    "many": "Many small arrays",
    "minimize": "An iteration of `fastopt.minimize`",
    "models": "Models in PyTorch",
    "overhead": "Overhead of a call",
    "scaling": "Threads",
    "sparse": "Sparse gradients",
    "threshold": "One core or all",
    "sums": "Sums, statistics and clipping",
    "throughput": "RMSProp by size, beside C and NumPy",
    "first step": "First step",
    "phase": "The whole phase",
}
FORMS = NAMES | {
    "rmsprop": "RMSProp",
    "rmsprop_outside": "RMSProp as in torch",
    "rmsprop_everything": "RMSProp, centered, momentum, decay",
    "rmsprop_auto": 'RMSProp, lr="auto"',
    "adamw_schedule_free": "AdamW, schedule-free",
    "adam": "Adam",
    "adagrad": "AdaGrad",
}


def main() -> None:
    """Print the reports of the stored results, and update the pages."""
    results, *others = newest_first()
    texts = {
        README: summary(results, others),
        DETAILS: details(results, others),
        FORMATS: codecs(results),
    }
    for page, text in texts.items():
        print(text, end="\n\n")
        if text and page.exists():
            old = page.read_text("utf-8")
            new = insert(old, text)
            if new != old:
                page.write_text(new, "utf-8")
    figures.draw(results)


def insert(page: str, text: str) -> str:
    """The page with `text` between its markers; unchanged if it has none."""
    return insert_between(page, "bench", text)


def insert_between(page: str, name: str, text: str) -> str:
    """The same for markers of another name."""
    start_, end_ = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
    head, start, rest = page.partition(start_)
    _, end, tail = rest.partition(end_)
    if not (start and end):
        return page
    return f"{head}{start_}\n{text}\n{end_}{tail}"


def summary(results: Results, others: Iterable[Results] = ()) -> str:
    """The README's sentences: RMSProp on the largest buffer, the cost of a call, the start."""
    lines = []
    if step := _large_step(results):
        lines.append(f"- A step of RMSProp over {step}.")
    lines += _latency(results["cases"])
    lines += [
        f"- On {_where(other['machine'])}: a step over {step}."
        for other in others
        if (step := _large_step(other))
    ]
    where = f"Measured on {_where(results['machine'])}"
    return "\n".join([*lines, "", f"{where}: [all benchmarks](docs/benchmarks.md)."])


def _where(machine: Mapping[str, Any]) -> str:
    return f"{processor(machine)}, {machine['threads']} threads, {when(machine)}"


def _large_step(results: Results) -> str:
    """What a large step takes, and as multiples of it what others take; empty if it is not known."""
    cases = results["cases"]
    plain = _largest(cases, {"question": "throughput", "form": "rmsprop"})
    as_in_torch = _largest(cases, {"question": "family", "form": "rmsprop_outside"})
    if not (plain and as_in_torch):
        return ""
    others = [(plain, "numpy_in_place")]
    others += [(as_in_torch, peer) for peer in ("torch_eager", "optax", "torch_compiled")]
    factors = [
        f"{median(case['peers'][peer]['time_ratio'])} x ({TITLES[peer]})"
        for case, peer in others
        if peer in case["peers"]
    ]
    seconds = duration(plain["peers"]["fastopt"]["seconds"]["median"])
    return (
        f"{plain['size']:,} float32 numbers takes {seconds}; others take {', '.join(factors)} as long"
    )


def _main_table(results: Results) -> str:
    """A row for each question, in Markdown."""
    cases = results["cases"]
    rows_found = [(title, case) for title, key in ROWS if (case := _largest(cases, key))]
    columns = [peer for peer in COLUMNS if any(peer in case["peers"] for _, case in rows_found)]
    heads = [
        "float32, all cores",
        "elements",
        "a step takes",
        "GB/s",
        *(TITLES[peer] for peer in columns),
    ]
    rows = [[_dated(title, case), *_row(case, columns)] for title, case in rows_found]
    parts = [table(heads, rows)]
    if any(case["question"] == "phase" for _, case in rows_found):
        parts.append(PHASE)
    return "\n\n".join([*parts, *["\n".join(_latency(cases))]])


def _dated(title: str, case: Case) -> str:
    """The title of a case that was measured at another time than the rest says so."""
    return f"{title} ({when(case['measured'])})" if "measured" in case else title


def _largest(cases: Iterable[Case], key: Mapping[str, Any]) -> Case | None:
    """Of the cases that a row is about: float32, all cores, as many elements as were measured."""
    fields = {"dtype": "float32", "all_threads": True, **key}
    fitting = [case for case in cases if all(case.get(k, v) == v for k, v in fields.items())]
    return max(fitting, key=lambda case: case["size"], default=None)


def _row(case: Case, columns: Iterable[str]) -> list[str]:
    fastopt = case["peers"]["fastopt"]
    ratios = [case["peers"][peer]["time_ratio"] if peer in case["peers"] else None for peer in columns]
    return [
        f"{case['size']:,}",
        duration(fastopt["seconds"]["median"]),
        f"{fastopt['gb_per_s']['median']:.0f}",
        *(f"{median(ratio)} x" if ratio else "-" for ratio in ratios),
    ]


def details(results: Results, others: Iterable[Results] = ()) -> str:
    """The main tables, then all that was measured: a folded table for each question."""
    questions = dict.fromkeys(case["question"] for case in results["cases"] if "peers" in case)
    sections = []
    for question in questions:
        cases = [case for case in results["cases"] if case["question"] == question]
        count = f"{len(cases)} case{'s'[: len(cases) > 1]}"
        rows = f"<details><summary>{count}</summary>\n\n{_details(cases)}\n\n</details>"
        sections.append(f"## {QUESTIONS.get(question, question)}\n\n{rows}")
    tables = [_main_table(results), _machine_line(results["machine"])]
    for other in others:
        tables += [f"## On {_where(other['machine'])}", ANOTHER]
        tables += [_main_table(other), _machine_line(other["machine"])]
    return "\n\n".join([*tables, *sections])


# Columns of the details: head, and how it is shown, from what was found for a peer.
SHOWN = {
    "time": lambda result: duration(result["seconds"]["median"]),
    "least": lambda result: duration(result["seconds"]["least"]),
    "GB/s": lambda result: banded(result.get("gb_per_s")),
    "x first row": lambda result: banded(result.get("time_ratio")),
    "x first row, least": lambda result: (
        f"{result['least_ratio']:.2f}" if "least_ratio" in result else ""
    ),
    "of the roofline": lambda result: banded(result.get("fraction_of_roofline")),
    "of C's GB/s": lambda result: banded(result.get("fraction_of_c")),
    "x time of bytes": lambda result: banded(result.get("bytes_ratio")),
}


def _details(cases: Iterable[Case]) -> str:
    rows = []
    for case in cases:
        what = _label(case)
        for peer, result in case["peers"].items():
            rows.append([what, TITLES.get(peer, peer), *(show(result) for show in SHOWN.values())])
            what = ""  # said once
    heads = ["case", "peer", *SHOWN]
    used = [i for i in range(len(heads)) if any(row[i] for row in rows)]  # no empty columns
    return table([heads[i] for i in used], [[row[i] for i in used] for row in rows])


def _label(case: Case) -> str:
    """What sets a case apart, in words."""
    words = [str(case[key]) for key in ("model", "optimizer") if key in case]
    if "form" in case:
        words.append(FORMS.get(case["form"], case["form"]))
    if "copy" in case:
        words.append(f"copy to {case['copy']}")
    if "dtype" in case:
        words.append(case["dtype"])
    if "rows" in case:
        words.append(f"{case['rows']:,} rows of {case['width']}")
    elif "size" in case:
        words.append(f"{case['size']:,} elements")
    if "gradient" in case:
        words.append(f"{case['gradient']} gradient arrays")
    if "threads" in case:
        words.append("1 thread" if case["threads"] == 1 else f"{case['threads']} threads")
    return _dated(", ".join(words), case)


def _latency(cases: Iterable[Case]) -> list[str]:
    by_question = {(case["question"], case.get("gradient")): case for case in cases if "peers" in case}
    lines = []
    same, other = by_question.get(("overhead", "same")), by_question.get(("overhead", "alternating"))
    if same and other:
        line = (
            f"- A call on 16 elements takes {_median(same, 'fastopt')}, "
            f"{_median(other, 'fastopt')} with another gradient array each time; "
            f"{TITLES['numpy_in_place']}, {_median(same, 'numpy_in_place')}."
        )
        lines.append(_dated(line, same))
    first = by_question.get(("first step", None))
    if first:
        line = (
            f"- In a new process import and first step take {_median(first, 'warm_one_core')} "
            f"with code from the cache ({_median(first, 'warm_all_cores')} on all cores), and "
            f"{_median(first, 'cold_one_core')} ({_median(first, 'cold_all_cores')}) where it must be "
            f"compiled. `import fastopt` alone adds {_median(first, 'import')} to `import numpy`."
        )
        lines.append(_dated(line, first))
    if first and "numba_import" in first["peers"]:
        line = (
            f"- `import numba`, to compile, takes {_median(first, 'numba_import')}. "
            "A loop in Numba that adds one to an array takes a new process "
            f"{_median(first, 'numba_loop_warm_one_core')} with code from Numba's cache, and "
            f"{_median(first, 'numba_loop_cold_one_core')} where it must be compiled."
        )
        lines.append(_dated(line, first))
    return ["\n".join(lines)] if lines else []


def _median(case: Case, name: str) -> str:
    return duration(case["peers"][name]["seconds"]["median"])


def _machine_line(machine: Mapping[str, Any]) -> str:
    compiler = f", {machine['c_compiler']}" if machine["c_compiler"] else ""
    versions = machine["libraries"]
    libraries = "".join(f", {name} {version}" for name, version in versions.items() if version)
    missing = [name for name, version in versions.items() if not version]
    left_out = f" Not installed, and so left out: {', '.join(missing)}." if missing else ""
    neighbours = machine["busy_cores_before"]
    noise = f" Other programs kept {neighbours} cores busy." if neighbours and neighbours >= 0.5 else ""
    family, model, _ = machine["family_model_stepping"]
    return (
        f"{processor(machine)}, family {family}, model {model}, {machine['threads']} threads "
        f"({machine['threading_layer']}), "
        f"{machine['os']}, Python {machine['python']}, NumPy {machine['numpy']}, "
        f"Numba {machine['numba']}{libraries}{compiler}; {when(machine)}. "
        "Times of others are multiples of fastopt's: the median over interleaved rounds; "
        f"in brackets the middle 60 %.{noise}{left_out}"
    )


if __name__ == "__main__":
    main()
