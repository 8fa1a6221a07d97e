"""The options that all optimizers share, alone and together, in the same pass as the step."""

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastopt
from tests.phases import STEPS, Phase
from tests.refusals import assert_goes_on, everywhere, gradient, make, params, refusal
from tests.support import (
    COMPILED,
    DTYPES,
    EXECUTORS,
    assert_same_bits,
    assert_same_run,
    in_dtypes,
    problem,
)

both_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)

ALONE = {
    "maximize": {"maximize": True},
    "clip_value": {"clip_value": 0.7},
    "clip_norm": {"clip_norm": 3.0},
    "clip_norm_large": {"clip_norm": 1e9},
    "clip_norm_scheduled": {"clip_norm": lambda t: 1.0 + t},
    "decay": {"weight_decay": 0.05},
    "decoupled": {"weight_decay": 0.05, "decoupled_weight_decay": True},
    "bounds": {"bounds": (-0.3, 0.6)},
    "low": {"bounds": (0.1, None)},
    "high": {"bounds": (None, -0.1)},
    "bounds_equal": {"bounds": (0.25, 0.25)},
    "bounds_arrays": {"bounds": ("arrays", "arrays")},
    "bounds_mixed": {"bounds": ("arrays", 2)},
    "bounds_scheduled": {"bounds": (lambda t: -1.0 / (1 + t), lambda t: 1.0 / (2 + t))},
    "average": {"average_decay": 0.9},
    "average_scheduled": {"average_decay": lambda t: t / (10.0 + t)},
    "skip_nonfinite": {"skip_nonfinite": True},
    "zero_grad": {"zero_grad": True},
}


# Compiled, those are in float64 that read or write another array, or the norm.
WIDE = "clip_norm", "bounds_arrays", "average", "zero_grad"


@everywhere
@pytest.mark.parametrize(("options", "dtype"), in_dtypes(ALONE, WIDE))
def test_alone(options, dtype, executor):
    Phase(dtype, options).check(executor)


@everywhere
@both_dtypes
def test_grad_scale(dtype, executor):
    Phase(dtype, scales=(3.0, 1024.0, 1.0)).check(executor)


@everywhere
@pytest.mark.parametrize(
    ("dtype", "copy_dtype"),
    [(np.float32, np.float16), (np.float32, np.float64), (np.float64, np.float32)]
    + [(dtype, dtype) for dtype in DTYPES],
)
def test_copy_to(dtype, copy_dtype, executor):
    Phase(dtype, copy_dtype=copy_dtype).check(executor)


def switched(values):
    """One of the values, or nothing."""
    return st.one_of(st.none(), st.sampled_from(values))


@st.composite
def phases(draw):
    dtype = draw(st.sampled_from(DTYPES))
    schedule = lambda t: 0.5 / (1 + t)  # noqa: E731
    options = {
        "maximize": draw(st.booleans()),
        "clip_value": draw(switched([0.5, 20.0, schedule])),
        "clip_norm": draw(switched([0.5, 1e6, schedule])),
        "weight_decay": draw(st.sampled_from([0.0, 0.05, schedule])),
        "decoupled_weight_decay": draw(st.booleans()),
        "bounds": (
            draw(switched([-0.7, "arrays", lambda t: -1.0 / (1 + t)])),
            draw(switched([0.7, "arrays", lambda t: 1.0 / (1 + t)])),
        ),
        "average_decay": draw(switched([0.9, schedule])),
        "skip_nonfinite": draw(st.booleans()),
        "zero_grad": draw(st.booleans()),
    }
    copies = [np.float32, np.float64, *([np.float16] if dtype is np.float32 else [])]
    spoilt = st.sampled_from(range(STEPS)) if options["skip_nonfinite"] else st.none()
    scales = draw(st.tuples(*[st.sampled_from([1.0, 3.0, 0.01])] * STEPS))
    return Phase(dtype, options, scales, draw(switched(copies)), draw(spoilt))


