"""Mistakes in a user's transform: found before anything runs, named, with what to do instead."""

import numpy as np
import pytest

import fastopt
from fastopt import transforms as t
from fastopt.transforms.scaling import scale_update
from tests.refusals import refusal
from tests.support import COMPILED

everywhere = pytest.mark.parametrize("executor", ["serial", "parallel", "reference"])
only_compiled = pytest.mark.skipif(not COMPILED, reason="only the compiler finds this")


def too_few_states(update, param, state, hyper):
    first, _ = state
    return update, (first,)


def too_many_states(update, param, state, hyper):
    return update, (*state, update)


def bare_update(update, param, state, hyper):
    return update


def state_without_tuple(update, param, state, hyper):
    first, _ = state
    return update, first


def unpacks_too_many(update, param, state, hyper):
    _, _, _ = state
    return update, state


def unknown_name(update, param, state, hyper):
    return learning_rate * update, state  # noqa: F821


def indexes(update, param, state, hyper):
    return update[0], state


def returns_arrays(update, param, state, hyper):
    return np.ones(3) * update, state


def method(update, param, state, hyper):
    return update.mystery(), state


def one_argument(update):
    return update


def helper_with_a_mistake(x):
    return x + unknown  # noqa: F821


def calls_a_mistake(update, param, state, hyper):
    return helper_with_a_mistake(update), state


STATES = {"a": 0.0, "b": 0.0}

MISTAKES = [
    (too_few_states, ["1 states", "declares 2", "a, b"]),
    (too_many_states, ["3 states", "declares 2", "a, b"]),
    (bare_update, ["must return (update, state)"]),
    (state_without_tuple, ["must return (update, state)", "tuple"]),
    (unpacks_too_many, ["tuple of 2 states (a, b)"]),
    (unknown_name, ["unknown name", "learning_rate", "module level"]),
    (calls_a_mistake, ["unknown name", "'unknown'", "module level"]),
    (indexes, ["numbers", "not arrays"]),
    (returns_arrays, ["must return numbers, not arrays"]),
    (method, ["numbers", "mystery"]),
    (one_argument, ["one element", "2 states", "0 hyperparameters"]),
]


@everywhere
@pytest.mark.parametrize(("update", "words"), MISTAKES, ids=[m[0].__name__ for m in MISTAKES])
def test_mistake(update, words, executor):
    w = np.ones(5, np.float32)
    chain = fastopt.chain(t.scale(0.1), fastopt.Transform(update, STATES))
    with refusal(TypeError, [f"transform {update.__name__!r}", *words]):
        fastopt.Optimizer(w, chain, executor=executor)
    assert w.tolist() == [1.0] * 5


def integer_constant(update, param, state, hyper):
    (beta,) = hyper
    return (1 - beta) * update, state


def integer_in_the_state(update, param, state, hyper):
    (count,) = state
    return update, (count + 1,)


def whole_numbers(update, param, state, hyper):
    return 1 if update > 0 else -1, state


@only_compiled
def test_whole_numbers_are_named():
    with refusal(TypeError, ["'whole_numbers'", "float32 numbers", "write 1.0 for 1"]):
        fastopt.Optimizer(np.ones(3, np.float32), fastopt.Transform(whole_numbers))


@only_compiled
@pytest.mark.parametrize(
    ("transform", "name"),
    [
        (fastopt.Transform(integer_constant, hyper=(0.9,)), "integer_constant"),
        (fastopt.Transform(integer_in_the_state, {"count": 0.0}), "integer_in_the_state"),
    ],
)
def test_constants_that_make_float64(transform, name):
    with refusal(TypeError, [name, "float32 into float64", "1.0 - beta", "PI = math.pi"]):
        fastopt.Optimizer(np.ones(5, np.float32), transform, executor="serial")
    # In float64 they do no harm.
    fastopt.Optimizer(np.ones(5), transform, executor="serial")


class Rate:
    value = 0.5


def uses_an_object(update, param, state, hyper):
    return RATE.value * update, state


RATE = Rate()


def returns_a_comparison(update, param, state, hyper):
    return update > param, state


@only_compiled
@pytest.mark.parametrize(
    ("update", "words"),
    [
        (uses_an_object, ["cannot be compiled", "arithmetic", "no Python objects"]),
        (returns_a_comparison, ["must return float32 numbers", "bool"]),
    ],
)
def test_what_cannot_be_compiled(update, words):
    with refusal(TypeError, [f"transform {update.__name__!r}", *words]):
        fastopt.Optimizer(np.ones(5, np.float32), fastopt.Transform(update), executor="serial")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"update": 1.0}, ["update", "Python function", "1.0"]),
        ({"update": np.sign}, ["update", "Python function", "sign"]),
        ({"update": bare_update, "state": ["a"]}, ["state", "names to initial values", "['a']"]),
        ({"update": bare_update, "hyper": 0.9}, ["hyper", "tuple or a function", "0.9"]),
        ({"update": bare_update, "hyper": [0.9]}, ["hyper", "tuple or a function", "[0.9]"]),
    ],
)
def test_bad_arguments_of_transform(arguments, words):
    with refusal(TypeError, words):
        fastopt.Transform(**arguments)


def test_bad_parts_of_a_chain():
    with refusal(TypeError, ["part 1", "Transform", "0.5"]):
        fastopt.chain(t.scale(0.1), 0.5)


@everywhere
def test_hyper_of_changing_length(executor):
    w = np.ones(3)
    transform = fastopt.Transform(
        lambda update, param, state, hyper: (update, state), hyper=lambda step: (0.5,) * (step + 1)
    )
    opt = fastopt.Optimizer(w, transform, executor=executor)
    opt.step(np.ones(3))
    with refusal(ValueError, ["hyper", "2 numbers at step 1", "1 before"]):
        opt.step(np.ones(3))
    assert w.tolist() == [0.0] * 3
    assert opt.step_count == 1


@everywhere
@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e39])
def test_hyper_that_is_not_finite(bad, executor):
    def half(update, param, state, hyper):
        return hyper[0] * update, state

    w = np.ones(3, np.float32)
    transform = fastopt.Transform(half, hyper=lambda step: (bad if step == 1 else 0.5,))
    opt = fastopt.Optimizer(w, fastopt.chain(t.scale(1.0), transform), executor=executor)
    opt.step(np.ones(3, np.float32))
    with refusal(ValueError, ["of half must be", "finite in float32", repr(bad), "step 1"]):
        opt.step(np.ones(3, np.float32))
    assert w.tolist() == [0.5] * 3
    assert opt.step_count == 1


UNUSABLE = [("0.1",), (None,), (1j,), (np.ones(2),), np.ones(1), 0.1, None]


@pytest.mark.parametrize("hyper", UNUSABLE, ids=repr)
@pytest.mark.parametrize("first", [0, 2])
def test_hyperparameters_that_are_no_numbers_name_their_transform(hyper, first):
    """At once, or in the step that they are for; nothing is changed then."""
    function = lambda step: (0.5,) if step < first else hyper  # noqa: E731
    w = np.ones(3)

    def run():
        opt = fastopt.Optimizer(w, fastopt.Transform(scale_update, hyper=function))
        for _ in range(first + 1):
            opt.step(np.ones(3))

    with pytest.raises(TypeError, match=f"hyper of transform 'scale_update' .* at step {first}"):
        run()
    assert w.tolist() == [1.0 - 0.5 * first] * 3
