"""Files, classes and functions that the pages for contributors name are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.test_imports import MODULES, ROOT

HERE = Path(__file__).parents[1]
FOLDERS = HERE, ROOT, HERE / "docs"
DEFINED = "\n".join(path.read_text("utf-8") for path in MODULES.values())
PAGES = "docs/inside.md", "CONTRIBUTING.md"


@pytest.mark.parametrize("page", PAGES)
def test_files_are_there(page: str) -> None:
    text = (HERE / page).read_text("utf-8")
    named = set(re.findall(r"(?<![\w./])(?:\w+/)+(?:\w+\.(?:py|md|json))?(?![\w/-])", text))
    assert named
    assert [name for name in named if not any((folder / name).exists() for folder in FOLDERS)] == []


@pytest.mark.parametrize("page", PAGES)
def test_names_are_there(page: str) -> None:
    text = (HERE / page).read_text("utf-8")
    named = {
        *re.findall(r"`(?:\w+\.)*(_?[a-z]\w*)\([^`]*\)`", text),
        *re.findall(r"\b(?=\w*[a-z])([A-Z]\w+\.\w+)", text),
    }
    missing = []
    for name in sorted(named):
        *owner, attribute = name.split(".")
        patterns = [rf"\b(class|def) {attribute}\b|\b{attribute}\b\s*[:=]"]
        patterns += [rf"\bclass {kind}\b" for kind in owner]
        if not all(re.search(pattern, DEFINED) for pattern in patterns):
            missing.append(name)
    assert missing == []


def test_the_picture_names_files_that_have_the_functions() -> None:
    """A line of the picture: what is called, and the first file on the line defines it."""
    text = (HERE / "docs/inside.md").read_text("utf-8")
    lines = re.findall(r"^[│├└ ]*([A-Z]\w+)\.(\w+) +(\w[\w/]*\.py)", text, re.MULTILINE)
    assert len(lines) > 8
    for kind, method, file in lines:
        code = (ROOT / file).read_text("utf-8")
        assert f"class {kind}" in code, (kind, file)
        assert f"def {method}(" in code, (method, file)
