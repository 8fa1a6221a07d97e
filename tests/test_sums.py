"""Sums as part of a transform: the same bits wherever they are computed, and right."""

import copy
import math
import pickle

import numpy as np
import pytest

import fastopt
from fastopt import chain
from fastopt import transforms as t
from fastopt.executors.norm import SUM_BLOCK
from fastopt.kernels.chain_source import arrays_read
from fastopt.steps.parameter_set import sum_job
from fastopt.steps.stepper import stepper_of
from tests.refusals import everywhere, refusal
from tests.subprocesses import COUNT_PASSES, finish, needs_jit, script, start
from tests.sums import (
    SIZES,
    assert_each_for_itself,
    assert_same,
    averaged,
    blend,
    blended,
    clip,
    everything,
    positive_share,
    product,
    run,
    scaled,
    square,
)
from tests.support import (
    COMPILED,
    DTYPES,
    assert_same_bits,
    problem,
)

both_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)


@pytest.mark.parametrize("size", SIZES)
@both_dtypes
@everywhere
def test_a_transform_that_clips_is_the_option(executor, dtype, size):
    w, grads = problem(size, dtype)
    rest = t.scale_by_rms(), t.scale_by_learning_rate(0.1)
    expected = run(w, grads, chain(*rest), clip_norm=0.5, executor=executor)
    assert_same(run(w, grads, chain(clip(0.5), *rest), executor=executor), expected)


@pytest.mark.parametrize("size", SIZES)
def test_same_bits_on_every_executor(size):
    w, grads = problem(size, np.float32, 2)
    expected = run(w, grads, everything(), executor="serial")
    if size < 3 * SUM_BLOCK:  # plain Python takes long; tests/test_stats.py has it over three blocks
        assert_same(run(w, grads, everything(), executor="reference"), expected)
    for threads in (1, 2, 3, 8):
        with fastopt.threads(threads):
            assert_same(run(w, grads, everything(), executor="parallel"), expected)


def _unpacked(update, param, state, hyper):
    _, second = state
    return second


def _rebound(update, param, state, hyper):
    state = (state[1], state[0])
    return state[0]


READ = {
    "neither": (square, ["update"]),
    "second": (lambda u, p, s, h: s[1] if u > 0.0 else h[0] * u, ["update", "state1"]),
    "first": (lambda u, p, s, h: u * s[0] * p, ["param", "update", "state0"]),
    "unpacked": (_unpacked, ["update", "state0", "state1"]),
    "rebound": (_rebound, ["update", "state0", "state1"]),
    "negative": (lambda u, p, s, h: s[-1], ["update", "state0", "state1"]),
}


@pytest.mark.parametrize("name", READ)
def test_states_that_no_sum_takes_are_not_read(name):
    """Where it is certain; the sums are those of plain Python."""
    summand, arrays = READ[name]
    parts = fastopt.Transform(
        lambda update, param, state, hyper: (hyper[0] * update, (state[0] + update, state[1] - update)),
        state={"first": 0.5, "second": -0.25},
        hyper=(0.5,),
        sums={"sum": summand},
        from_sums=lambda hyper, sums, carried: ((hyper[0] / (1.0 + abs(sums[0])),), ()),
    )
    stepper = stepper_of(fastopt.Optimizer(np.zeros(3), parts))()
    job = sum_job(stepper.parameters.job(0, "float64", scales=False), 0)
    assert [array.name for array in arrays_read(job)] == arrays
    w, grads = problem(300, np.float64, 3)
    expected = run(w, grads, parts, executor="reference")
    assert_same(run(w, grads, parts, executor="serial"), expected)


def noted(hyper, sums, carried):
    return (0.5, 0.0, 1.0), sums


