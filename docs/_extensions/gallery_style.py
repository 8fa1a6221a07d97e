"""The scripts of the gallery: figures for light and for dark pages, and warnings are errors."""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from typing import Any

import matplotlib as mpl

INK = "#7d8590"
_until_the_end = ExitStack()


def neutral(gallery_conf: dict[str, Any], fname: str) -> None:
    """No background, and colours for both; the gallery calls it after its own reset of matplotlib."""
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


def strict(gallery_conf: dict[str, Any], fname: str, when: str) -> None:
    """A warning ends the script, and with it the build."""
    _until_the_end.close()
    if when == "before":
        _until_the_end.enter_context(warnings.catch_warnings(action="error"))
