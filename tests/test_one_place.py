"""A rule stands in one place: each formula, list and check is found once in the package."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from functools import cache

import pytest

from tests.support import compiled_suite_only
from tests.test_imports import MODULES

pytestmark = compiled_suite_only

# What is looked for in the code, with the text of generated kernels but without docstrings and
# comments, and the only module that has it. Names in a formula may be others.
PLACES = {
    "second moment": (r"(\w+) \* (\w+) \+ (\w+) \* (\w+) \* \4\b", "transforms.moments"),
    "first moment from a mix": (r"return \w+ \* \w+ \+ mix \* update$", "transforms.moments"),
    "bias correction": (r"1(\.0)? - \w+ ?\*\* ?", "transforms.moments"),
    "momentum of NAdam": (r"0\.96\b", "transforms.moments"),
    "RMSProp": (r"/ root\(correct\(", "transforms.rms"),
    "clip factor": (r"\* limit / \w+", "transforms.gradient_clip"),
    "partition": (r"\w+ \* part // parts", "executors.partition"),
    "overlap of memory": (r"< len\(stops\) and", "arrays.checks"),
    "overlap of what is written": (r"for \(_, stop, \w+\), \(start, _, \w+\)", "arrays.checks"),
    "a good gradient": (r"def check_gradient\b", "arrays.checks"),
    "good gradients": (r"\bchecks\.check_gradient\(", "steps.gradients"),
    "list of formats": (r'"bfloat16"', "codecs.formats"),
    "MPI's types of formats": (r"FLOAT16_T|MPI\.FLOAT|MPI\.DOUBLE", "codecs.formats"),
}
USERS = "demo"  # programs as users write them


@cache
def code(module: str) -> str:
    """The text of a module without docstrings and comments."""
    text = MODULES[module].read_text("utf-8")
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            last = node.end_lineno or node.lineno
            lines[node.lineno - 1 : last] = [""] * (last - node.lineno + 1)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    return "\n".join(lines)


@pytest.mark.parametrize(("pattern", "home"), PLACES.values(), ids=PLACES)
def test_it_stands_once(pattern: str, home: str) -> None:
    compiled = re.compile(pattern, re.MULTILINE)
    places = {
        module: [match[0] for match in compiled.finditer(code(module))]
        for module in MODULES
        if not module.startswith(USERS)
    }
    assert {module: matches for module, matches in places.items() if matches}.keys() == {home}, places
    assert len(places[home]) == 1, places[home]
