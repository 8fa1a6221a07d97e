"""Formats of parameters, gradients and states that go together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import fastopt
from bench.problems import Form
from fastopt.codecs.floats import floats

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Combination:
    """Parameters and gradients in one format; what else is not usual is in `options`."""

    dtype: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def number(self) -> np.dtype[Any]:
        return floats(self.dtype).dtype

    def optimizer(self, form: Form, params: Array, **more: Any) -> Any:
        return form.optimizer(params, **self.options, **more)


EIGHT_BITS: dict[str, Any] = {"state_dtype": "8bit"}
STOCHASTIC: dict[str, Any] = {"stochastic_rounding": True}
FAST: dict[str, Any] = {"fast": True}
SPLIT_24: dict[str, Any] = {"master_bits": 24}
SPLIT_32: dict[str, Any] = {"master_bits": 32}

# The first one is what the others are compared with.
COMBINATIONS = {
    "float32": Combination("float32"),
    "bfloat16": Combination("bfloat16"),
    "bfloat16, stochastic": Combination("bfloat16", STOCHASTIC),
    "float16": Combination("float16"),
    "float32, 8-bit state": Combination("float32", EIGHT_BITS),
    "float32, 8-bit state to nearest": Combination(
        "float32", {**EIGHT_BITS, "stochastic_rounding": False}
    ),
    "bfloat16, 8-bit state": Combination("bfloat16", EIGHT_BITS),
    "bfloat16, 8-bit state, stochastic": Combination("bfloat16", {**EIGHT_BITS, **STOCHASTIC}),
    "float16, 8-bit state": Combination("float16", EIGHT_BITS),
    "bfloat16 split 24": Combination("bfloat16", SPLIT_24),
    "bfloat16 split 32": Combination("bfloat16", SPLIT_32),
    "bfloat16 split 24, 8-bit state": Combination("bfloat16", {**SPLIT_24, **EIGHT_BITS}),
    "bfloat16 split 32, 8-bit state": Combination("bfloat16", {**SPLIT_32, **EIGHT_BITS}),
    "float16 split 24, 8-bit state": Combination("float16", {**SPLIT_24, **EIGHT_BITS}),
}
# The same with approximate roots and quotients, which are no less accurate than the formats are: for
# RMSProp alone, whose root is a divisor by itself.
FAST_COMBINATIONS = {
    f"{name}, fast": Combination(combination.dtype, {**combination.options, **FAST})
    for name, combination in COMBINATIONS.items()
    if name in ("bfloat16", "float16") or name.endswith("8-bit state")
}


def bytes_of(size: int, params: Array, grads: Array, states: Mapping[str, Array]) -> dict[str, float]:
    """Bytes an element: what a step moves, what is held, and what of it is state."""
    state = sum(array.nbytes for array in states.values())
    total = params.nbytes + grads.nbytes + state
    moved = total + params.nbytes + state  # the gradient is only read
    return {"moved": moved / size, "held": total / size, "state": state / size}


def filled(size: int, numbers: Array, dtype: np.dtype[Any]) -> Array:
    """An array with these numbers again and again, made without a temporary of its size."""
    array = fastopt.empty(size, dtype)
    part = numbers.astype(dtype)
    for start in range(0, size, part.size):
        array[start : start + part.size] = part[: size - start]
    return array
