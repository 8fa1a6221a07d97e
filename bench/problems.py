"""What is computed in the benchmarks: forms of an optimizer, and arrays for them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import fastopt
from fastopt.optimizers.registry import MODULES

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Form:
    """An optimizer with settings; peers are looked up by its name."""

    name: str
    title: str
    kind: Callable[..., Any]
    settings: Mapping[str, Any]

    def optimizer(self, params: Any, **means: Any) -> Any:
        """fastopt's optimizer of this form."""
        return self.kind(params, **self.settings, **means)


RMSPROP = Form("rmsprop", "RMSProp", fastopt.RMSProp, {"lr": 1e-3, "beta": 0.9, "eps": 1e-8})
EVERYTHING = Form(
    "rmsprop_everything",
    "RMSProp, centered, with momentum and weight decay",
    fastopt.RMSProp,
    {**RMSPROP.settings, "centered": True, "momentum": 0.9, "weight_decay": 1e-2},
)
FORMS = (RMSPROP, EVERYTHING)

# As other libraries have them.
OUTSIDE = Form(
    "rmsprop_outside",
    "RMSProp, epsilon outside the root",
    fastopt.RMSProp,
    {**RMSPROP.settings, "eps_inside_sqrt": False},
)
ADAM = Form("adam", "Adam", fastopt.Adam, {"lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8})
ADAGRAD = Form(
    "adagrad", "AdaGrad", fastopt.AdaGrad, {"lr": 1e-2, "eps": 1e-10, "eps_inside_sqrt": False}
)
FAMILY = (OUTSIDE, ADAM, ADAGRAD)
# Without a rate or a schedule to choose.
AUTOMATIC = Form(
    "rmsprop_auto", 'RMSProp, lr="auto"', fastopt.RMSProp, {**RMSPROP.settings, "lr": "auto"}
)
AVERAGED = Form(
    "adamw_schedule_free", "AdamW, schedule-free", fastopt.AdamW, {"beta1": 0.0, "schedule_free": 0.9}
)
# Its rate would grow without end: the gradient never changes.
SETTINGS: dict[str, dict[str, Any]] = {"Prodigy": {"growth_rate": 1.0 + 1e-6}}
# All others, with their defaults.
REST = (
    *(
        Form(kind.lower(), kind, getattr(fastopt, kind), SETTINGS.get(kind, {}))
        for kind in MODULES
        if kind not in ("SGD", "RMSProp", "AdaGrad", "Adam")
    ),
    AUTOMATIC,
    AVERAGED,
)


# Arrays that are read once more, for sums: gradient and parameter, or those and states.
READ_AGAIN = {"lars": 2, "lamb": 4, "prodigy": 4, "dog": 3, "rmsprop_auto": 4}


@dataclass(frozen=True)
class Problem:
    """A gradient, and the parameter and states by name."""

    form: Form
    grad: Array
    arrays: dict[str, Array]

    @property
    def bytes_per_element(self) -> int:
        """What a step must move: read the gradient, read and write the parameter and each state; and
        what is read before, for sums.
        """
        return self.grad.itemsize * (1 + 2 * len(self.arrays) + self.read_before)

    @property
    def read_before(self) -> int:
        """How many arrays are read for sums before the step."""
        return READ_AGAIN.get(self.form.name, 0)

    def view(self) -> Problem:
        """The same memory, for a peer that puts other arrays in their places."""
        return replace(self, arrays=dict(self.arrays))


def plain(problem: Problem, accumulator: str = "square_avg") -> Problem:
    """Plain RMSProp in the same memory; `accumulator` is the state that it uses."""
    arrays = {"param": problem.arrays["param"], "square_avg": problem.arrays[accumulator]}
    return Problem(RMSPROP, problem.grad, arrays)


def available_memory() -> float:
    """Bytes that can be had without swapping; infinity where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return math.inf
    table = dict(line.split(":") for line in lines)
    return 1024 * float(table["MemAvailable"].split()[0])


def memory(form: Form, size: int, dtype: np.dtype[Any]) -> int:
    """Bytes that a comparison needs at most, temporaries of NumPy and buffers of jax included."""
    states = len(form.optimizer(np.zeros(1, dtype)).state)
    return size * dtype.itemsize * (4 * (1 + states) + 6)


def make(form: Form, size: int, dtype: np.dtype[Any]) -> Problem:
    """A problem with random numbers, a block of them again and again when it is large."""
    random = np.random.default_rng(0)
    block = random.standard_normal(min(size, 1 << 20))
    # Gradients of size 1 to 2, so that weight decay never cancels them: what is left then is rounding
    # error, in which the peers may differ.
    slope = np.copysign(1 + random.random(block.size), random.standard_normal(block.size))
    param, grad = fastopt.empty(size, dtype), fastopt.empty(size, dtype)
    for array, values in ((param, block.astype(dtype)), (grad, slope.astype(dtype))):
        for start in range(0, size, block.size):
            part = array[start : start + block.size]
            part[:] = values[: part.size]
    return Problem(form, grad, {"param": param, **form.optimizer(param).state})
