"""Nothing warns, or fails where NumPy's warnings are errors, whatever the numbers are."""

import itertools
import warnings

import ml_dtypes
import numpy as np
import pytest

import fastopt
from tests.cases import CASES, every_case
from tests.sparse_runs import CLOSED
from tests.support import COMPILED, compiled_suite_only, interpreted_suite_only

DTYPES = (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)
BITS = {2: np.uint16, 4: np.uint32, 8: np.uint64}
SOME = [case for case in CASES if case.name.endswith(("plain", "everything"))]


@pytest.fixture(autouse=True)
def _all_errors():
    with np.errstate(all="raise"), warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def gradients(dtype):
    """Gradients of 16 elements from the edges of a format, by name."""
    limits = ml_dtypes.finfo(dtype)
    largest, tiny, least = map(float, (limits.max, limits.tiny, limits.smallest_subnormal))
    with np.errstate(all="ignore"):
        finite = [0.0, -0.0, 1.0, -1.0, largest, -largest, tiny, least, -least, largest**0.5, 1e-3, 3.0]
        every = np.array([*finite, np.inf, -np.inf, np.nan, np.nan]).astype(dtype)
        numbers = {
            "every": every,
            "finite": np.array([*finite, *finite[:4]]).astype(dtype),
            "huge": np.full(16, largest / 4).astype(dtype),
            "subnormal": np.full(16, least).astype(dtype),
            "zero": np.zeros(16, dtype),
        }
    signalling = every.copy()
    bits = signalling.view(BITS[every.itemsize])
    bits[-1] = np.array(np.inf, dtype).view(bits.dtype) | bits.dtype.type(1)
    return numbers | {"signalling": signalling}


def use(opt, g, *, scale=2.0**20):
    """A few steps and looks."""
    for _ in range(3):
        opt.step(g)
    opt.step(g, grad_scale=scale)
    opt.state_dict()
    repr(opt)
    for name in opt.state:
        opt.decoded(name)


OPTIONS = {
    "alone": {},
    "clip": {"clip_norm": 1e-3},
    "skip": {"clip_norm": 1.0, "skip_nonfinite": True},
    "random": {"stochastic_rounding": True, "bounds": (-1e-3, 1e3), "average_decay": 0.9},
}


@interpreted_suite_only
@every_case(CASES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_reference(case, dtype):
    for g in gradients(dtype).values():
        use(case.make(np.ones(16, dtype), executor="reference"), g)


@compiled_suite_only
@every_case(SOME)
def test_compiled(case):
    # With a scale each kernel is another, and multiplies first: RMSProp's stand for all.
    scale = 2.0**20 if case.optimizer is fastopt.RMSProp else 1.0
    for g in gradients(np.float32).values():
        use(case.make(np.ones(16, np.float32)), g, scale=scale)


# Compiled, each format and each of the options once: machine code warns of nothing.
TOGETHER = list(zip(DTYPES, OPTIONS, strict=True) if COMPILED else itertools.product(DTYPES, OPTIONS))


@pytest.mark.parametrize(("dtype", "name"), TOGETHER)
def test_options(dtype, name):
    for g in gradients(dtype).values():
        use(fastopt.RMSProp(np.ones(16, dtype), **OPTIONS[name]), g)


@pytest.mark.skipif(not COMPILED, reason="8-bit states take 4096 elements")
@pytest.mark.parametrize("rounding", [None, False])
def test_8_bit_states(rounding):
    for g in gradients(np.float32).values():
        w = np.ones(4096, np.float32)
        opt = fastopt.Adam(w, state_dtype="8bit", stochastic_rounding=rounding)
        use(opt, np.resize(g, 4096))


@interpreted_suite_only  # what NumPy could warn of is done in Python in both
@pytest.mark.parametrize("mode", ["exact", "lazy"])
@pytest.mark.parametrize("name", CLOSED)
def test_sparse(name, mode):
    optimizer, settings = CLOSED[name]
    for dtype in (np.float32, np.float64):
        for g in gradients(dtype).values():
            values = g.reshape(8, 2)
            opt = optimizer(np.ones((60, 2), dtype), sparse=mode, **settings)
            for step in range(14):  # some rows lag behind by many
                opt.step((np.array([step % 7, 20 + step]), values[step % 7 : step % 7 + 2]))
            opt.step((np.array([3, 3, 5]), values[:3]))
            opt.catch_up()
            opt.step(np.ones((60, 2), dtype))
            opt.state_dict()


@pytest.mark.parametrize("dtype", DTYPES)
def test_norms(dtype):
    for g in gradients(dtype).values():
        fastopt.global_norm(g)
    huge = np.full(3, 1e200)
    assert fastopt.global_norm(huge) == pytest.approx(3**0.5 * 1e200)
    assert fastopt.global_norm([np.full(2, 1e152), np.full(2, 1e-200)]) == pytest.approx(2**0.5 * 1e152)


def test_settings_that_underflow():
    w = np.ones(3, np.float32)
    opt = fastopt.Adam(w, lr=lambda step: 10.0 ** -(20 * step), bounds=(1e-50, 1e39))
    for _ in range(5):
        opt.step(np.ones(3, np.float32))
    with pytest.raises(ValueError, match="eps"):
        opt.eps = 1e-50
    with pytest.raises(ValueError, match="lr"):
        opt.lr = np.longdouble("1e4000")


FUNCTIONS = {
    "quadratic": lambda x: (float(np.vdot(x, x)), 2 * x),
    "steep": lambda x: (1.0, np.full(3, 1e38)),
    "flat": lambda x: (1.0, np.full(3, 1e-50)),
    "not finite": lambda x: (np.inf, np.full(3, np.nan)),
    "beyond": lambda x: (1.0, np.full(3, 1e300)),
}


@pytest.mark.parametrize("optimizer", [fastopt.RMSProp, fastopt.SGD])
@pytest.mark.parametrize("bounds", [None, [(1e-50, 1e39)] * 3])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_minimize(name, dtype, bounds, optimizer):
    x0 = np.array([1.0, 2.0, 3.0]).astype(dtype)
    fastopt.minimize(FUNCTIONS[name], x0, jac=True, maxiter=8, bounds=bounds, optimizer=optimizer)
