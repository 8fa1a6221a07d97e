"""Count lines by folder, as code, docstrings, comments and blank ones.

``python -m tests.line_counts [FOLDER]``; for another commit:
``git archive COMMIT fastopt | tar -x -C FOLDER``.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections import Counter
from pathlib import Path

KINDS = "code", "docstrings", "comments", "blank"


def count(text: str) -> Counter[str]:
    """The lines of one file; a line of code with a comment behind it is code."""
    lines = text.splitlines()
    kind = ["blank" if not line.strip() else "code" for line in lines]
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT and lines[token.start[0] - 1].lstrip().startswith("#"):
            kind[token.start[0] - 1] = "comments"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            first, last = node.lineno - 1, node.end_lineno or node.lineno
            kind[first:last] = ["docstrings"] * (last - first)
    return Counter(kind)


def main(folder: Path) -> None:
    by_folder: dict[str, Counter[str]] = {}
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).parts
        name = "/".join(parts[:-1][:2]) or "."
        by_folder.setdefault(name, Counter()).update(count(path.read_text("utf-8")) | {"files": 1})
    rows = [*by_folder.items(), ("all", sum(by_folder.values(), Counter()))]
    sys.stdout.write(f"{'':24}{'files':>8}" + "".join(f"{kind:>12}" for kind in (*KINDS, "all")) + "\n")
    for name, counts in rows:
        numbers = [*(counts[kind] for kind in KINDS), sum(counts[kind] for kind in KINDS)]
        sys.stdout.write(
            f"{name:24}{counts['files']:>8}" + "".join(f"{number:>12}" for number in numbers) + "\n"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "fastopt"))