@both_dtypes
def test_sums_are_right(dtype):
    """Beside NumPy in float64: the update as it comes to the transform, old states, old parameter."""
    w, grads = problem(5000 if COMPILED else 200, dtype, 4)
    noting = fastopt.Transform(
        averaged,
        state={"average": 0.0},
        hyper=(2.0, 0.25),
        sums={"total": product, "share": positive_share},
        from_sums=noted,
        carried={"total": 0.0, "share": 0.0},
    )
    opt = fastopt.Optimizer(w, chain(t.scale(3.0), noting, t.scale_by_learning_rate(0.1)))
    average, exact = np.zeros(w.size), w.astype(np.float64)
    for g in grads:
        update = 3.0 * g.astype(np.float64)
        expected = np.sum(2.0 * update * exact + 0.1 * average), np.sum(update > 0)
        opt.step(g)
        tolerance = 1e-5 if dtype == np.float32 else 1e-13
        scale = np.sum(abs(2.0 * update * exact) + abs(0.1 * average))
        (((total, share),),) = opt.state_dict()["carried"]
        assert abs(total - expected[0]) <= tolerance * scale
        assert share == expected[1]
        average, exact = (array.astype(np.float64) for array in (opt.state["average"], w))


@everywhere
def test_gradients_whose_squares_overflow_float32(executor):
    w, g = np.ones(9, np.float32), np.full(9, 1e30, np.float32)
    opt = fastopt.Optimizer(w, clip(3.0), executor=executor)
    opt.step(g, grad_scale=1e-8)
    np.testing.assert_allclose(w, 0.0, atol=1e-6)


@everywhere
def test_what_python_cannot_divide(executor):
    def inverse(hyper, sums, carried):
        return (1.0 / sums[0] + math.sqrt(-sums[0]) + math.exp(1e4 * sums[0]),), carried

    w = np.ones(3)
    parts = fastopt.Transform(scaled, sums={"sum": square}, from_sums=lambda h, s, c: ((1 / s[0],), c))
    opt = fastopt.Optimizer(w, parts, executor=executor)
    opt.step(np.array([0.0, 0.0, 0.0]))  # infinity times zero
    assert np.isnan(w).all()
    with refusal(TypeError, ["from_sums", "scaled", "sums of 1.0"]):
        fastopt.Optimizer(w, fastopt.Transform(scaled, sums={"sum": square}, from_sums=inverse))


def extremes(hyper, sums, carried):
    smallest, largest = min(sums[0], hyper[0]), max(sums[0], hyper[0])
    ratio = (smallest - 3.0) / (largest * largest + 0.1)
    return (math.sqrt(abs(ratio)),), (smallest, largest, ratio / 3.0, carried[3] + 1)


@everywhere
def test_arithmetic_has_the_same_bits(executor):
    """That of compiled code and of Python, whatever the numbers; whole numbers become float64."""
    carried = dict.fromkeys(("smallest", "largest", "ratio", "count"), 0.0)
    parts = fastopt.Transform(
        scaled, hyper=(0.7,), sums={"s": total}, from_sums=extremes, carried=carried
    )
    for number in np.nan, np.inf, -np.inf, -0.0, 1e-320, 1e200, 0.1, 0.7, 1e308:
        for dtype in DTYPES:
            with np.errstate(over="ignore"):
                grad = np.array([number / 4.0, number]).astype(dtype)
            opts = [
                fastopt.Optimizer(np.ones(2, dtype), parts, executor=one)
                for one in (executor, "reference")
            ]
            for opt in opts:
                opt.step(grad)
            one, other = (repr((o.params.tolist(), o.state_dict()["carried"])) for o in opts)
            assert one == other


def total(update, param, state, hyper):
    return update


@everywhere
def test_numbers_that_do_not_fit_into_float32(executor):
    def too_large(hyper, sums, carried):
        return (1e300 * sums[0],), carried

    w = np.array([0.0, 1.0], np.float32)
    parts = fastopt.Transform(scaled, sums={"sum": square}, from_sums=too_large)
    fastopt.Optimizer(w, parts, executor=executor).step(np.ones(2, np.float32))
    assert w.tolist() == [-np.inf, -np.inf]


