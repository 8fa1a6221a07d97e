"""An exception at some line of a step, or of what changes an optimizer: a case of `interruption`."""

from typing import Any

from tests.fuzz import numbers
from tests.fuzz.interruption import SCENARIOS, interrupted, uninterrupted
from tests.fuzz.stories import SHARED


def draw(seed: int) -> dict[str, Any]:
    """Where: a scenario, one of its actions, and how far into that."""
    scenario = numbers.choose(seed // SHARED, "lines").choice(sorted(SCENARIOS))
    rng = numbers.choose(seed, "lines")
    return {
        "lines": scenario,
        "executor": rng.choice(["serial", "parallel", "reference"]),
        "action": rng.randrange(len(SCENARIOS[scenario][1])),
        "part": rng.random(),
    }


def try_case(case: dict[str, Any]) -> None:
    """The action was taken, or it was not, and what follows is right."""
    where = case["lines"], case["executor"]
    _, counts = uninterrupted(*where)
    line = 1 + int(case["part"] * counts[case["action"]])
    place, wrong = interrupted(*where, case["action"], line)
    assert not wrong, f"interrupted at {place}: {wrong}"
