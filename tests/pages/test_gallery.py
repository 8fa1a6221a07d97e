"""Every script of the gallery runs by itself, warns of nothing, and passes its own assertions."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.subprocesses import LIMIT

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "examples").glob("*.py"))


def test_scripts_are_found() -> None:
    assert {
        "digits.py",
        "sparse_text.py",
        "sparse_rows.py",
        "deblur.py",
        "own_rule.py",
        "resuming.py",
    } <= {path.name for path in SCRIPTS}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_script_runs(path: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "MPLBACKEND": "agg", "PYTHONPATH": str(ROOT)}
    run = [sys.executable, "-W", "error", str(path)]
    told = subprocess.run(
        run, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert (told.returncode, told.stderr) == (0, "")


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_script_asserts_something(path: Path) -> None:
    assert "\nassert " in path.read_text("utf-8")
