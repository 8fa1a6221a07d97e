"""Sums that are added up in the step's own pass: those of the step before, wherever it ran."""

import copy
import pickle
from itertools import pairwise

import numpy as np
import pytest

import fastopt
from fastopt import chain
from fastopt import transforms as t
from fastopt.executors.norm import SUM_BLOCK
from fastopt.steps.stepper import stepper_of
from tests.refusals import everywhere, refusal
from tests.sums import (
    SIZES,
    assert_each_for_itself,
    assert_same,
    averaged,
    blend,
    blended,
    clip,
    positive_share,
    product,
    run,
    scaled,
    square,
)
from tests.support import (
    COMPILED,
    EXECUTORS,
    assert_same_bits,
    compiled_suite_only,
    problem,
    quick_enough,
)


def noted(hyper, sums, carried):
    return (1.0,), sums


def seen(**how):
    """Scale by one, and carry on the sums that come, where `carried` finds them."""
    names = [name for named in how.values() for name in named]
    return fastopt.Transform(scaled, from_sums=noted, carried=dict.fromkeys(names, 0.0), **how)


def carried(opt):
    """The numbers that each transform with sums carries on, in a single group."""
    return [tuple(totals[0]) for totals in opt.state_dict()["carried"]]


def calmed(hyper, sums, carried):
    return (hyper[0] / (1.0 + sums[0] + 0.5 * sums[1]),), carried


def calm(factor=0.5, **how):
    """A factor from a sum of this step and one of the step before."""
    named = {"sums": {"now": product_of_two}, "sums_after": {"before": square}}
    return fastopt.Transform(scaled, hyper=(factor,), from_sums=calmed, **named, **how)


def product_of_two(update, param, state, hyper):
    return 1e-3 * hyper[0] * (update * param) ** 2


def late(**how):
    """The transform `blend` with sums of the step before."""
    return fastopt.Transform(
        averaged,
        state={"average": 0.0},
        hyper=lambda step: (1.0 / (1.0 + step), 0.25),
        sums_after={"total": product, "share": positive_share},
        from_sums=blended,
        carried={"trend": 0.25},
        **how,
    )


def settled(update, param, state, hyper):
    return (update - param) ** 2


def pulled(update, param, state, hyper):
    return update + hyper[0] * (param - update), state


def damped():
    """Goes back a part of the way, as long as the step before was."""
    return fastopt.Transform(
        pulled,
        after=True,
        sums_after={"way": settled},
        from_sums=lambda hyper, sums, carried: ((sums[0] / (1.0 + sums[0]),), carried),
    )


def everything(**how):
    parts = calm(per_array=True), t.scale_by_rms(), late(**how), clip(0.3)
    return chain(*parts, t.add_decayed_weights(0.01), t.scale_by_learning_rate(0.1), damped())


@pytest.mark.parametrize("size", SIZES)
def test_same_bits_on_every_executor(size):
    w, grads = problem(size, np.float32, 3)
    expected = run(w, grads, everything(), executor="serial")
    others = [("parallel", threads) for threads in (1, 2, 3, 8)]
    if size < 3 * SUM_BLOCK:  # plain Python takes long; tests/test_stats.py has it over three blocks
        others.append(("reference", 1))
    for executor, threads in others:
        with fastopt.threads(threads):
            other = run(w, grads, everything(), executor=executor)
        assert_same(other, expected)
        assert other.state_dict()["sums"] == expected.state_dict()["sums"]


FORMATS = {
    "float16": (np.float16, {}),
    "8bit": (np.float32, {"state_dtype": "8bit", "clip_norm": 0.4, "maximize": True}),
    "16bit": (np.float32, {"state_dtype": np.float16, "zero_grad": True, "clip_value": 0.2}),
    "float64": (np.float64, {"average_decay": 0.5, "fast": False}),
}


@compiled_suite_only
@pytest.mark.parametrize("format_", FORMATS)
def test_formats_and_options(format_):
    """With sums of both kinds."""
    param, how = FORMATS[format_]
    size = 4200  # enough for 8 bits
    w, grads = (np.array(array, param) for array in problem(size, np.float32, 3))
    runs = [run(w, grads, everything(), executor=executor, **how) for executor in EXECUTORS]
    for other in runs[1:]:
        assert_same(other, runs[0])
        assert other.state_dict()["sums"] == runs[0].state_dict()["sums"]


@pytest.mark.parametrize(("executor", "size"), quick_enough(0, 1, 65, 8193, 20_000))
def test_sums_are_those_of_the_pass_before(executor, size):
    """The same bits as sums that are read, one step later, at the head and behind other transforms."""
    w, grads = problem(size, np.float32, 4)
    now, later = [], []
    head = {"s": square, "p": product_of_three}

    def both(kind):
        at_head, behind = (seen(**{kind: head}) for _ in range(2))
        return chain(at_head, t.scale_by_rms(), behind, t.scale_by_learning_rate(0.1))

    for log, kind in (now, "sums"), (later, "sums_after"):
        opt = fastopt.Optimizer(w.copy(), both(kind), executor=executor)
        for g in grads:
            opt.step(g, grad_scale=4.0)
            log += carried(opt)
    assert later[:2] == [(0.0, 0.0)] * 2
    assert later[2:] == now[:-2]


