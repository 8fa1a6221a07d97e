"""Sparse gradients that are refused, and chains that exact mode refuses: nothing is changed then."""

import math

import numpy as np
import pytest
from scipy.sparse import coo_array, csr_array, dok_array, lil_array

import fastopt
from fastopt import transforms as t
from tests.refusals import refusal
from tests.support import assert_same_bits, assert_same_run

SHAPE = (6, 2)
ROWS, VALUES = np.array([1, 4]), np.ones((2, 2))


def make(mode="exact", **settings):
    opt = fastopt.RMSProp(np.ones(SHAPE), lr=0.1, momentum=0.5, sparse=mode, **settings)
    opt.step((ROWS, VALUES))
    return opt


def csr(shape=SHAPE, dtype=np.float64):
    return csr_array((np.ones(3, dtype), [1, 0, 1], [0, 1, 3, *[3] * (shape[0] - 2)]), shape=shape)


def broken(**parts):
    """A CSR array whose parts were changed behind its back."""
    array = csr()
    for name, content in parts.items():
        setattr(array, name, np.array(content, getattr(array, name).dtype))
    return array


def beyond():
    array = coo_array((np.ones(2), ([0, 1], [0, 1])), shape=SHAPE)
    array.row[1] = 6
    return array


frozen = np.ones((2, 2))
frozen.flags.writeable = False

BAD = {
    "negative": ((np.array([-1, 2]), VALUES), ValueError, ["rows of grads", "0 to 5", "-1 to 2"]),
    "too_large": ((np.array([1, 6]), VALUES), ValueError, ["rows of grads", "0 to 5", "1 to 6"]),
    "huge": ((np.array([1, 2**63], np.uint64), VALUES), ValueError, ["rows of grads", "0 to 5"]),
    "float_rows": ((np.ones(2), VALUES), TypeError, ["rows of grads", "whole numbers", "float64"]),
    "bool_rows": ((np.ones(2, bool), VALUES), TypeError, ["rows of grads", "whole", "bool"]),
    "list_of_rows": (([1, 4], VALUES), TypeError, ["rows of grads", "NumPy array", "list"]),
    "rows_2d": ((ROWS.reshape(1, 2), VALUES), TypeError, ["rows of grads", "one-dim", "(1, 2)"]),
    "too_few": ((ROWS, VALUES[:1]), ValueError, ["values of grads", "(2, 2)", "(1, 2)"]),
    "too_wide": ((ROWS, np.ones((2, 3))), ValueError, ["values of grads", "(2, 2)", "(2, 3)"]),
    "flat": ((ROWS, np.ones(4)), ValueError, ["values of grads", "(2, 2)", "(4,)"]),
    "float32": ((ROWS, np.ones((2, 2), "f4")), TypeError, ["values", "float64", "float32"]),
    "big_endian": ((ROWS, np.ones((2, 2), ">f8")), ValueError, ["values", "byte order"]),
    "strided": ((ROWS, np.ones((2, 4))[:, ::2]), ValueError, ["values of grads", "C-contiguous"]),
    "list_of_values": ((ROWS, [[1.0] * 2] * 2), TypeError, ["values of grads", "NumPy", "list"]),
    "masked": ((ROWS, np.ma.ones((2, 2))), TypeError, ["values of grads", "masked"]),
    "three": ((ROWS, VALUES, VALUES), TypeError, ["grads", "NumPy array", "tuple"]),
    "scipy_shape": (csr((7, 2)), ValueError, ["grads", "(6, 2)", "(7, 2)"]),
    "scipy_dtype": (csr(dtype=np.float32), TypeError, ["grads", "float64", "float32"]),
    "scipy_int": (csr(dtype=np.int64), TypeError, ["grads", "float64", "int64"]),
    "scipy_columns": (broken(indices=[1, 0, 9]), ValueError, ["grads", "columns", "shape"]),
    "scipy_negative": (broken(indices=[1, 0, -1]), ValueError, ["grads", "columns", "shape"]),
    "scipy_indptr": (broken(indptr=[0, 1, 3, 3, 3, 3, 9]), ValueError, ["grads", "CSR", "indptr"]),
    "scipy_falls": (broken(indptr=[0, 3, 1, 3, 3, 3, 3]), ValueError, ["grads", "CSR", "indptr"]),
    "scipy_rows": (beyond(), ValueError, ["grads", "rows", "shape"]),
}


@pytest.mark.parametrize("mode", ["exact", "lazy"])
@pytest.mark.parametrize(("gradient", "error", "words"), BAD.values(), ids=BAD)
def test_gradients(gradient, error, words, mode):
    opt, control = make(mode), make(mode)
    with refusal(error, words):
        opt.step(gradient)
    opt.step((ROWS, VALUES))
    control.step((ROWS, VALUES))
    assert_same_run(opt, control)


