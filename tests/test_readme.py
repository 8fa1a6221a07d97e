"""The code in the README and in the pages runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import fastopt

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(page: Path) -> list[str]:
    """Python code, with its first line where it stands in the page, so that errors name the line."""
    text = page.read_text("utf-8")
    return ["\n" * text.count("\n", 0, m.start(1)) + m[1] for m in BLOCK.finditer(text)]


ELSEWHERE = {"torch.md"}  # needs another library: tests/interop runs it
WITH_CODE = [page for page in PAGES if blocks(page) and page.name not in ELSEWHERE]


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.name)
def test_code_runs(page: Path) -> None:
    scope = {"__name__": "reader"}  # as a reader would: one block after the other
    for block in blocks(page):
        exec(compile(block, str(page), "exec"), scope)


def test_code_is_found() -> None:
    assert {"README.md", "own-transform.md"} <= {page.name for page in WITH_CODE}
    assert all(page.read_text("utf-8").count("```python") == len(blocks(page)) for page in PAGES)


@pytest.mark.parametrize(
    "names", [fastopt.__all__, fastopt.schedules.__all__, fastopt.transforms.__all__]
)
def test_every_public_name_is_in_the_reference(names: list[str]) -> None:
    reference = ROOT / "docs" / "api.md"
    words = set(re.findall(r"\w+", reference.read_text("utf-8")))
    assert set(names) <= words
