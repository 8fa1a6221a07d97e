"""The recipes that get gradients from other libraries run as they stand."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "recipes.md"


@pytest.mark.parametrize("library", ["jax", "autograd"])
def test_gradients(library):
    pytest.importorskip(library, reason=f"{library} is not installed")
    text = PAGE.read_text("utf-8")
    setup = re.search(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    blocks = re.findall(r"^```py\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    (code,) = (block for block in blocks if f"import {library}\n" in block)
    scope = {"__name__": "reader"}
    for block in setup[1], code:
        exec(compile(block, str(PAGE), "exec"), scope)