# Every combination is a kernel to compile; without compilation there is time for more.
@settings(derandomize=True, deadline=None, max_examples=10 if COMPILED else 200)
@given(phases())
def test_any_combination(phase):
    for executor in EXECUTORS:
        phase.check(executor)


def test_everything_at_once():
    options = ALONE["decoupled"] | ALONE["average"] | ALONE["clip_norm"] | ALONE["skip_nonfinite"]
    options |= ALONE["bounds_mixed"] | ALONE["zero_grad"] | ALONE["maximize"] | ALONE["clip_value"]
    phase = Phase(np.float32, options, (1024.0, 2.0, 3.0), np.float16, spoiled=1)
    for executor in EXECUTORS:
        for threads in (1, 2, 3, 8):
            with fastopt.threads(threads):
                phase.check(executor)


# Averages, copies and bounds


@everywhere
@both_dtypes
def test_average_starts_as_the_parameters(dtype, executor):
    w, (g, *_) = problem(33, dtype)
    opt = fastopt.SGD(w, lr=0.5, average_decay=0.75, executor=executor)
    assert_same_bits(opt.state["average"], w)
    assert not np.shares_memory(opt.state["average"], w)
    previous = w.copy()
    opt.step(g)
    assert_same_bits(opt.state["average"], dtype(0.75) * previous + dtype(0.25) * w)


def numbers_to_round(wide, narrow):
    """Ties, their neighbours, subnormals, the largest and what overflows, of a narrower format."""
    info = np.finfo(narrow)
    exact = np.array([1, 1.5, 1 + info.eps, info.max, info.tiny, info.smallest_subnormal], narrow)
    below = np.nextafter(exact, narrow(0)).astype(wide)
    largest, second = wide(info.max), below[3]
    half_way = np.append((exact + below) / 2, largest + (largest - second) / 2)
    beside = [np.nextafter(half_way, wide(to)) for to in (0, np.inf)]
    small = np.array([0.5, 0.51, 1.5, 2.5], wide) * wide(info.smallest_subnormal)
    extremes = np.array([0.0, np.finfo(wide).max, 1e-30, np.inf], wide)
    every = np.concatenate([exact, below, half_way, *beside, small, extremes])
    return np.concatenate([every, -every, np.array([np.nan], wide)])


@everywhere
@pytest.mark.parametrize(("wide", "narrow"), [(np.float32, np.float16), (np.float64, np.float32)])
def test_copies_are_rounded_as_numpy_does(wide, narrow, executor):
    w = numbers_to_round(wide, narrow)
    with np.errstate(over="ignore"):
        expected = w.astype(narrow)
    copied = np.zeros_like(expected)
    fastopt.SGD(w, lr=0.0, copy_to=copied, executor=executor).step(np.zeros_like(w))
    assert np.isinf(expected[np.isfinite(w)]).any()  # or else the test has no teeth
    assert ((expected != 0) & (abs(expected) < np.finfo(narrow).tiny)).any()
    assert_same_bits(copied[:-1], expected[:-1])
    assert np.isnan(copied[-1])


@everywhere
def test_bounds_let_nan_through(executor):
    w = np.array([np.nan, 5.0, -5.0])
    opt = fastopt.SGD(w, lr=1.0, bounds=(-1.0, 2.0), executor=executor)
    opt.step(np.zeros(3))
    np.testing.assert_array_equal(w, [np.nan, 2.0, -1.0])


@everywhere
def test_bounds_that_change_between_steps(executor):
    """Arrays are read anew at every step: they are the caller's."""
    high = np.ones(3)
    w = np.zeros(3)
    opt = fastopt.SGD(w, lr=1.0, bounds=(None, high), executor=executor)
    opt.step(np.full(3, -5.0))
    np.testing.assert_array_equal(w, high)
    high[:] = [2.0, 3.0, 4.0]
    opt.step(np.full(3, -5.0))
    np.testing.assert_array_equal(w, [2.0, 3.0, 4.0])


# Skipped steps and cleared gradients