@everywhere
def test_many_arrays_groups_and_missing_gradients(executor):
    shapes = [(3, 5), (), (0,), (300,), (17,)]
    params = [problem(shape, dtype)[0] for shape in shapes for dtype in DTYPES]
    grads = [[problem(shape, dtype)[1][k] for shape in shapes for dtype in DTYPES] for k in range(3)]
    grads[1][0] = grads[1][3] = grads[2][6] = None
    parts = clip(0.5), t.scale_by_rms(), t.scale_by_learning_rate(0.1)
    rest = chain(*parts[1:])
    option = run(params, grads, rest, clip_norm=0.5, executor=executor)
    assert_same(run(params, grads, chain(*parts), executor=executor), option)
    expected = run(params, grads, everything(), executor="serial")
    assert_same(run(params, grads, everything(), executor=executor), expected)
    # Groups: sums over all of them, and those of a transform that one has are over that one.
    both = [params[:4], params[4:]]
    split = [[grad[:4], grad[4:]] for grad in grads]
    groups = run(both, split, [chain(*parts), chain(*parts)], executor=executor)
    for actual, alike in zip([*groups.params[0], *groups.params[1]], option.params, strict=True):
        assert_same_bits(actual, alike)
    one = run(both, split, [chain(*parts), rest], executor=executor)
    alone = run(both[0], [grad[0] for grad in split], chain(*parts), executor=executor)
    for actual, alike in zip(one.params[0], alone.params, strict=True):
        assert_same_bits(actual, alike)


@everywhere
def test_each_array_for_itself(executor):
    parts = chain(blend(per_array=True), t.scale_by_learning_rate(0.1))
    assert_each_for_itself(parts, executor, lambda opt: opt.state_dict()["carried"][0])


@pytest.mark.parametrize("per_array", [False, True])
def test_resumed_runs_have_the_bits_of_whole_ones(tmp_path, per_array):
    params = {"a": problem(5, np.float32)[0], "b": problem((2, 3), np.float32)[0]}
    grads = [
        {"a": problem(5, np.float32)[1][k], "b": problem((2, 3), np.float32)[1][k]} for k in range(3)
    ]
    whole = run(params, grads, everything(per_array=per_array))
    half = run(params, grads[:2], everything(per_array=per_array))
    half.save(tmp_path / "run.npz", params=True)
    state = copy.deepcopy(half.state_dict())

    def others():
        empty = {"b": np.zeros((2, 3), np.float32), "a": np.zeros(5, np.float32)}
        from_file = fastopt.Optimizer(empty, everything(per_array=per_array))
        from_file.load(tmp_path / "run.npz")
        yield from_file
        from_dict = fastopt.Optimizer(copy.deepcopy(half.params), everything(per_array=per_array))
        from_dict.load_state_dict(state)
        yield from_dict
        yield copy.deepcopy(half) if not per_array else half

    for opt in others():
        opt.step(grads[2])
        for name in params:
            assert_same_bits(opt.params[name], whole.params[name])
    with refusal(ValueError, ["carried"]):
        whole.load_state_dict({key: value for key, value in state.items() if key != "carried"})
    with refusal(ValueError, ["carried"]):
        whole.load_state_dict({**state, "carried": [[[1.0, 2.0]]]})
    assert whole.step_count == 3


def test_pickled_and_copied():
    w, grads = problem(5, np.float64)
    parts = chain(clip(0.5), CARRYING, t.scale_by_learning_rate(0.1))
    whole, half = run(w, grads, parts), run(w, grads[:2], parts)
    for opt in pickle.loads(pickle.dumps(half)), copy.deepcopy(half):
        opt.step(grads[2])
        assert_same(opt, whole)


