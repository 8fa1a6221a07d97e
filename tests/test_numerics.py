"""Every executor gives the bits of NumPy, and those are right."""

import numpy as np
import pytest

import fastopt
from tests import oracle_parts, oracles
from tests.cases import BY_NAME, CASES, SOME, every_case
from tests.support import (
    DTYPES,
    assert_same_bits,
    assert_same_run,
    compiled_suite_only,
    in_dtypes,
    interpreted_suite_only,
    problem,
    sizes,
)

both_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)

# Compiled, two of each optimizer are in float64, which have its transforms.
WIDE = [name for name in BY_NAME if name.endswith(("-plain", "-everything-decay"))]
every_case_and_dtype = pytest.mark.parametrize(("case", "dtype"), in_dtypes(BY_NAME, WIDE))


def assert_expected(opt, case, w, grads):
    expected, states = case.expected(w, grads)
    assert_same_bits(opt.params, expected, "params")
    for name, state in opt.state.items():
        assert_same_bits(state, states[name], name)


@every_case_and_dtype
def test_equals_numpy(case, dtype):
    w, grads = problem(257, dtype)
    assert_expected(case.run(w.copy(), grads, executor="serial"), case, w, grads)


@compiled_suite_only
@every_case_and_dtype
def test_parallel_equals_serial(case, dtype):
    w, grads = problem(1009, dtype)
    serial = case.run(w.copy(), grads, executor="serial")
    for count in (1, 2, 3, 8):
        with fastopt.threads(count):
            assert_same_run(case.run(w.copy(), grads, executor="parallel"), serial)


@compiled_suite_only
@every_case_and_dtype
def test_reference_equals_serial(case, dtype):
    w, grads = problem(17, dtype)
    serial = case.run(w.copy(), grads, executor="serial")
    assert_same_run(case.run(w.copy(), grads, executor="reference"), serial)


@both_dtypes
@every_case(SOME)
@pytest.mark.parametrize("executor", ["serial", "parallel"])
@pytest.mark.parametrize(
    "size", sizes(0, 1, 2, 3, 7, 15, 16, 17, 31, 32, 33, 63, 64, 65, 255, 256, 257, 1009, 100_003)
)
def test_every_size(size, executor, case, dtype):
    w, grads = problem(size, dtype)
    assert_expected(case.run(w.copy(), grads, executor=executor), case, w, grads)


@both_dtypes
@pytest.mark.parametrize("count", [1, 2, 3, 8])
@pytest.mark.parametrize("size", sizes(5, 64, 8 * 64, 8 * 64 + 1, 100_003))
def test_every_number_of_threads(size, count, dtype):
    """Fewer elements than threads, a few cache lines for each, and many."""
    case = BY_NAME["rmsprop-everything-decay"]
    w, grads = problem(size, dtype)
    with fastopt.threads(count):
        assert_expected(case.run(w.copy(), grads, executor="parallel"), case, w, grads)


@every_case_and_dtype
def test_pieces_equal_the_whole(case, dtype):
    w, grads = problem(131, dtype)
    whole = case.run(w.copy(), grads)
    cut = 37
    pieces = [w[:cut].copy(), w[cut:].copy()]
    opt = case.run(pieces, [[g[:cut].copy(), g[cut:].copy()] for g in grads])
    assert_same_bits(np.concatenate(pieces), whole.params)
    for name, state in whole.state.items():
        assert_same_bits(np.concatenate(opt.state[name]), state, name)


@every_case(SOME)
@pytest.mark.parametrize("executor", ["serial", "parallel"])
def test_structures_of_many_shapes_and_both_dtypes(case, executor):
    shapes = [(), (3, 5), (0,), (2, 3, 4), (131,), (1, 64)]
    problems = [problem(shape, dtype) for shape in shapes for dtype in DTYPES]
    params = {i: w.copy() for i, (w, _) in enumerate(problems)}
    opt = case.make({"deep": (params,)}, executor=executor)
    for step in range(3):
        case.step(opt, {"deep": (dict(reversed([(i, g[step]) for i, (_, g) in enumerate(problems)])),)})
    for i, (w, grads) in enumerate(problems):
        expected, states = case.expected(w, grads)
        assert_same_bits(params[i], np.asarray(expected))
        for name, state in opt.state.items():
            assert_same_bits(state["deep"][0][i], np.asarray(states[name]), name)


@both_dtypes
@pytest.mark.parametrize("shape", [(), (0,), (1,), (7, 9), (3, 0, 5), (2, 3, 4)])
@every_case(SOME)
def test_shapes(case, shape, dtype):
    w, grads = problem(shape, dtype)
    flat = case.run(w.reshape(-1).copy(), [g.reshape(-1) for g in grads])
    opt = case.run(w.copy(), grads)
    assert opt.params.shape == shape
    assert_same_bits(opt.params.reshape(-1), flat.params)
    for name, state in opt.state.items():
        assert state.shape == shape
        assert_same_bits(state.reshape(-1), flat.state[name], name)


def test_fortran_order_is_refused():
    w = np.asfortranarray(np.ones((3, 4)))
    with pytest.raises(ValueError, match="params must be C-contiguous"):
        fastopt.RMSProp(w)


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({}, ["square_avg"]),
        ({"centered": True}, ["square_avg", "grad_avg"]),
        ({"momentum": 0.5}, ["square_avg", "momentum_buffer"]),
        ({"centered": True, "momentum": lambda t: 0.0}, ["square_avg", "grad_avg", "momentum_buffer"]),
    ],
)
def test_only_the_states_that_are_needed(settings, names):
    assert list(fastopt.RMSProp(np.ones(3), **settings).state) == names


