"""A few fixed cases of every kind of fuzzing; `make fuzz` tries new ones.

Seeds of one block share what is compiled, so a block is tried as a whole, or the start of it.
"""

import pytest

from tests.fuzz.kinds import KINDS
from tests.fuzz.runner import Finding, attempt, tries
from tests.fuzz.shrink import shrink
from tests.fuzz.steps import SLOW, work
from tests.fuzz.stories import SHARED
from tests.subprocesses import needs_jit
from tests.support import COMPILED

# Blocks with recipes that have little in common.
DENSE = {3: 8, 22: 6}
SPARSE = {3: 8, 12: 8}
SUMS = {0: 6, 1: 6}
SPARSE_SUMS = {0: 6, 1: 8, 2: 8}


def seeds(kind, block, count):
    """The first seeds of a block; interpreted, those that are quick."""
    seeds = range(block * SHARED, (block + 1) * SHARED)
    if not COMPILED:
        seeds = [seed for seed in seeds if work(KINDS[kind].draw(seed)) <= SLOW // 10]
        count //= 2
    return list(seeds)[:count]


def try_here(kind, numbers):
    """Play the cases of these seeds in this process."""
    for seed in numbers:
        what = attempt(kind, KINDS[kind].draw(seed))
        assert what is None, str(Finding(kind, seed, what))


@pytest.mark.parametrize(("block", "count"), DENSE.items())
def test_dense(block, count):
    try_here("dense", seeds("dense", block, count))


@pytest.mark.parametrize(("block", "count"), SUMS.items())
def test_sums(block, count):
    try_here("sums", seeds("sums", block, count))


@pytest.mark.parametrize(("block", "count"), SPARSE.items())
def test_sparse(block, count):
    try_here("sparse", seeds("sparse", block, count))


@pytest.mark.parametrize(("block", "count"), SPARSE_SUMS.items())
def test_sparse_sums(block, count):
    try_here("sparse sums", seeds("sparse sums", block, count))


def test_files():
    try_here("files", range(80 if COMPILED else 40))


@needs_jit
def test_signals():
    try_here("signals", range(SHARED, SHARED + 4))


@needs_jit
def test_caches():
    try_here("caches", range(2))


@needs_jit
@pytest.mark.parametrize(
    ("kind", "block", "count"), [("containers", 1, 24), ("guard", 22, 4), ("guard", 3, 6)]
)
def test_in_another_process(kind, block, count):
    """What may crash."""
    outcomes = list(tries(kind, block * SHARED, count))
    assert len(outcomes) == count
    for finding in outcomes:
        assert finding is None, str(finding)


def test_a_case_is_what_its_seed_says():
    for name in KINDS.keys() - {"cuda", "torch"}:
        draw = KINDS[name].draw
        assert repr(draw(5)) == repr(draw(5)) != repr(draw(6))


def test_a_failing_case_is_made_simpler():
    case = KINDS["dense"].draw(6 * SHARED + 1)
    small = shrink(case, lambda other: any(kind == "step" for kind, *_ in other["steps"]), seconds=60)
    assert [kind for kind, *_ in small["steps"]] == ["step"]
    assert small["recipe"]["settings"] == small["recipe"]["options"] == {}


@needs_jit
def test_the_end_of_a_process_is_a_finding():
    """With what it printed, and the seeds after it are tried."""
    outcomes = list(tries("no such kind", 7, 2))
    assert [finding.case for finding in outcomes] == [7, 8]
    assert all("ended with status 1" in finding.what for finding in outcomes)
    assert all("KeyError" in finding.what for finding in outcomes)
