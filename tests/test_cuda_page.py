"""The code in the page on GPUs runs as it stands."""

import re
from pathlib import Path

import pytest

from tests.device import SIMULATED, skip_without_device

skip_without_device()
if SIMULATED:
    pytest.skip("the simulator has no streams of its own", allow_module_level=True)

PAGE = Path(__file__).parent.parent / "docs" / "cuda.md"


def test_code_runs():
    text = PAGE.read_text("utf-8")
    blocks = re.findall(r"^```py\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert len(blocks) == text.count("```py\n") == 6
    scope = {"__name__": "reader"}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), scope)
