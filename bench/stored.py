"""The results that are stored in a folder, one file for each machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "results"


def newest_first(folder: Path = FOLDER) -> list[dict[str, Any]]:
    """The results of all machines, by the dates in them: those of files are of the checkout."""
    results = [json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.json"))]
    if not results:
        raise SystemExit(f"nothing is stored in {folder} yet")
    return sorted(results, key=lambda one: str(one["machine"]["date"]), reverse=True)


def newest(folder: Path = FOLDER) -> dict[str, Any]:
    return newest_first(folder)[0]
