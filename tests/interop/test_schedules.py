"""Schedules against those of optax."""

import math

import numpy as np
import pytest

from fastopt import schedules

STEPS = 60
SETTINGS = 50

rng = np.random.default_rng(1)


@pytest.fixture
def optax():
    module = pytest.importorskip("optax", reason="optax is not installed")
    pytest.importorskip("jax", reason="jax is not installed").config.update("jax_enable_x64", True)
    return module


def assert_equal(ours, reference):
    """At every step, up to the rounding of their power, cosine and order of operations."""
    expected = [float(reference(np.float64(step))) for step in range(STEPS)]
    np.testing.assert_allclose([ours(step) for step in range(STEPS)], expected, 1e-13, 1e-16)


def number():
    return float(10.0 ** rng.uniform(-4, 0))


def count(low=1):
    return int(rng.integers(low, STEPS))


def test_constant(optax):
    assert_equal(schedules.constant(0.1), optax.constant_schedule(0.1))


def test_exponential(optax):
    for _ in range(SETTINGS):
        init, rate, steps = number(), float(rng.uniform(0.1, 1.5)), count()
        others = {"staircase": bool(rng.integers(2))}
        begin, end = count(0), [None, init * math.sqrt(rate)][rng.integers(2)]
        assert_equal(
            schedules.exponential(init, rate, steps, begin=begin, end=end, **others),
            optax.exponential_decay(init, steps, rate, transition_begin=begin, end_value=end, **others),
        )


def test_cosine(optax):
    for _ in range(SETTINGS):
        init, steps, alpha = number(), count(), number()
        ours = schedules.cosine(init, steps, alpha=alpha)
        assert_equal(ours, optax.cosine_decay_schedule(init, steps, alpha))


def test_warmup_cosine(optax):
    for _ in range(SETTINGS):
        warmup = count(0)
        settings = number(), number(), warmup, warmup + count(), number()
        ours = schedules.warmup_cosine(*settings)
        assert_equal(ours, optax.warmup_cosine_decay_schedule(*settings))


def test_polynomial(optax):
    for _ in range(SETTINGS):
        init, end, steps, begin, power = number(), number(), count(), count(0), rng.uniform(0.5, 3)
        assert_equal(
            schedules.polynomial(init, end, steps, power, begin=begin),
            optax.polynomial_schedule(init, end, power, steps, begin),
        )


def test_piecewise(optax):
    for _ in range(SETTINGS):
        values = [number() for _ in range(4)]
        boundaries = sorted({count(), count(), count()})
        scales = [values[i + 1] / values[i] for i in range(len(boundaries))]
        assert_equal(
            schedules.piecewise(boundaries, values[: len(boundaries) + 1]),
            optax.piecewise_constant_schedule(values[0], dict(zip(boundaries, scales, strict=True))),
        )