def product_of_three(update, param, state, hyper):
    return update * param * 3.0


def test_gradients_whose_squares_overflow_float32():
    w, g = np.ones(9, np.float32), np.full(9, 1e30, np.float32)
    opt = fastopt.Optimizer(w, chain(seen(sums_after={"s": square}), t.scale(0.0)))
    opt.step(g, grad_scale=1e-8)
    opt.step(g)
    np.testing.assert_allclose(carried(opt), 9e76, rtol=1e-6)


@everywhere
def test_many_arrays_groups_and_missing_gradients(executor):
    sizes_ = (3, 90, 0, 300, 1)
    params = [problem(size, np.float32)[0] for size in sizes_]
    grads = [[problem(size, np.float32)[1][k] for size in sizes_] for k in range(3)]
    grads[1][1] = grads[2][0] = None
    parts = chain(seen(sums_after={"s": square}), t.scale_by_learning_rate(0.1))
    opt = run(params, grads, parts, executor=executor)
    opt.step([None] * 5)
    # An array that is left out keeps its sum.
    last = [grads[1][0], grads[2][1], *grads[2][2:]]
    exact = sum(float(np.sum(np.square(g, dtype=np.float64))) for g in last)
    np.testing.assert_allclose(carried(opt), [(exact,)], rtol=1e-14)
    expected = run(params, grads, everything(), executor="serial")
    assert_same(run(params, grads, everything(), executor=executor), expected)
    # In groups: what one alone has is over that one, what both have over both.
    both = [params[:2], params[2:]]
    split = [[grad[:2], grad[2:]] for grad in grads]
    rest = chain(calm(), t.scale_by_learning_rate(0.1))
    more = chain(late(), calm(), t.scale_by_learning_rate(0.1))
    runs = [run(both, split, [more, rest], executor=one) for one in ("serial", executor)]
    assert runs[0].state_dict()["sums"] == runs[1].state_dict()["sums"]
    for actual, alike in zip(_flat(runs[1].params), _flat(runs[0].params), strict=True):
        assert_same_bits(actual, alike)
    alike = run(both, split, [rest, rest], executor=executor)
    whole = run(params, grads, rest, executor=executor)
    for actual, other in zip(_flat(alike.params), whole.params, strict=True):
        assert_same_bits(actual, other)


def _flat(params):
    return [leaf for part in params for leaf in part]


@everywhere
def test_each_array_for_itself(executor):
    parts = chain(late(per_array=True), t.scale_by_learning_rate(0.1))
    assert_each_for_itself(parts, executor, lambda opt: opt.state_dict()["sums"])


@pytest.mark.parametrize("per_array", [False, True])
def test_resumed_runs_have_the_bits_of_whole_ones(tmp_path, per_array):
    size = 3 * SUM_BLOCK + 5 if COMPILED else 40
    shapes = {"a": (size,), "b": (2, 3), "c": (0,)}
    drawn = {name: problem(shape, np.float32, 4) for name, shape in shapes.items()}
    params = {name: w for name, (w, _) in drawn.items()}
    grads = [{name: draws[k] for name, (_, draws) in drawn.items()} for k in range(4)]
    grads[2]["a"] = None  # keeps the sum that was loaded
    whole = run(params, grads, everything(per_array=per_array))
    half = run(params, grads[:2], everything(per_array=per_array))
    half.save(tmp_path / "run.npz", params=True)
    state = copy.deepcopy(half.state_dict())

    def others():
        empty = {name: np.zeros(shapes[name], np.float32) for name in "cba"}
        from_file = fastopt.Optimizer(empty, everything(per_array=per_array))
        from_file.step({name: np.ones(shapes[name], np.float32) for name in "cba"})
        from_file.load(tmp_path / "run.npz")
        yield from_file
        from_dict = fastopt.Optimizer(copy.deepcopy(half.params), everything(per_array=per_array))
        from_dict.load_state_dict(state)
        yield from_dict

    for opt in others():
        for grad in grads[2:]:
            opt.step(grad)
        for name in params:
            assert_same_bits(opt.params[name], whole.params[name])
    previous = whole.state_dict()["sums"]
    with refusal(ValueError, ["sums"]):
        whole.load_state_dict({key: value for key, value in state.items() if key != "sums"})
    for bad in [[1.0]], 3, [[1.0] * 9] * 3, [["x", 1.0, 2.0, 3.0]] * 3:
        with refusal(ValueError, ["sums"]):
            whole.load_state_dict({**state, "sums": bad})
    assert whole.step_count == 4
    assert whole.state_dict()["sums"] == previous


