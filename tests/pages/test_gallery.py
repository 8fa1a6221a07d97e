"""Every script of the gallery ran in `make docs`: it warned of nothing and passed its assertions."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.pages.test_site import PAGES, SITE

SCRIPTS = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))
NAMES = {path.stem for path in SCRIPTS}


def test_scripts_are_found() -> None:
    wanted = {"digits", "sparse_text", "sparse_rows", "deblur", "own_rule", "resuming", "torch_network"}
    assert wanted <= NAMES


@pytest.mark.skipif(not PAGES, reason="the pages are not built: make docs")
def test_scripts_were_run() -> None:
    """To the end, where each shows a figure; the one for torch where torch is installed."""
    run = {path.name.split("sphx_glr_")[1][:-8] for path in SITE.glob("_images/sphx_glr_*_001.png")}
    assert run - {"torch_network"} == NAMES - {"torch_network"}
    assert ("torch_network" in run) == (find_spec("torch") is not None)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_script_asserts_something(path: Path) -> None:
    assert "\nassert " in path.read_text("utf-8")