@pytest.mark.parametrize("gradient", [(ROWS, VALUES), csr()], ids=["pair", "scipy"])
def test_the_mode_must_be_asked_for(gradient):
    opt = fastopt.SGD(np.ones(SHAPE))
    with refusal(TypeError, ["grads", type(gradient).__name__, "sparse='exact'", "'lazy'"]):
        opt.step(gradient)
    assert opt.step_count == 0


@pytest.mark.parametrize(
    ("sparse", "error"), [("lasy", ValueError), ("", ValueError), (True, TypeError), (1, TypeError)]
)
def test_modes(sparse, error):
    with refusal(error, ["sparse", "'exact'", "'lazy'", repr(sparse)]):
        fastopt.SGD(np.ones(3), sparse=sparse)


def test_a_parameter_without_rows():
    opt = fastopt.SGD([np.array(1.0), np.ones(2)], sparse="lazy")
    with refusal(ValueError, ["grads[0]", "rows", "()"]):
        opt.step([(ROWS[:0], VALUES[:0]), None])


def test_values_that_share_memory():
    w = np.ones(SHAPE)
    opt = fastopt.SGD(w, sparse="lazy")
    with refusal(ValueError, ["values of grads", "share memory", "params"]):
        opt.step((ROWS, w[2:4]))
    opt = fastopt.SGD([w, np.ones(SHAPE)], sparse="lazy", zero_grad=True)
    with refusal(ValueError, ["grads[0]", "grads[1]", "share memory"]):
        opt.step([(ROWS, VALUES), (ROWS, VALUES)])
    assert (w == 1).all()
    assert (VALUES == 1).all()


@pytest.mark.parametrize(
    ("gradient", "error", "words"),
    [
        ((ROWS, frozen), ValueError, ["values of grads", "read-only"]),
        ((np.array([1, 1]), frozen), ValueError, ["values of grads", "read-only"]),
        (lil_array(SHAPE), TypeError, ["grads", "zero_grad", "lil_array"]),
        (dok_array(SHAPE), TypeError, ["grads", "zero_grad", "dok_array"]),
    ],
    ids=["pair", "duplicates", "lil", "dok"],
)
def test_what_cannot_be_cleared(gradient, error, words):
    w = np.ones(SHAPE)
    with refusal(error, words):
        fastopt.SGD(w, zero_grad=True, sparse="lazy").step(gradient)
    assert (w == 1).all()


def test_one_bad_gradient_stops_the_whole_step():
    params = [np.ones(SHAPE), np.ones(3), np.ones(SHAPE)]
    opt = fastopt.SGD(params, lr=1.0, sparse="exact")
    with refusal(ValueError, ["rows of grads[2]"]):
        opt.step([(ROWS, VALUES), np.ones(3), (ROWS + 9, VALUES)])
    with refusal(TypeError, ["grads[1]", "list"]):
        opt.step([(ROWS, VALUES), [1.0] * 3, (ROWS, VALUES)])
    assert all((param == 1).all() for param in params)
    assert opt.step_count == 0


@pytest.mark.parametrize(
    ("rows", "error", "words"),
    [
        (np.array([6]), ValueError, ["rows", "0 to 5"]),
        (np.array([1.0]), TypeError, ["rows", "whole"]),
        ([1], TypeError, ["rows", "NumPy", "list"]),
    ],
)
def test_catching_up_with_bad_rows(rows, error, words):
    opt = make()
    with refusal(error, words):
        opt.catch_up(rows)
    assert_same_run(opt, make())


# Chains without a closed form

REFUSED = {
    "adam": (fastopt.Adam, {}, ["scale_by_adam", "beta1 > 0"]),
    "nadam": (fastopt.NAdam, {}, ["scale_by_nadam", "beta1 > 0"]),
    "yogi": (fastopt.Yogi, {}, ["scale_by_yogi", "beta1 > 0"]),
    "adadelta": (fastopt.AdaDelta, {"eps": 0.0}, ["scale_by_adadelta", "eps=0"]),
    "lion": (fastopt.Lion, {}, ["scale_by_lion"]),
    "adamax": (fastopt.AdaMax, {}, ["scale_by_adamax"]),
    "adabelief": (fastopt.AdaBelief, {}, ["scale_by_belief"]),
    "ademamix": (fastopt.AdEMAMix, {}, ["scale_by_ademamix"]),
    "adan": (fastopt.Adan, {}, ["scale_by_adan"]),
    "rprop": (fastopt.Rprop, {}, ["step_by_rprop"]),
    "asgd": (fastopt.ASGD, {"lambd": 0.0}, ["average_evenly"]),
    "rmsprop_decay": (fastopt.RMSProp, {"weight_decay": 0.1}, ["scale_by_rms", "weight decay"]),
    "centered_decay": (
        fastopt.RMSProp,
        {"weight_decay": 0.1, "centered": True},
        ["scale_by_stddev", "weight decay"],
    ),
    "adagrad_decay": (fastopt.AdaGrad, {"weight_decay": 0.1}, ["scale_by_rss", "weight decay"]),
    "eps_zero": (fastopt.RMSProp, {"eps": 0.0}, ["scale_by_rms", "eps=0"]),
    "bounds_moving": (
        fastopt.SGD,
        {"momentum": 0.5, "bounds": (0, 1)},
        ["but bounds:", "parameter moves"],
    ),
    "bounds_scheduled": (
        fastopt.SGD,
        {"bounds": (None, lambda step: 1.0)},
        ["but bounds:", "changes with the step"],
    ),
}


