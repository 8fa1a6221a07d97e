"""What fewer bits cost: the error of storing once, and the distance from float32 after 1000 steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

import fastopt
from bench import dynamic_map
from bench.combinations import COMBINATIONS, Combination
from bench.problems import Form
from fastopt.codecs.base import BLOCK, Codec
from fastopt.codecs.blocks import SIGNED, UNSIGNED
from fastopt.codecs.rounding import noise, phase

Array = np.ndarray[Any, Any]
Store = Callable[[Array], Array]

# Rosenbrock's function of a chain of numbers.
ELEMENTS, STEPS = 20_000, 1000


def slope(x: Array) -> Array:
    """Of the sum over neighbours a, b of ``100 * (b - a**2)**2 + (1 - a)**2``."""
    result = np.zeros_like(x)
    rest = x[1:] - x[:-1] ** 2
    result[:-1] = -400 * x[:-1] * rest - 2 * (1 - x[:-1])
    result[1:] += 200 * rest
    return result


def start() -> Array:
    return np.random.default_rng(0).uniform(-1, 1, ELEMENTS).astype(np.float32)


def descend(form: Form, combination: Combination) -> Array:
    """Where the optimizer is after all steps; the slope is computed in float32."""
    x = start().astype(combination.number)
    optimizer = combination.optimizer(form, x)
    with np.errstate(over="ignore"):
        for _ in range(STEPS):
            optimizer.step(slope(x.astype(np.float32)).astype(x.dtype))
    return optimizer.decoded_params().astype(np.float32)  # type: ignore[no-any-return]


def descend_with_map(form: Form, values: Array) -> Array:
    """The same for plain RMSProp with its accumulator in a map; the update uses the unrounded one."""
    lr, beta, eps = (np.float32(form.settings[name]) for name in ("lr", "beta", "eps"))
    x, stored = start(), np.zeros(ELEMENTS, np.float32)
    for _ in range(STEPS):
        g = slope(x)
        average = beta * stored + (1 - beta) * g * g
        x -= lr * g / np.sqrt(average + eps)
        stored = dynamic_map.stored(average, values)
    return x


def distances(form: Form) -> dict[str, float]:
    """From where float32 is, as a part of the way that it went."""
    expected = descend(form, COMBINATIONS["float32"])
    way = np.linalg.norm(expected - start())
    ends = {name: descend(form, combination) for name, combination in COMBINATIONS.items()}
    if form.kind is fastopt.RMSProp:
        ends["float32, state in the dynamic map"] = descend_with_map(form, dynamic_map.dynamic(False))
    return {name: float(np.linalg.norm(end - expected) / way) for name, end in ends.items()}


def _stores(signed: bool) -> Mapping[str, Store]:
    """What is left of numbers, by the name of the format."""
    codec: Codec = SIGNED if signed else UNSIGNED

    def fastopt_(random: bool) -> Store:
        def store(numbers: Array) -> Array:
            bits = noise(0, numbers.size, phase(0, 0), 0) if random else None
            return codec.decode(codec.encode(numbers, bits), numbers.dtype)[: numbers.size]

        return store

    def mapped(values: Array) -> Store:
        return lambda numbers: dynamic_map.stored(numbers, values)

    return {
        "fastopt, stochastic": fastopt_(True),
        "fastopt, to nearest": fastopt_(False),
        "dynamic map": mapped(dynamic_map.dynamic(signed)),
        "linear map": mapped(dynamic_map.linear(signed)),
    }


def _data(signed: bool) -> Mapping[str, Array]:
    """Gradients or, without a sign, their squares."""
    rng = np.random.default_rng(0)
    size = 1000 * BLOCK
    sign = rng.choice([-1.0, 1.0], size)
    gradients = {
        "gaussian": rng.standard_normal(size),
        "log-uniform over 10^5": sign * 10.0 ** rng.uniform(-5, 0, size),
        "one of 1 among some of 10^-5": sign * np.where(np.arange(size) % BLOCK, 1e-5, 1.0),
    }
    return {name: (g if signed else g * g).astype(np.float32) for name, g in gradients.items()}


def errors(signed: bool) -> list[dict[str, Any]]:
    """For each format and kind of data: the relative error, and the share that falls to zero."""
    rows = []
    for data, numbers in _data(signed).items():
        for name, store in _stores(signed).items():
            decoded = store(numbers)
            relative = (decoded.astype(np.float64) - numbers) / numbers
            rms = float(np.sqrt(np.mean(relative**2)))
            lost = float(np.mean(decoded == 0))
            rows.append({"data": data, "format": name, "rms_relative_error": rms, "lost": lost})
    return rows
