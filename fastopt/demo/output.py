"""Output of the command line: aligned text, temporary progress bars, a plot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def pairs(values: Mapping[str, str]) -> str:
    """Names on the left, values on the right."""
    width = max(map(len, values))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in values.items())


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns under their headers: the first to the left, numbers to the right."""
    lines = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "   ".join(f"{cell:{'>' if i else '<'}{widths[i]}}" for i, cell in enumerate(line)).rstrip()
        for line in lines
    )


def progress(items: Sequence[T], what: str) -> Iterable[T]:
    """Iterate over `items` with a progress bar, which is shown on terminals only and then erased."""
    from tqdm import tqdm

    bar: Iterable[T] = tqdm(items, desc=what, leave=False, disable=None, ncols=79)
    return bar


def draw(path: Path, curves: Mapping[str, Sequence[float]], title: str) -> None:
    """One line for each curve over the epochs, into a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    FigureCanvasAgg(figure)  # no display is needed, and the user's choice of one is left alone
    axes = figure.subplots()
    for name, losses in curves.items():
        axes.plot(range(len(losses)), losses, label=name, linewidth=2)
    axes.set(title=title, xlabel="epoch", ylabel="training loss (log scale)", yscale="log")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, format="png", dpi=150)
