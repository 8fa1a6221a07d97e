"""Numbers at the edges of a format: constants that vanish, limits that are rounded, huge settings."""

from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest

import fastopt
from fastopt import transforms as t
from fastopt.steps import hyperparameters
from tests.refusals import refusal
from tests.support import assert_same_bits

HALF, BRAIN, SINGLE, DOUBLE = FORMATS = (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)
NARROW = FORMATS[:3]  # computed in float32

# Settings that vanish in float32, or turn into another kind of number: optimizer, setting, value.
VANISHING = [
    (fastopt.RMSProp, "eps", 1e-50),
    (fastopt.RMSProp, "lr", 1e-46),
    (fastopt.RMSProp, "beta", 1e-60),
    (fastopt.RMSProp, "beta", 1 - 1e-9),
    (fastopt.RMSProp, "momentum", 1e-60),
    (fastopt.RMSProp, "weight_decay", 1e-60),
    (fastopt.RMSProp, "clip_value", 1e-60),
    (fastopt.RMSProp, "average_decay", 1 - 1e-9),
    (fastopt.AdaGrad, "eps", 1e-50),
    (fastopt.AdaGrad, "lr", 1e-46),
    (fastopt.Adam, "eps", 1e-50),
    (fastopt.Adam, "beta1", 1 - 1e-9),
    (fastopt.Adam, "beta2", 1 - 1e-9),
    (fastopt.NAdam, "eps", 1e-50),
    (fastopt.NAdam, "beta2", 1 - 1e-9),
]


@pytest.mark.parametrize(("optimizer", "name", "value"), VANISHING)
@pytest.mark.parametrize("dtype", NARROW)
def test_constants_that_vanish_are_refused(optimizer, name, value, dtype):
    w = np.ones(3, dtype)
    with refusal(ValueError, [name, repr(value), "float32"]):
        optimizer(w, **{name: value})
    opt = optimizer(w, **{name: 0.25}, executor="reference")
    with refusal(ValueError, [name, repr(value), "float32"]):
        setattr(opt, name, value)
    assert getattr(opt, name) == 0.25
    opt.step(np.ones(3, dtype))
    assert np.isfinite(w.astype(float)).all()


@pytest.mark.parametrize(("optimizer", "name", "value"), VANISHING)
def test_float64_has_them_all(optimizer, name, value):
    optimizer(np.ones(3), **{name: value}).step(np.ones(3))


def test_a_rate_in_front_of_its_decay_is_a_constant():
    with refusal(ValueError, ["lr", "1e-50", "float32"]):
        fastopt.AdaGrad(np.ones(3, np.float32), lr=1e-50, lr_decay=0.1)


def test_only_one_of_several_groups():
    groups = [{"params": np.ones(3)}, {"params": np.ones(3, np.float32)}]
    with refusal(ValueError, ["eps", "1e-50", "float32"]):
        fastopt.RMSProp(groups, eps=1e-50)
    groups[0]["eps"] = 1e-50
    fastopt.RMSProp(groups).groups[0].eps = 1e-60


def test_hyperparameters_that_a_custom_transform_gets():
    def twice_update(update, param, state, hyper):
        (factor,) = hyper
        return factor * update, state

    chain = t.chain(fastopt.Transform(twice_update, hyper=(1e-50,)))
    with refusal(ValueError, ["twice_update", "1e-50", "float32"]):
        fastopt.Optimizer(np.ones(3, np.float32), chain)
    fastopt.Optimizer(np.ones(3), chain)


def test_rates_near_one_are_no_decay_rates():
    w = np.ones(3, np.float32)
    fastopt.SGD(w, lr=1 - 1e-16, momentum=1 - 1e-9).step(w.copy())
    assert w.tolist() == [0.0] * 3


def test_the_smallest_number_is_one():
    w = np.zeros(3, np.float32)
    opt = fastopt.RMSProp(w, eps=1e-45)
    opt.step(np.zeros(3, np.float32))
    assert w.tolist() == [0.0] * 3


