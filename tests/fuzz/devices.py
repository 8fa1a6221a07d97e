"""The same cases with all arrays on a CUDA device, or an emulated one: the bits of the CPU."""

from typing import Any

import numpy as np

from tests.device import to_device, to_host
from tests.fuzz import stories
from tests.fuzz.compare import assert_same_trace
from tests.fuzz.play import Player

# The emulator runs a million elements a second.
LARGEST = 5000


class Device:
    """Puts arrays on the device."""

    def put(self, content: np.ndarray) -> Any:
        return to_device(content)

    def get(self, array: Any) -> np.ndarray:
        return np.array(array) if isinstance(array, np.ndarray) else to_host(array)

    def fill(self, array: Any, content: np.ndarray) -> None:
        array.copy_to_device(content)


def draw(seed: int) -> dict[str, Any]:
    """A case of moderate size, without bfloat16, which Numba's device arrays do not have.

    Half of them have statistics, and so kernels that add up.
    """
    case = stories.draw(seed)
    if seed % 2:
        case["recipe"]["options"]["stats"] = ["grad_norm", "update_mean", "param_nonfinite"]
    case["shapes"] = [
        shape if np.prod(shape) <= LARGEST else (int(np.prod(shape)) // 4,) for shape in case["shapes"]
    ]
    return _without_bfloat16(case)


def _without_bfloat16(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_bfloat16(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_without_bfloat16, value))
    return "float16" if value == "bfloat16" else value


def try_case(case: dict[str, Any]) -> None:
    """Straight and resumed, beside the CPU."""
    base = Player(case).trace()
    for resumes in (False, True):
        trace = Player(case, "cuda", resumes=resumes, place=Device()).trace()
        if resumes:  # they are of the steps since
            for event in (*base, *trace):
                event.pop("stats", None)
        assert_same_trace(trace, base, f"cuda{', resumed' * resumes} against serial")
