"""Variables are named after what is in them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.support import compiled_suite_only

pytestmark = compiled_suite_only

ROOT = Path(__file__).parents[1]
# They say where a value came from and not what it is.
VAGUE = {"before", "found", "given", "made", "own", "theirs", "there"}


def variables(text: str) -> Iterator[str]:
    """What a file assigns to, parameters of functions included."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.arg):
            yield node.arg


def test_names_say_what_they_hold() -> None:
    folders = "bench", "examples", "fastopt", "tests"
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    vague = {
        path.relative_to(ROOT).as_posix(): names
        for path in files
        if (names := VAGUE.intersection(variables(path.read_text("utf-8"))))
    }
    assert len(files) > 500
    assert vague == {}