def test_what_a_schedule_gives_may_vanish():
    w = np.ones(3, np.float32)
    opt = fastopt.SGD(w, lr=fastopt.schedules.exponential(1.0, 1e-30), clip_value=lambda step: 1e-60)
    for _ in range(5):
        opt.step(np.ones(3, np.float32))
    assert w.tolist() == [1.0] * 3
    assert opt.step_count == 5


def test_a_schedule_of_fractions_ends_at_zero():
    w = np.ones(3)
    opt = fastopt.SGD(w, lr=lambda step: Fraction(1, 10 ** (400 * step)))
    for _ in range(3):
        opt.step(np.ones(3))
    assert w.tolist() == [0.0] * 3


def test_a_clip_factor_that_vanishes_counts_as_zero():
    w = np.ones(2, np.float32)
    opt = fastopt.SGD(w, lr=1.0, clip_norm=1e-10)
    opt.step(np.array([3e38, 0.0], np.float32))
    assert w.tolist() == [1.0, 1.0]
    assert opt.step_count == 1
    assert opt.last.norm == float(np.float32(3e38))
    assert not opt.last.skipped


# Starts of states


@pytest.mark.parametrize(
    ("value", "dtype"),
    [(1e-50, None), (1e39, None), (1e-8, np.float16), (1e5, np.float16), (1e-50, "8bit")],
)
def test_starts_that_vanish_or_overflow(value, dtype):
    w = np.ones(5000, np.float32)
    with refusal(ValueError, ["sum", repr(value)]):
        fastopt.AdaGrad(w, initial_accumulator=value, state_dtype=dtype)


@pytest.mark.parametrize("value", [np.inf, 0.0, np.nan])
def test_starts_that_are_no_small_numbers(value):
    def keep_update(update, param, state, hyper):
        return update, state

    transform = fastopt.Transform(keep_update, state={"kept": value})
    opt = fastopt.Optimizer(np.ones(3, np.float32), transform)
    assert np.array_equal(opt.state["kept"], np.full(3, value), equal_nan=True)


# Limits


@pytest.mark.parametrize("executor", ["serial", "reference"])
@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("limit", [1e-8, 1e-60, 0.1, 1 / 3, 0.25, 1e4 / 3])
def test_limits_are_rounded_inwards(executor, dtype, limit):
    for sign in (1, -1):
        w = np.full(3, sign * 60_000, dtype)
        bounds = (limit, None) if sign > 0 else (None, -limit)
        opt = fastopt.SGD(w, lr=1.0, bounds=bounds, executor=executor)
        opt.step(w.copy())
        actual = sign * w.astype(float)
        assert (actual >= limit).all()
        below = np.nextafter(w, np.zeros_like(w)).astype(float)
        assert (sign * below < limit).all()  # and it is the next one


@pytest.mark.parametrize("rounding", [None, True])
def test_formats_side_by_side_have_limits_of_their_own(rounding):
    params = [np.ones(300, dtype) for dtype in NARROW]
    opt = fastopt.SGD(params, lr=1.0, bounds=(0.1, None), stochastic_rounding=rounding)
    for _ in range(3):
        opt.step([np.ones_like(w) for w in params])
    assert all((w.astype(float) >= 0.1).all() for w in params)
    assert len({float(w[0]) for w in params}) == 3


def test_limits_of_either_zero():
    """Whichever came first in the process."""
    for low in -0.0, 0.0, -0.0:
        w = np.ones(1, np.float32)
        fastopt.SGD(w, lr=1.0, bounds=(low, None)).step(np.full(1, 2.0, np.float32))
        assert_same_bits(w, np.array([low], np.float32))


def test_limits_that_a_schedule_gives():
    w = np.ones(3, np.float16)
    opt = fastopt.SGD(w, lr=1.0, bounds=(lambda step: 10.0 ** -(step + 2), None))
    for step in range(8):
        opt.step(np.full(3, 2, np.float16))
        assert (w.astype(float) >= 10.0 ** -(step + 2)).all()


def test_limits_beyond_the_format():
    w = np.zeros(2, np.float16)
    opt = fastopt.SGD(w, lr=1.0, bounds=(-1e6, 1e39))
    for _ in range(3):
        opt.step(np.array([60_000, -60_000], np.float16))
    assert w.tolist() == [-65504, 65504]
    with refusal(ValueError, ["bounds", "float16", "1000000.0"]):
        fastopt.SGD(w, bounds=(1e6, None))


