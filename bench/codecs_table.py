"""The tables of docs/codecs.md, from stored results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from bench.combinations import COMBINATIONS
from bench.tables import duration, processor, table, when

Case = Mapping[str, Any]

TITLES = {"rmsprop": "RMSProp", "rmsprop_slow": "RMSProp, beta 0.999", "adam": "Adam"}


def codecs(results: Mapping[str, Any]) -> str:
    """What was measured of each combination of formats, in Markdown; empty if nothing was."""
    cases = results["cases"]
    speed = [case for case in cases if case["question"] == "codecs"]
    forms = dict.fromkeys(case["form"] for case in speed)
    parts = [f"### {TITLES[form]}\n\n{_speed(speed, form)}" for form in forms]
    distances = [case for case in cases if case["question"] == "distance"]
    if distances:
        parts.append(f"### Distance from float32\n\n{_distances(distances)}")
    for case in cases:
        if case["question"] == "error":
            kind = "with a sign" if case["signed"] else "without a sign"
            parts.append(f"### Error of storing once, {kind}\n\n{_errors(case['rows'])}")
    return "\n\n".join([_where(results["machine"]), *parts]) if parts else ""


def _where(machine: Mapping[str, Any]) -> str:
    return (
        f"{processor(machine)}, {when(machine)}. Behind the time of a step, in brackets: how many GB/s "
        "it moves, and how many times faster it is than float32 in the same rounds (medians)."
    )


def _speed(cases: Iterable[Case], form: str) -> str:
    """A row for each combination, a column for each size and number of threads."""
    chosen = sorted((c for c in cases if c["form"] == form), key=lambda c: (c["size"], c["threads"]))
    heads = ["parameters and gradients, state", "bytes moved", "held", "of it state"]
    heads += [f"{c['size']:,}, threads: {c['threads']}" for c in chosen]
    rows = []
    for name in chosen[0]["peers"]:
        result, stored = chosen[0]["peers"][name], chosen[0]["bytes"][name]
        sizes = [f"{stored['held']:.4g}", f"{stored['state']:.4g}"]
        cells = [_cell(case["peers"][name]) for case in chosen]
        rows.append([name, f"{result['bytes_per_element']:.4g}", *sizes, *cells])
    return table(heads, rows)


def _cell(result: Mapping[str, Any]) -> str:
    ratio = result.get("time_ratio")
    faster = f", {1 / ratio['median']:.2f} x" if ratio else ""
    return f"{duration(result['seconds']['median'])} ({result['gb_per_s']['median']:.0f} GB/s{faster})"


def _distances(cases: Iterable[Case]) -> str:
    cases = list(cases)
    names = dict.fromkeys(name for case in cases for name in case["distances"])
    first = next(iter(COMBINATIONS))
    rows = [
        [name, *(_number(case["distances"].get(name)) for case in cases)]
        for name in names
        if name != first
    ]
    return table(["", *(TITLES[case["form"]] for case in cases)], rows)


def _errors(measured: Iterable[Mapping[str, Any]]) -> str:
    """A row for each format, a column for each kind of data."""
    by_format = {(row["format"], row["data"]): row for row in measured}
    formats, data = (dict.fromkeys(key[i] for key in by_format) for i in (0, 1))
    rows = [[name, *(_error(by_format[name, kind]) for kind in data)] for name in formats]
    return table(["", *data], rows)


def _error(row: Mapping[str, Any]) -> str:
    lost = f", {100 * row['lost']:.3g} % lost" if row["lost"] else ""
    return f"{row['rms_relative_error']:.3f}{lost}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"
