"""Numbers and tables as people read them, in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def median(band: Mapping[str, float]) -> str:
    return f"{band['median']:.{_places(band)}f}"


def _places(band: Mapping[str, float]) -> int:
    return 2 if band["median"] < 3 else 1 if band["median"] < 30 else 0


def banded(band: Mapping[str, float] | None) -> str:
    if band is None:
        return ""
    return "{median:.{p}f} ({low:.{p}f}-{high:.{p}f})".format(p=_places(band), **band)


def duration(seconds: float) -> str:
    units = {"s": 1.0, "ms": 1e-3, "µs": 1e-6}
    unit, scale = next(((u, s) for u, s in units.items() if seconds >= s), ("µs", 1e-6))
    return f"{seconds / scale:.{2 if seconds < 10 * scale else 0}f} {unit}"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose numbers, in all columns but the first, are not broken over lines."""
    body = [[row[0], *(cell.replace(" ", "\N{NO-BREAK SPACE}") for cell in row[1:])] for row in rows]
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def processor(machine: Mapping[str, Any]) -> str:
    """What pages call a machine's processor."""
    return f"{machine['cpu']} ({machine['microarchitecture']})"


def when(measured: Mapping[str, str]) -> str:
    """The date, and the commit if it is known."""
    return measured["date"] + (f", commit {measured['commit']}" if measured.get("commit") else "")
