"""A few fixed cases of fuzzing on a CUDA device: the bits of the CPU; `make fuzz` tries new ones."""

import pytest

from tests.device import SIMULATED, skip_without_device
from tests.fuzz.kinds import KINDS
from tests.fuzz.runner import Finding, attempt
from tests.fuzz.stories import SHARED

skip_without_device()


@pytest.mark.skipif(SIMULATED, reason="a thread of Python for every element")
@pytest.mark.parametrize("block", [3, 6])
def test_cases(block):
    for seed in range(block * SHARED, block * SHARED + 5):
        what = attempt("cuda", KINDS["cuda"].draw(seed))
        assert what is None, str(Finding("cuda", seed, what))