@everywhere
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_skipped_step_changes_nothing(bad, executor):
    settings = {"skip_nonfinite": True, "zero_grad": True, "average_decay": 0.9, "executor": executor}
    settings |= {"lr": lambda t: 0.1 / (1 + t), "bias_correction": True}
    target = np.zeros(12, np.float16)
    opt, control = make(copy_to=target, **settings), make(copy_to=target.copy(), **settings)
    g = gradient()
    g[-1] = bad
    previous, held, copied = g.copy(), copy.deepcopy(dict(opt.state)), target.copy()
    opt.step(g)
    assert opt.last.skipped
    assert np.isnan(opt.last.norm)
    assert opt.step_count == 1
    assert_same_bits(g, previous)
    assert_same_bits(target, copied)
    for name, array in held.items():
        assert_same_bits(opt.state[name], array, name)
    assert_same_run(opt, control)
    opt.step(gradient())
    control.step(gradient())
    assert not opt.last.skipped
    assert_same_run(opt, control)


@everywhere
def test_cleared_gradients_must_be_apart(executor):
    """From each other, and from arrays that are only read."""
    w = [params(), params()]
    low = [params() - 1, params() - 1]
    opt = fastopt.SGD(w, zero_grad=True, bounds=(low, None), executor=executor)
    g = gradient()
    with refusal(ValueError, ["grads[0]", "grads[1]", "share memory"]):
        opt.step([g, g])
    with refusal(ValueError, ["grads[1]", "low[0]", "share memory"]):
        opt.step([g, low[0]])
    memory = np.ones(18, np.float32)
    with refusal(ValueError, ["grads[0]", "grads[1]", "share memory"]):
        opt.step([memory[6:], memory[:12]])
    frozen = gradient()
    frozen.flags.writeable = False
    with refusal(ValueError, ["grads[1]", "writeable"]):
        opt.step([g, frozen])
    assert all(array.tobytes() == params().tobytes() for array in w)
    assert g.tobytes() == gradient().tobytes()
    assert low[0].tobytes() == (params() - 1).tobytes()
    assert opt.step_count == 0
    opt.step([g, gradient()])
    assert not g.any()


@everywhere
def test_a_gradient_may_be_a_bound_that_is_only_read(executor):
    low = np.full(3, 0.5)
    w = np.ones(3)
    fastopt.SGD(w, lr=1.0, bounds=(low, None), executor=executor).step(low)
    np.testing.assert_array_equal(w, low)


# Errors

