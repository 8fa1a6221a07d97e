"""Within one step a schedule is called once; nothing of it is left, whatever interrupts."""

import sys
from contextlib import suppress
from types import FrameType
from typing import Any

import pytest

import fastopt
from fastopt.validation import call, each_called_once


class Counted:
    """A schedule that counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, step: int) -> float:
        self.calls += 1
        return float(self.calls)


def ask_twice(schedule: Counted) -> tuple[float, float]:
    return call(schedule, 3), call(schedule, 3)


def test_once_within_a_step_and_again_outside() -> None:
    schedule = Counted()
    assert each_called_once(ask_twice, schedule) == ((1.0, 1.0), True)
    assert ask_twice(schedule) == (2.0, 3.0)
    assert each_called_once(call, schedule, 3) == (4.0, False)


def test_nothing_is_left_of_an_interrupted_one() -> None:
    """As if Ctrl-C came at any line."""

    def count_lines(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal line
        if event == "line" and frame.f_code.co_filename.endswith("validation.py"):
            line += 1
            if line == at:
                raise KeyboardInterrupt
        return count_lines

    original = sys.gettrace()  # of what measures coverage
    for at in range(1, 100):
        schedule, line = Counted(), 0
        sys.settrace(count_lines)
        try:
            with suppress(KeyboardInterrupt):
                each_called_once(ask_twice, schedule)
        finally:
            sys.settrace(original)
        calls = schedule.calls
        assert ask_twice(schedule) == (calls + 1.0, calls + 2.0)
        if line < at:
            return
    raise AssertionError("each_called_once should have ended by then")


@pytest.mark.parametrize("params", [1, 2])
def test_in_a_step(params: int) -> None:
    import numpy as np

    schedule = Counted()
    arrays = [np.ones(3, dtype) for dtype in (np.float32, np.float64)[:params]]
    opt = fastopt.SGD(arrays, lr=schedule, weight_decay=schedule)
    for _ in range(3):
        calls = schedule.calls
        opt.step([np.ones_like(array) for array in arrays])
        assert schedule.calls == calls + 1
