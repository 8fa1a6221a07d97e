"""Constants from outside a scalar function take the dtype of the arrays, wherever they stand."""

from __future__ import annotations

import math
import types
from typing import Any

import numpy as np
import pytest

import fastopt
from fastopt.kernels.identity import content

FACTOR = 0.1
LIMITS = (0.1, 0.2)

helpers = types.ModuleType("helpers")
exec(
    """
FACTOR = 0.1

def scaled(x, by=0.1):
    return (0.1 + FACTOR) * x * by

class Unused:
    pass
""",
    vars(helpers),
)


def literal(update, param, state, hyper):
    return 0.1 * update, state


def own_global(update, param, state, hyper):
    return FACTOR * update, state


def in_a_tuple(update, param, state, hyper):
    return LIMITS[0] * update + LIMITS[1], state


def of_math(update, param, state, hyper):
    return math.pi * update, state


def of_numpy(update, param, state, hyper):
    return np.pi * np.sqrt(update), state


def of_a_module(update, param, state, hyper):
    return helpers.FACTOR * update, state


def helper_of_a_module(update, param, state, hyper):
    return helpers.scaled(update), state


FUNCTIONS = [literal, own_global, in_a_tuple, of_math, of_numpy, of_a_module, helper_of_a_module]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("executor", ["serial", "reference"])
def test_float32_stays_float32(function: Any, executor: str) -> None:
    """Bit by bit what NumPy scalars give: no constant is in float64, or rounded another way."""
    g = np.array([1.0, 0.3, 7.7], np.float32)
    w = np.zeros(3, np.float32)
    fastopt.Optimizer(w, fastopt.Transform(function), executor=executor).step(g)
    expected = [-function(x, x, (), ())[0] for x in g]  # with NumPy, a Python float is a weak one
    assert {type(x) for x in expected} == {np.float32}
    assert w.tolist() == [float(x) for x in expected]


def test_content_holds_what_is_used_of_a_module(monkeypatch: pytest.MonkeyPatch) -> None:
    previous = content(of_a_module)
    monkeypatch.setattr(helpers, "Unused", None)
    assert content(of_a_module) == previous
    monkeypatch.setattr(helpers, "FACTOR", 0.2)
    assert content(of_a_module) != previous


def test_content_holds_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    previous = content(helper_of_a_module)
    monkeypatch.setattr(helpers.scaled, "__defaults__", (0.2,))
    assert content(helper_of_a_module) != previous


def test_content_is_the_same_in_every_process() -> None:
    """No addresses: they would make every process miss the cache."""
    assert all(content(function).lasts for function in FUNCTIONS)
