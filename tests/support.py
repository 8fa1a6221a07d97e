"""What several test files need: problems to solve and comparisons to the last bit."""

import numba
import numpy as np
import pytest

from fastopt.steps.stepper import stepper_of

# With NUMBA_DISABLE_JIT=1 every executor is the plain Python one, and one of them stands for all.
COMPILED = not numba.config.DISABLE_JIT
EXECUTORS = ("serial", "parallel", "reference") if COMPILED else ("serial",)

# What machine code has no part in runs in one of the two suites: in the compiled one where plain Python
# takes long over the elements, in the interpreted one where coverage should see it.
compiled_suite_only = pytest.mark.skipif(not COMPILED, reason="the compiled suite runs the same")
interpreted_suite_only = pytest.mark.skipif(COMPILED, reason="the interpreted suite runs the same")

DTYPES = (np.float32, np.float64)


def sizes(*wanted):
    """The sizes that are quick enough: plain Python takes microseconds for an element."""
    return [size for size in wanted if COMPILED or size <= 300]


def in_dtypes(cases, in_float64):
    """Cases by name, each with a dtype. Interpreted, all are in both.

    Compiled, where each is a kernel, all are in float32, where a number of the wrong dtype shows, and
    those that are named in float64 too.
    """
    return [
        pytest.param(case, dtype, id=f"{name}-{dtype.__name__}")
        for name, case in cases.items()
        for dtype in DTYPES
        if dtype == np.float32 or name in in_float64 or not COMPILED
    ]


def quick_enough(*wanted):
    """Each executor with those of the sizes that it is quick enough for."""
    return [(e, n) for e in EXECUTORS for n in sizes(*wanted) if e != "reference" or n <= 300]


def problem(shape, dtype=np.float64, steps=3):
    """A parameter, and gradients from a thousandth to a thousand times its size; some are zero."""
    rng = np.random.default_rng(20120)
    w = np.array(rng.normal(size=shape), dtype)
    grads = rng.normal(size=(steps, *w.shape)) * 10.0 ** rng.uniform(-3, 3, (steps, *w.shape))
    grads[rng.random(grads.shape) < 0.05] = 0.0
    return w, [np.array(g, dtype) for g in grads]


def assert_same_bits(actual, expected, what=""):
    """Shape, dtype and every bit agree."""
    assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype), what
    if actual.tobytes() != expected.tobytes():
        np.testing.assert_array_equal(actual, expected, what, strict=True)
        raise AssertionError(f"{what}: equal numbers with different bits (signed zeros or NaNs)")


def assert_same_run(one, other):
    """Two optimizers hold the same parameters and states, to the last bit."""
    assert one.step_count == other.step_count
    assert_same_bits(one.params, other.params, "params")
    assert one.state.keys() == other.state.keys()
    for name in one.state:
        assert_same_bits(one.state[name], other.state[name], name)


def parameters_of(optimizer):
    """All arrays of an optimizer in a row, whether or not it shows them, and their kernels' jobs."""
    return stepper_of(optimizer)().parameters