def test_states_of_the_caller_are_used_as_they_are():
    """A run resumes from another one's arrays, and writes into them."""
    case = BY_NAME["rmsprop-centered"]
    w, grads = problem(65)
    first = case.run(w, grads[:1])
    state = dict(first.state)
    second = case.run(w, grads[1:], state=state)
    assert all(second.state[name] is state[name] for name in state)
    assert_expected(second, case, problem(65)[0], grads)


@both_dtypes
def test_grad_scale(dtype):
    w, grads = problem(65, dtype)
    case = BY_NAME["rmsprop-rates"]
    opt = case.make(w.copy())
    scales = 3.0, 1024.0, 0.7
    for g, scale in zip(grads, scales, strict=True):
        opt.step(g, grad_scale=scale)
    scaled = [dtype(1 / scale) * g for g, scale in zip(grads, scales, strict=True)]
    assert_expected(opt, case, w, scaled)


SQUARES = {"square_avg", "sum", "exp_avg_sq", "max_exp_avg_sq"}

# The bias-corrected variance is the difference of equal numbers after the first step, and of nearly
# equal ones after gradients that are alike: no order of operations in float64 gets many digits of it.
# Others subtract too: gradients from each other or from their average, parameters from theirs, or what
# is close to one from it.
DIFFERENCES = (fastopt.AdaBelief, fastopt.Adan, fastopt.ASGD, fastopt.RAdam, fastopt.AdEMAMix)
WELL_CONDITIONED = [
    case
    for case in CASES
    if case.optimizer not in DIFFERENCES
    and not (case.settings.get("centered") and case.settings.get("bias_correction"))
]


@interpreted_suite_only  # whose bits are NumPy's and so those of compiled code, as tests above say
@every_case(WELL_CONDITIONED)
def test_within_two_ulp_of_the_exact_step(case):
    """Each step in float64 against 50 digits, from the same parameter and states.

    The parameters are larger than a step, and signs such that only the step itself is a difference.
    Decay rounds the gradient, which counts twice in its square.
    """
    w, grads = problem(129, np.float64, steps=4)
    w = np.copysign(1 + abs(w), w)
    grads = [np.copysign(g, -w if case.settings.get("maximize") else w) for g in grads]
    opt = case.make(w)
    state = {}
    for t, g in enumerate(grads):
        previous = {"params": w.copy()} | {name: s.copy() for name, s in opt.state.items()}
        expected, state = case.expected_step(oracle_parts.exact(w), oracle_parts.exact(g), state, t)
        state["params"] = expected
        case.step(opt, g)
        for name, actual in {"params": w, **opt.state}.items():
            ulp = np.spacing(np.maximum(abs(previous[name]), abs(actual)))
            error = float((abs(oracle_parts.exact(actual) - state[name]) / ulp).max())
            limit = 4 if name in SQUARES and "weight_decay" in case.settings else 2
            limit = 6 if name == "acc_delta" else limit  # a square of two roots and a quotient
            assert error <= limit, f"{name} at step {t}"
        state = {name: oracle_parts.exact(s) for name, s in opt.state.items()}


@interpreted_suite_only
@every_case([case for case in CASES if case.optimizer in DIFFERENCES])
def test_close_to_the_exact_run(case):
    """Twelve steps: RAdam divides in the last of them."""
    w, grads = problem(33, np.float64, steps=12)
    expected, states = case.expected(oracle_parts.exact(w), [oracle_parts.exact(g) for g in grads])
    opt = case.run(w.copy(), grads)
    for name, exact in {"params": expected, **states}.items():
        actual = opt.params if name == "params" else opt.state[name]
        np.testing.assert_allclose(actual, exact.astype(float), rtol=1e-9, atol=1e-9, err_msg=name)


@both_dtypes
@pytest.mark.parametrize("name", ["radam-plain", "radam-everything-decay"])
def test_steps_that_are_rectified(name, dtype):
    """The first few steps are not."""
    w, grads = problem(65, dtype, steps=12)
    assert_expected(BY_NAME[name].run(w.copy(), grads, executor="serial"), BY_NAME[name], w, grads)


def test_worked_example_in_many_digits():
    """Against the figures of the definition, typed in by hand."""
    assert oracle_parts.MP.nstr(oracle_parts.worked_example(1), 18) == "4.68377223414127595"
    assert oracle_parts.MP.nstr(oracle_parts.worked_example(2), 18) == "4.46158460640658837"


@pytest.mark.parametrize("executor", ["serial", "parallel", "reference"])
def test_worked_example(executor):
    w = np.array([5.0])
    opt = fastopt.RMSProp(w, lr=0.1, executor=executor)
    for steps in (1, 2):
        opt.step(2 * w)
        assert abs(w[0] - oracle_parts.worked_example(steps)) <= 2 * np.spacing(5.0)


def test_oracle_in_many_digits_is_the_worked_example():
    """The general oracle and the plain one agree, so that neither is wrong alone."""
    w, state = oracle_parts.exact(["5"]), {}
    for steps in (1, 2):
        w, state = oracles.rmsprop(w, 2 * w, state, steps - 1, lr="0.1", beta="0.9", eps="1e-8")
        assert abs(w[0] - oracle_parts.worked_example(steps)) < 1e-45