PICKLED = fastopt.Transform(
    scaled, hyper=(0.5,), sums_after={"a": square, "b": square}, from_sums=calmed
)


def test_pickled_and_copied():
    w, grads = problem(5, np.float64)
    parts = chain(PICKLED, t.scale_by_learning_rate(0.1))
    whole, half = run(w, grads, parts), run(w, grads[:2], parts)
    for opt in pickle.loads(pickle.dumps(half)), copy.deepcopy(half):
        opt.step(grads[2])
        assert_same(opt, whole)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_taken_in_parts(executor):
    """Parts that end with blocks of sums; a step that is skipped or refused leaves the sums alone."""
    size = 2 * SUM_BLOCK + 7 if COMPILED else 50
    w, grads = problem(size, np.float32)
    parts = chain(late(), t.scale_by_learning_rate(0.1))
    whole = run(w, grads, parts, executor=executor, skip_nonfinite=True)
    opt = fastopt.Optimizer(w.copy(), parts, executor=executor, skip_nonfinite=True)
    pieces = stepper_of(opt)()
    for g in grads:
        with refusal(ValueError, ["grads"]):
            opt.step(g[:3])
        opt.step(np.full_like(g, np.nan))
        pieces.begin(g, 1.0)
        assert pieces.decide()
        edges = [edge for edge in (0, SUM_BLOCK, 2 * SUM_BLOCK) if edge < size] + [size]
        for start, stop in reversed(list(pairwise(edges))):
            pieces.run(start, stop)
        pieces.end()
    assert_same(opt, whole)
    assert opt.state_dict()["sums"] == whole.state_dict()["sums"]


def test_refusals():
    both = {"sums": {"s": square}, "from_sums": calmed}
    with refusal(ValueError, ["sums_after", "different names", "'s'"]):
        fastopt.Transform(scaled, sums_after={"s": square}, **both)
    with refusal(ValueError, ["sums_after", "from_sums"]):
        fastopt.Transform(scaled, sums_after={"s": square})
    with refusal(TypeError, ["sums_after['s']", "3"]):
        fastopt.Transform(scaled, sums_after={"s": 3}, from_sums=calmed)
    with refusal(TypeError, ["sums_after", "map"]):
        fastopt.Transform(scaled, sums_after=[square], from_sums=calmed)
    two = {"s": lambda update: update, "t": square}
    bad = fastopt.Transform(scaled, hyper=(1.0,), sums_after=two, from_sums=calmed)
    with refusal(TypeError, ["sum 's'", "scaled"]):
        fastopt.Optimizer(np.ones(3), bad)


def test_a_one_shot_function_does_not_forget_sums():
    class Late(fastopt.NamedOptimizer):
        lr: fastopt.Number = fastopt.setting(default=0.1)

        def make_parts(self):
            return [PICKLED, *self.decay_and_rate()]

    with refusal(ValueError, ["Late", "keep an optimizer"]):
        fastopt.one_shot(Late)(np.ones(3), np.ones(3), step=0)


def test_more_saved_sums_than_arrays():
    parts = chain(seen(sums_after={"s": square}), t.scale(0.5))
    opt = fastopt.Optimizer([np.ones(3), np.ones(2)], parts, executor="reference")
    opt.step([np.ones(3), np.ones(2)])
    saved = opt.state_dict()
    for sums in ([*saved["sums"], saved["sums"][0]], saved["sums"][:1], []):
        with refusal(ValueError, ["state_dict", "other sums"]):
            opt.load_state_dict(saved | {"sums": sums})
    opt.load_state_dict(saved)


ODD = ["1", True, None, 1j]


@pytest.mark.parametrize("value", ODD)
def test_saved_sums_that_are_no_numbers(value):
    opt = fastopt.Optimizer([np.ones(3)], seen(sums_after={"s": square}), executor="reference")
    opt.step([np.ones(3)])
    saved = opt.state_dict()
    for sums in ([[value]], value, [value], ["1"], {0: ["1"]}):
        with refusal(ValueError, ["state_dict", "other sums"]):
            opt.load_state_dict(saved | {"sums": sums})
    opt.load_state_dict(saved)


@pytest.mark.parametrize("value", ODD)
def test_carried_numbers_that_are_no_numbers(value):
    opt = fastopt.Optimizer([np.ones(3)], blend(), executor="reference")
    opt.step([np.ones(3)])
    saved = opt.state_dict()
    for carried in ([[[value]]], value, [value], [[value]], ["1"], [{0: ["1"]}], [{}]):
        with refusal(ValueError, ["state_dict", "other carried numbers"]):
            opt.load_state_dict(saved | {"carried": carried})
    opt.load_state_dict(saved)
