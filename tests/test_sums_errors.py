"""Transforms with sums that are refused, and what the errors say."""

import numpy as np
import pytest

import fastopt
from fastopt import chain
from fastopt import transforms as t
from tests.refusals import everywhere, refusal
from tests.subprocesses import needs_jit
from tests.sums import blend, clip, scaled, snapshot, square


def no_sum(hyper, sums, carried):
    return hyper, carried


BAD = {
    "no from_sums": ({"sums": {"s": square}}, ValueError, ["sums", "from_sums"]),
    "no sums": ({"from_sums": no_sum}, ValueError, ["sums", "from_sums"]),
    "a number": ({"sums": {"s": 1.0}, "from_sums": no_sum}, TypeError, ["sums['s']", "1.0"]),
    "a list": ({"sums": [square], "from_sums": no_sum}, TypeError, ["sums", "map"]),
    "not a function": ({"sums": {"s": square}, "from_sums": 3}, TypeError, ["from_sums", "3"]),
    "carried word": (
        {"sums": {"s": square}, "from_sums": no_sum, "carried": {"c": "x"}},
        TypeError,
        ["carried['c']", "'x'"],
    ),
    "carried alone": ({"carried": {"c": 1.0}}, ValueError, ["carried"]),
    "per_array alone": ({"per_array": True}, ValueError, ["per_array"]),
    "per_array": (
        {"sums": {"s": square}, "from_sums": no_sum, "per_array": 1},
        TypeError,
        ["per_array"],
    ),
}


@pytest.mark.parametrize("how", BAD.values(), ids=BAD)
def test_bad_declarations(how):
    fields, error, words = how
    with refusal(error, words):
        fastopt.Transform(scaled, **fields)


def returns_nothing(hyper, sums, carried):
    pass


def returns_hyper(hyper, sums, carried):
    return hyper


def returns_more(hyper, sums, carried):
    return hyper, (1.0,)


def returns_words(hyper, sums, carried):
    return ("x",), ()


def returns_a_number(hyper, sums, carried):
    return hyper, carried, 1.0


RETURNS = [returns_nothing, returns_hyper, returns_more, returns_words, returns_a_number]


@pytest.mark.parametrize("function", RETURNS)
def test_bad_from_sums(function):
    parts = fastopt.Transform(scaled, hyper=(1.0,), sums={"s": square}, from_sums=function)
    with refusal(TypeError, ["from_sums", "scaled"]):
        fastopt.Optimizer(np.ones(3), parts)


def more_hyper(hyper, sums, carried):
    return hyper if sums[0] < 5.0 else (*hyper, 2.0), carried


def fewer_carried(hyper, sums, carried):
    return hyper, carried if sums[0] < 5.0 else ()


def counting(function, per_array=False):
    parts = fastopt.Transform(
        scaled,
        hyper=(1.0,),
        sums={"s": square},
        from_sums=function,
        carried={"c": 0.0},
        per_array=per_array,
    )
    return chain(parts, t.scale_by_learning_rate(0.5))


@pytest.mark.parametrize("per_array", [False, True])
@pytest.mark.parametrize("function", [more_hyper, fewer_carried])
def test_from_sums_that_returns_another_number_of_them_later(function, per_array):
    parts = counting(function, per_array)
    opt = fastopt.Optimizer(np.ones(3, np.float32), parts, executor="reference")
    opt.step(np.ones(3, np.float32))
    previous = snapshot(opt)
    with refusal(ValueError, ["from_sums", "scaled", "always"]):
        opt.step(np.full(3, 2.0, np.float32))
    assert snapshot(opt) == previous
    opt.step(np.ones(3, np.float32))
    assert opt.params.tolist() == [0.0, 0.0, 0.0]


CALLS = []


def noting(hyper, sums, carried):
    CALLS.append(sums)
    return hyper, carried


def sometimes_skipping(hyper, sums, carried):
    return (hyper, carried, True) if sums[0] > 5.0 else (hyper, carried)


def a_word(hyper, sums, carried):
    return (1.0 if sums[0] < 5.0 else "x",), carried


UNCOMPILED = [more_hyper, fewer_carried, noting, sometimes_skipping, a_word]


@needs_jit
@pytest.mark.parametrize("function", UNCOMPILED)
def test_from_sums_that_cannot_be_compiled(function):
    w = np.ones(3, np.float32)
    with refusal(TypeError, ["from_sums", "scaled", "compiled"]):
        fastopt.Optimizer(w, counting(function))
    fastopt.Optimizer(w, counting(function), executor="reference")  # which compiles nothing


def unknown_name(update, param, state, hyper):
    return update * nowhere  # noqa: F821


def array_term(update, param, state, hyper):
    return np.array([update])


def nothing(update, param, state, hyper):
    pass


def any_arguments(*arguments):
    return arguments[0]


def two_arguments(update, param):
    return update


SUMMANDS = [unknown_name, array_term, nothing, any_arguments, two_arguments]


@pytest.mark.parametrize("function", SUMMANDS)
@everywhere
def test_bad_summands(executor, function):
    parts = fastopt.Transform(scaled, hyper=(1.0,), sums={"s": function}, from_sums=no_sum)
    with refusal(TypeError, ["sum 's'", "scaled"]):
        fastopt.Optimizer(np.ones(3), parts, executor=executor)


@needs_jit
def test_a_summand_that_cannot_be_compiled():
    seen = []

    def noted(update, param, state, hyper):
        seen.append(update)
        return update

    parts = fastopt.Transform(scaled, hyper=(1.0,), sums={"s": noted}, from_sums=no_sum)
    with refusal(TypeError, ["sum 's'", "compiled", "scaled"]):
        fastopt.Optimizer(np.ones(3), parts, executor="serial")
    fastopt.Optimizer(np.ones(3), parts, executor="reference")


def test_groups_in_different_orders_are_refused():
    one, other = chain(clip(1.0), blend()), chain(blend(), clip(1.0))
    with refusal(ValueError, ["same order"]):
        fastopt.Optimizer([[np.ones(3)], [np.ones(3)]], [one, other])
