"""Schedules and arrays, from plain data."""

import zlib
from dataclasses import dataclass
from random import Random
from typing import Any

import ml_dtypes
import numpy as np

import fastopt

DTYPES = {
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
}

_SIGNALLING = {
    "float16": (np.uint16, 0x7D00),
    "bfloat16": (np.uint16, 0x7FA0),
    "float32": (np.uint32, 0x7FA00000),
    "float64": (np.uint64, 0x7FF4000000000000),
}

MOODS = ("plain", "plain", "wide", "tiny", "zeros", "special", "nan", "signalling")


def choose(seed: Any, *what: Any) -> Random:
    """A generator of its own for each purpose."""
    return Random(zlib.crc32(repr((seed, *what)).encode()))


@dataclass(frozen=True)
class Schedule:
    """Between two numbers, from one or from the other; pickles by name."""

    name: str
    low: float
    high: float

    def __call__(self, step: int) -> float:
        way = 1 / (1 + step) if self.name == "falling" else 1 - 1 / (1 + step)
        return self.low + (self.high - self.low) * way


def setting(value: Any) -> Any:
    """A setting as the optimizer takes it: a schedule is drawn as (name, low, high).

    An automatic rate is drawn as ("auto", factor), where the factor may be a schedule.
    """
    if isinstance(value, tuple) and value and value[0] == "auto":
        return fastopt.auto(setting(value[1]))
    if isinstance(value, tuple) and value and value[0] in ("falling", "rising"):
        return Schedule(*value)
    return value


def at(value: Any, step: int) -> Any:
    """The value of a setting at a step."""
    value = setting(value)
    return value(step) if callable(value) else value


def array(seed: Any, shape: tuple[int, ...], dtype: str, mood: str = "plain") -> np.ndarray:
    """Numbers of a dtype, of ordinary size or not."""
    with np.errstate(all="ignore"):
        return _array(np.random.default_rng(zlib.crc32(repr(seed).encode())), shape, dtype, mood)


def _array(rng: np.random.Generator, shape: tuple[int, ...], dtype: str, mood: str) -> np.ndarray:
    info = ml_dtypes.finfo(DTYPES[dtype])
    numbers = rng.normal(size=shape)
    if mood == "wide":
        decades = 3 if dtype == "float16" else 15
        numbers = numbers * 10.0 ** rng.uniform(-decades, decades, shape)
    elif mood == "tiny":
        numbers = numbers * float(info.smallest_normal) * 10.0 ** rng.uniform(-2, 2, shape)
    elif mood == "zeros":
        numbers = numbers * (rng.random(shape) < 0.5)
    elif mood != "plain":
        few = rng.random(shape) < min(0.1, 3 / max(1, numbers.size))
        big, small = float(info.max), float(info.smallest_subnormal)
        extremes = [np.nan] if mood == "nan" else [np.nan, np.inf, -np.inf, 0.0, -0.0, big, -big, small]
        numbers = np.where(few, rng.choice(extremes, shape), numbers)
    result = np.array(numbers).astype(DTYPES[dtype]).reshape(shape)
    if mood == "signalling" and result.size:
        kind, bits = _SIGNALLING[dtype]
        result.reshape(-1).view(kind)[rng.integers(result.size)] = bits
    return result