@pytest.mark.parametrize(("kind", "settings", "words"), REFUSED.values(), ids=REFUSED)
def test_exact_mode_says_why_not(kind, settings, words):
    w = np.ones(SHAPE, np.float32)
    with refusal(ValueError, ["sparse='exact'", "closed form", "sparse='lazy'", *words]):
        kind(w, **settings, sparse="exact")
    kind(w, **settings, sparse="lazy").step((ROWS, VALUES.astype(np.float32)))


@pytest.mark.parametrize(
    ("settings", "change"),
    [({"eps": lambda step: 1.0 if step < 2 else 0.0}, {}), ({}, {"eps": 0.0})],
    ids=["scheduled", "assigned"],
)
def test_a_closed_form_that_ends(settings, change):
    opt = fastopt.RMSProp(np.ones(SHAPE), **settings, sparse="exact")
    for _ in range(2):
        opt.step((ROWS, VALUES))
    for name, value in change.items():
        setattr(opt, name, value)
    previous = opt.params.copy(), opt.state["square_avg"].copy()
    with refusal(ValueError, ["sparse='exact'", "eps=0"]):
        opt.step((ROWS, VALUES))
    assert opt.step_count == 2
    assert_same_bits(opt.params, previous[0])
    assert_same_bits(opt.state["square_avg"], previous[1])


# Transforms of one's own


def sign_update(update, param, state, hyper):
    (mean,) = state
    beta, mix = hyper
    mean = beta * mean + mix * update
    return math.copysign(1.0, update), (mean,)


def build(no_gradient, update=sign_update, **others):
    return fastopt.Transform(
        update, state={"mean": 0.0}, hyper=(0.9, 0.1), no_gradient=no_gradient, **others
    )


def returns_nothing(update, param, state, hyper):
    return update, ()


def takes_a_root(update, param, state, hyper):
    return update, (math.sqrt(state[0]),)


def adds_a_number(update, param, state, hyper):
    return update, (state[0] + 1.0,)


def multiplies(update, param, state, hyper):
    return update, (state[0] * param,)


def returns_numbers(update, param, state, hyper):
    return 0.0, state


@pytest.mark.parametrize(
    ("no_gradient", "words"),
    [
        (None, ["has none", "no_gradient"]),
        (returns_nothing, ["linear", "0 states for 1"]),
        (takes_a_root, ["linear"]),
        (adds_a_number, ["linear"]),
        (multiplies, ["linear"]),
        (returns_numbers, ["linear", "sums of its arguments"]),
    ],
)
def test_transforms_that_are_not_linear(no_gradient, words):
    with refusal(ValueError, ["sign_update", "sparse='lazy'", *words]):
        fastopt.Optimizer(np.ones(SHAPE), fastopt.chain(build(no_gradient)), sparse="exact")


@pytest.mark.parametrize(
    ("no_gradient", "others", "error"),
    [
        ("twice", {}, TypeError),
        (0.9, {}, TypeError),
        ("once", {}, ValueError),
        ("once", {"after": True}, ValueError),
    ],
)
def test_what_no_gradient_may_be(no_gradient, others, error):
    with refusal(error, ["no_gradient"]):
        build(no_gradient, **others)


def test_a_custom_transform():
    def decays(update, param, state, hyper):
        return update, (0.5 * hyper[0] * state[0] + (0.5 * hyper[0]) * state[0] / 1.0,)

    opt = fastopt.Optimizer(
        np.zeros(SHAPE), fastopt.chain(build(decays), t.scale_by_learning_rate(0.1)), sparse="exact"
    )
    opt.step((ROWS, VALUES))
    for _ in range(3):
        opt.step((ROWS[:0], VALUES[:0]))
    np.testing.assert_allclose(opt.state["mean"][ROWS], 0.1 * 0.9**3, rtol=1e-15)
    assert (opt.params[ROWS] == -0.1).all()