def test_limits_with_nothing_between_them():
    for dtype, bounds in [(np.float16, (1e-8, 2e-8)), (np.float32, (0.1, 0.1 + 1e-12))]:
        with refusal(ValueError, ["bounds", dtype.__name__, *map(repr, bounds)]):
            fastopt.SGD(np.ones(3, dtype), bounds=bounds)
    fastopt.SGD(np.ones(3), bounds=(0.1, 0.1 + 1e-12))


def test_equal_limits_fix_a_parameter():
    w = np.ones(3, np.float16)
    fastopt.SGD(w, lr=1.0, bounds=(0.1, 0.1)).step(w.copy())
    assert (abs(w.astype(float) - 0.1) < 1e-4).all()


@pytest.mark.parametrize("limit", [1e-50, 0.1, 1 / 3])
def test_limits_of_minimize(limit):
    def square(x):
        return float(x @ x), 2 * x

    bounds = [(limit, None), (None, -limit)]
    result = fastopt.minimize(square, np.float32([2, -2]), jac=True, bounds=bounds, maxiter=300)
    low, high = result.x.astype(float)
    assert low >= limit
    assert high <= -limit
    with refusal(ValueError, ["bounds", "float32", "x[1]"]):
        bounds = [(0, 1), (limit, limit * (1 + 1e-15))]
        fastopt.minimize(square, np.float32([2, -2]), jac=True, bounds=bounds)
    fixed = fastopt.minimize(
        square, np.float32([2, -2]), jac=True, bounds=[(0.1, 0.1), (-1, 1)], maxiter=3
    )
    assert fixed.x[0] == np.float32(0.1)


# Numbers that no float can hold


@pytest.mark.parametrize(
    "value",
    [10**400, -(10**400), 10**5000, Fraction(10**400), np.longdouble("1e4000"), np.inf, np.nan],
    ids=range(7),
)
def test_too_large_for_a_float(value):
    w = np.ones(3)
    for name in ("lr", "momentum", "clip_norm", "clip_value", "average_decay", "weight_decay"):
        with refusal(ValueError, [name]):
            fastopt.SGD(w, **{name: value})
    with refusal(ValueError, ["low"]):
        fastopt.SGD(w, bounds=(value, None))
    with refusal(ValueError, ["initial_accumulator"]):
        fastopt.AdaGrad(w, initial_accumulator=value)
    with refusal(ValueError, ["init"]):
        fastopt.schedules.exponential(value, 0.5)
    opt = fastopt.SGD(w)
    with refusal(ValueError, ["grad_scale"]):
        opt.step(np.ones(3), grad_scale=value)
    with refusal(ValueError, ["lr"]):
        opt.lr = value
    assert opt.lr == 1e-2
    assert opt.step_count == 0


@pytest.mark.parametrize("value", [Fraction(1, 10**400), np.longdouble("1e-4000")])
def test_too_small_for_a_float(value):
    with refusal(ValueError, ["eps", "float64"]):
        fastopt.RMSProp(np.ones(3), eps=value)


@pytest.mark.parametrize("value", [2**63, 10**5000], ids=["64 bits", "digits"])
def test_whole_numbers_have_64_bits(value):
    with refusal(ValueError, ["steps", "2**63"]):
        fastopt.schedules.cosine(0.1, value)


def test_constants_are_checked_when_they_change(monkeypatch):
    """And not in every step, which they would slow by a factor of ten."""
    w = np.ones(3, np.float32)
    checked, check = [], hyperparameters.check_constants
    monkeypatch.setattr(
        hyperparameters, "check_constants", lambda *arguments: checked.append(check(*arguments))
    )
    opt = fastopt.Adam(w, lr=0.1)  # whose numbers change with every step
    assert len(checked) == 1
    for _ in range(3):
        opt.step(w.copy())
    assert len(checked) == 1
    opt.lr = 0.2
    opt.step(w.copy())
    assert len(checked) == 2