BAD_OPTIONS = [
    ("bounds", (2.0, 1.0), ValueError, ["bounds", "low <= high", "(2.0, 1.0)"]),
    ("bounds", (np.float32(2), 1), ValueError, ["bounds", "low <= high"]),
    ("bounds", 1.0, TypeError, ["bounds", "pair (low, high)", "1.0"]),
    ("bounds", (1.0,), TypeError, ["bounds", "pair (low, high)"]),
    ("bounds", (0.0, np.nan), ValueError, ["high", "finite", "nan"]),
    ("bounds", (-np.inf, 0.0), ValueError, ["low", "finite", "-inf"]),
    ("bounds", ("0", 1.0), TypeError, ["low", "NumPy array", "str"]),
    ("bounds", (None, np.ones(3, np.float32)), ValueError, ["high", "shape", "(3,)"]),
    ("bounds", (np.ones(12), None), TypeError, ["low", "dtype", "float64"]),
    ("average_decay", 1.0, ValueError, ["average_decay", "[0, 1)", "1.0"]),
    ("average_decay", "0.9", TypeError, ["average_decay", "number", "'0.9'"]),
    ("clip_norm", 0.0, ValueError, ["clip_norm", "> 0", "0.0"]),
    ("clip_norm", np.inf, ValueError, ["clip_norm", "> 0", "inf"]),
    ("clip_norm", True, TypeError, ["clip_norm", "number", "True"]),
    ("skip_nonfinite", 1, TypeError, ["skip_nonfinite", "True or False", "1"]),
    ("zero_grad", "yes", TypeError, ["zero_grad", "True or False", "'yes'"]),
    ("copy_to", [0.0] * 12, TypeError, ["copy_to", "NumPy array", "list"]),
    ("copy_to", np.zeros(12, int), TypeError, ["copy_to", "float16, bfloat16, float32", "int64"]),
    ("copy_to", np.zeros(11), ValueError, ["copy_to", "shape", "(12,)", "(11,)"]),
    ("copy_to", np.zeros(24)[::2], ValueError, ["copy_to", "C-contiguous"]),
    ("copy_to", np.zeros(12, ">f8"), ValueError, ["copy_to", "native byte order"]),
    ("copy_to", np.broadcast_to(0.0, 12), ValueError, ["copy_to", "C-contiguous"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "error", "words"), BAD_OPTIONS)
def test_bad_options(name, value, error, words):
    w = params()
    with refusal(error, words):
        fastopt.RMSProp(w, **{name: value})
    assert w.tobytes() == params().tobytes()


def test_copies_must_be_apart_and_not_rounded_twice():
    w = params()
    with refusal(ValueError, ["copy_to", "params", "share memory"]):
        fastopt.SGD(w, copy_to=w)
    with refusal(ValueError, ["copy_to", "low", "share memory"]):
        low = np.zeros_like(w)
        fastopt.SGD(w, bounds=(low, None), copy_to=low)
    with refusal(TypeError, ["copy_to", "float32 or float64", "float16"]):
        fastopt.SGD(w.astype(np.float64), copy_to=np.zeros(12, np.float16))
    with refusal(TypeError, ["copy_to[1]", "NumPy array", "NoneType"]):
        fastopt.SGD([w, params()], copy_to=[np.zeros(12), None])


@pytest.mark.parametrize(
    ("name", "bad", "words"),
    [
        ("clip_norm", -1.0, ["clip_norm", "> 0", "-1.0", "step 1"]),
        ("average_decay", 1.0, ["average_decay", "[0, 1)", "1.0", "step 1"]),
        ("bounds", np.nan, ["high", "finite", "nan", "step 1"]),
    ],
)
def test_bad_value_of_a_schedule(name, bad, words):
    """The second one: nothing is changed by the step that would have used it."""
    values = [0.5, bad]
    schedule = lambda t: values[t] if t < 2 else 0.5  # noqa: E731
    settings = {name: (None, schedule) if name == "bounds" else schedule}
    good = {name: (None, lambda t: 0.5) if name == "bounds" else 0.5}
    opt = make(**settings)
    with refusal(ValueError, words):
        opt.step(gradient())
    values[1] = 0.5
    assert_goes_on(opt, **good)


@everywhere
def test_clip_norm_can_be_assigned(executor):
    opt, control = make(clip_norm=1.0, executor=executor), make(clip_norm=1e-3, executor=executor)
    fresh = make(clip_norm=1.0, executor=executor)
    opt.clip_norm = 1e-3
    assert opt.clip_norm == 1e-3
    for optimizer in (opt, control, fresh):
        optimizer.params[:] = 0
        for state in optimizer.state.values():
            state[:] = 0
        optimizer.step(gradient())
    assert_same_run(opt, control)
    assert opt.params.tobytes() != fresh.params.tobytes()
    with refusal(ValueError, ["clip_norm", "> 0", "0"]):
        opt.clip_norm = 0
    assert opt.clip_norm == 1e-3


def test_what_decides_the_passes_cannot_be_assigned():
    opt = make()
    with refusal(ValueError, ["clip_norm", "new optimizer"]):
        opt.clip_norm = 1.0
    for name in ("skip_nonfinite", "zero_grad"):
        with pytest.raises(AttributeError, match=name):
            setattr(opt, name, True)
    for name in ("bounds", "copy_to"):
        with pytest.raises(AttributeError, match=name):
            setattr(opt, name, None)
    assert_goes_on(opt)
