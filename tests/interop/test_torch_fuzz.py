"""A few fixed cases of fuzzing with tensors, beside torch and the core; `make fuzz` tries new ones."""

import pytest

from tests.fuzz.kinds import KINDS
from tests.fuzz.runner import Finding, attempt
from tests.fuzz.stories import SHARED


@pytest.mark.parametrize("block", range(6))
@pytest.mark.parametrize("kind", ["torch", "rates"])
def test_cases(kind, block):
    for seed in range(block * SHARED, block * SHARED + 6):
        what = attempt(kind, KINDS[kind].draw(seed))
        assert what is None, str(Finding(kind, seed, what))
