"""Figures as SVG, each twice: for pages with a light background and for dark ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

# Colours that differ in lightness too, for those who see fewer of them. The first one is fastopt's.
PALETTES = {
    "light": {
        "ink": "#24292f",
        "faint": "#8c959f",
        "grid": "#d8dee4",
        "cycle": ["#c2410c", "#0969a8", "#15803d", "#8b3fa8", "#a16207", "#57606a"],
    },
    "dark": {
        "ink": "#e6edf3",
        "faint": "#8b949e",
        "grid": "#373e47",
        "cycle": ["#fb923c", "#58b4f0", "#4ade80", "#d8a4f0", "#facc15", "#b1bac4"],
    },
}

Draw = Callable[[Figure], None]


@contextmanager
def style(theme: str) -> Iterator[None]:
    """matplotlib's settings for one of the two backgrounds, which itself stays transparent."""
    palette = PALETTES[theme]
    settings: dict[str, Any] = {
        "axes.edgecolor": palette["faint"],
        "axes.facecolor": "none",
        "axes.grid": True,
        "axes.labelcolor": palette["ink"],
        "axes.prop_cycle": mpl.cycler(color=palette["cycle"]),
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlecolor": palette["ink"],
        "axes.titlelocation": "left",
        "axes.titlesize": 11,
        "axes.titleweight": "bold",
        "figure.facecolor": "none",
        "font.size": 10,
        "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "sans-serif"],
        "grid.color": palette["grid"],
        "grid.linewidth": 0.6,
        "legend.frameon": False,
        "lines.linewidth": 1.8,
        "savefig.facecolor": "none",
        "svg.fonttype": "none",  # text stays text: small files that can be read aloud
        "svg.hashsalt": "fastopt",  # the same picture gives the same file
        "text.color": palette["ink"],
        "xtick.color": palette["faint"],
        "xtick.labelcolor": palette["ink"],
        "ytick.color": palette["faint"],
        "ytick.labelcolor": palette["ink"],
    }
    with mpl.rc_context(settings):
        yield


def colour(name: str) -> str:
    """A colour of the theme at work: ``ink``, ``faint`` or ``grid``."""
    keys = {"ink": "text.color", "faint": "axes.edgecolor", "grid": "grid.color"}
    return str(mpl.rcParams[keys[name]])


def save(draw: Draw, folder: Path, name: str, size: Sequence[float]) -> list[Path]:
    """Write ``name-light.svg`` and ``name-dark.svg`` of what `draw` puts into a figure."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for theme in PALETTES:
        with style(theme):
            figure = Figure(figsize=tuple(size), layout="constrained")
            FigureCanvasSVG(figure)
            draw(figure)
            paths.append(folder / f"{name}-{theme}.svg")
            figure.savefig(paths[-1], metadata={"Date": None, "Creator": None})
    return paths