CARRYING = fastopt.Transform(
    averaged,
    state={"average": 0.0},
    hyper=(0.5, 0.25),
    sums={"total": product, "share": positive_share},
    from_sums=blended,
    carried={"trend": 0.25},
)


def test_numbers_change_and_transforms_do_not():
    w, grads = problem(5, np.float64)

    def limit(step):
        return (0.5 / (1 + step),)

    opt = run(w, grads, chain(clip(limit), t.scale_by_learning_rate(0.1)))
    expected = fastopt.SGD(w.copy(), lr=0.1, clip_norm=lambda step: limit(step)[0])
    for g in grads:
        expected.step(g)
    assert_same_bits(opt.params, expected.params)


@everywhere
def test_a_step_that_is_refused_changes_nothing(executor):
    w, grads = problem(5, np.float32)
    opt = run(w, grads[:1], everything(), executor=executor)
    previous = opt.params.copy(), opt.state_dict()["carried"]
    with pytest.raises(ValueError, match="grads"):
        opt.step(grads[1][:3])
    assert_same_bits(opt.params, previous[0])
    assert opt.state_dict()["carried"] == previous[1]
    skipping = fastopt.Optimizer(opt.params, everything(), skip_nonfinite=True, executor=executor)
    previous = skipping.state_dict()["carried"]
    skipping.step(np.full(5, np.nan, np.float32))
    assert skipping.last.skipped
    assert skipping.state_dict()["carried"] == previous


def skipping(hyper, sums, carried):
    return (1.0,), (carried[0] + 1.0,), sums[0] > 1.0


@pytest.mark.parametrize("per_array", [False, True])
@everywhere
def test_steps_that_are_skipped(executor, per_array):
    parts = fastopt.Transform(
        scaled,
        sums={"s": square},
        from_sums=skipping,
        carried={"count": 0.0},
        per_array=per_array,
    )
    w = [np.zeros(2), np.zeros(1)]
    opt = fastopt.Optimizer(w, parts, executor=executor, zero_grad=True)
    small, large = [np.full(2, 0.5), np.zeros(1)], [np.zeros(2), np.full(1, 2.0)]
    for grads in small, large, small:
        opt.step(grads)
    assert opt.step_count == 2
    assert large[1][0] == 2.0  # it is not cleared either
    assert w[0].tolist() == [-0.5, -0.5]
    assert w[1] == 0.0
    carried = opt.state_dict()["carried"][0]
    assert carried == ([[2.0], [2.0]] if per_array else [[2.0]])


@everywhere
def test_a_transform_that_skips_is_the_option(executor):
    w, grads = problem(70, np.float32, 4)
    grads[1][3], grads[2][5] = np.nan, -np.inf
    rest = t.scale_by_adam(), t.scale_by_learning_rate(0.1)
    option = run(w, grads, chain(*rest), skip_nonfinite=True, executor=executor)
    assert_same(run(w, grads, chain(t.skip_nonfinite(), *rest), executor=executor), option)
    assert option.step_count == 2


CACHED = script(
    COUNT_PASSES,
    """
import numpy as np, fastopt
from tests.sums import everything
w = np.ones(70, np.float32)
opt = fastopt.Optimizer(w, everything())
opt.step(np.ones(70, np.float32))
print(compiled())
""",
)


@needs_jit
def test_a_second_process_compiles_nothing(tmp_path):
    assert finish(start(CACHED, tmp_path)) == "True"
    assert finish(start(CACHED, tmp_path)) == "False"


@everywhere
def test_gradients_in_other_formats(executor):
    w, grads = problem(70, np.float32)
    grads[1] = grads[1].astype(np.float16)
    with np.errstate(all="ignore"):
        opt = run(w, grads, everything(), executor=executor)
    wide = run(w, [g.astype(np.float32) for g in grads], everything(), executor=executor)
    assert_same(opt, wide)
    opt.step(grads[0], grad_scale=4.0)
    wide.step(grads[0] / np.float32(4.0))
    assert_same(opt, wide)
