"""Figures of the gallery: no background, and colours that can be read on light and on dark pages."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl

INK = "#7d8590"


def neutral(gallery_conf: dict[str, Any], fname: str) -> None:
    """Set matplotlib up for one script; the gallery calls it after its own reset."""
    inked = ["axes.edgecolor", "axes.labelcolor", "text.color", "xtick.color", "ytick.color"]
    cycle = mpl.cycler(color=["#e8702a", "#2f8fd0", "#2e9e57", "#a05fb8", "#b8860b", INK])
    mpl.rcParams.update(dict.fromkeys(inked, INK))
    mpl.rcParams.update(
        {
            "axes.facecolor": "none",
            "axes.prop_cycle": cycle,
            "axes.titlecolor": INK,
            "figure.facecolor": "none",
            "legend.frameon": False,
            "savefig.facecolor": "none",
        }
    )
