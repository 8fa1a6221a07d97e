"""What holds for any numbers, tried on many of them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import fastopt
from tests import oracles
from tests.cases import OTHERS, SOME, every_case
from tests.support import COMPILED, assert_same_bits

STEPS = 3

any_input = settings(derandomize=True, deadline=None, max_examples=40 if COMPILED else 20)


@st.composite
def problems(draw, largest=1e3):
    """A parameter and gradients, with all the float32 or float64 numbers up to a size."""
    width = draw(st.sampled_from([32, 64]))
    size = draw(st.integers(1, 70))
    numbers = st.floats(-largest, largest, width=width)
    rows = draw(hnp.arrays(f"f{width // 8}", (1 + STEPS, size), elements=numbers))
    return rows[0].copy(), list(rows[1:])


def assert_same_numbers(actual, expected):
    """The same bits, except that one NaN is as good as another."""
    assert actual.dtype == expected.dtype
    np.testing.assert_array_equal(actual, expected)
    assert_same_bits(np.signbit(np.nan_to_num(actual)), np.signbit(np.nan_to_num(expected)))


@every_case(SOME)
@any_input
@given(problems(), st.data())
def test_splitting_changes_nothing(case, numbers, data):
    w, grads = numbers
    cuts = sorted(data.draw(st.lists(st.integers(0, w.size), max_size=4)))
    whole = case.run(w.copy(), grads)
    pieces = [piece.copy() for piece in np.split(w, cuts)]
    opt = case.run(pieces, [[piece.copy() for piece in np.split(g, cuts)] for g in grads])
    assert_same_bits(np.concatenate(pieces), whole.params)
    for name, state in whole.state.items():
        assert_same_bits(np.concatenate(opt.state[name]), state, name)


@every_case(SOME)
@any_input
@given(problems(), st.data())
def test_permuting_elements_permutes_the_result(case, numbers, data):
    w, grads = numbers
    order = np.array(data.draw(st.permutations(range(w.size))))
    straight = case.run(w.copy(), grads)
    shuffled = case.run(w[order], [g[order] for g in grads])
    assert_same_bits(shuffled.params, straight.params[order])
    for name, state in shuffled.state.items():
        assert_same_bits(state, straight.state[name][order], name)


@every_case([*SOME, *OTHERS])
@any_input
@given(problems(), st.data(), st.sampled_from([np.nan, np.inf, -np.inf]))
def test_nonfinite_gradients_stay_in_their_element(case, numbers, data, bad):
    w, grads = numbers
    at, step = data.draw(st.integers(0, w.size - 1)), data.draw(st.integers(0, STEPS - 1))
    clean = case.run(w.copy(), grads)
    grads[step] = grads[step].copy()
    grads[step][at] = bad
    hit = case.run(w.copy(), grads)
    others = np.arange(w.size) != at
    assert_same_bits(hit.params[others], clean.params[others])
    for name, state in hit.state.items():
        assert_same_bits(state[others], clean.state[name][others], name)
    if np.isnan(bad):
        assert np.isnan(hit.params[at])
    plain, _ = case.expected(w, grads)
    assert_same_numbers(hit.params, plain)


@any_input
@given(
    problems(),
    st.floats(0, 1, allow_subnormal=False),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["serial", "reference"]),
)
def test_zero_gradients_leave_parameters(numbers, eps, inside, centered, executor):
    w, _ = numbers
    eps = max(eps, 1e-30)  # positive in float32 too
    opt = fastopt.RMSProp(
        w.copy(), lr=0.5, eps=eps, eps_inside_sqrt=inside, centered=centered, executor=executor
    )
    for _ in range(STEPS):
        opt.step(np.zeros_like(w))
    assert_same_numbers(opt.params, w)
    assert not any(state.any() for state in opt.state.values())


@pytest.mark.parametrize("inside", [True, False])
@any_input
@given(problems(largest=1.0), st.integers(-100, 100))
def test_gradients_of_any_scale(inside, numbers, exponent):
    """From 1e-30 to 1e30: the step is a rate times a sign and a factor of at most 1/sqrt(1 - beta)."""
    w, grads = numbers
    w = np.zeros_like(w)
    grads = [np.ldexp(g, exponent) for g in grads]
    rates = {"lr": 0.5, "beta": 0.9, "eps_inside_sqrt": inside}
    opt = fastopt.RMSProp(w.copy(), **rates)
    state = {}
    for t, g in enumerate(grads):
        previous = opt.params.copy()
        opt.step(g)
        moved = previous - opt.params
        # The square of a float32 number above 1e19 is infinite, and the step then zero.
        assert np.isfinite(moved).all()
        assert (abs(moved) <= 0.5 / np.sqrt(1 - 0.9) * (1 + 1e-5)).all()
        assert (moved * np.sign(g) >= 0).all()
        with np.errstate(over="ignore"):
            w, state = oracles.rmsprop(w, g, state, t, **rates)
        assert_same_numbers(opt.params, w)
        assert_same_numbers(opt.state["square_avg"], state["square_avg"])


@every_case(SOME)
@any_input
@given(problems(), st.integers(-30, 30))
def test_grad_scale_divides_the_gradients(case, numbers, exponent):
    w, grads = numbers
    scale = 2.0**exponent
    divided = case.run(w.copy(), [g / scale for g in grads])
    scaled = case.make(w.copy())
    for g in grads:
        scaled.step(g, grad_scale=scale)
    assert_same_bits(scaled.params, divided.params)
    for name, state in scaled.state.items():
        assert_same_bits(state, divided.state[name], name)
