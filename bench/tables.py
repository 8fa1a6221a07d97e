"""Numbers and tables as people read them, in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence


def banded(band: Mapping[str, float] | None) -> str:
    if band is None:
        return ""
    places = 2 if band["median"] < 3 else 1 if band["median"] < 30 else 0
    return "{median:.{p}f} ({low:.{p}f}-{high:.{p}f})".format(p=places, **band)


def duration(seconds: float) -> str:
    units = {"s": 1.0, "ms": 1e-3, "µs": 1e-6}
    unit, scale = next(((u, s) for u, s in units.items() if seconds >= s), ("µs", 1e-6))
    return f"{seconds / scale:.{2 if seconds < 10 * scale else 0}f} {unit}"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
