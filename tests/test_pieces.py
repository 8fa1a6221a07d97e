"""A step taken in pieces gives the bits of a step at once."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastopt
from fastopt.codecs.base import BLOCK
from fastopt.executors.norm import LOCAL
from fastopt.interop.mpi.ranks import fingerprint as fingerprint_of
from fastopt.steps.stepper import stepper_of
from tests import cases
from tests.refusals import refusal
from tests.support import COMPILED, assert_same_bits, assert_same_run, problem

SIZE = 5 * BLOCK + 3


def step_in_pieces(opt, pieces, grad, cuts, grad_scale=1.0):
    """Whether the step was taken."""
    pieces.begin(grad, grad_scale)
    if not pieces.decide():
        return False
    edges = [0, *sorted(cut * BLOCK for cut in cuts), grad.size]
    for start, stop in pairwise(edges):
        pieces.run(start, stop)
    pieces.end()
    return True


@pytest.mark.parametrize("executor", ["serial", "parallel", "reference"])
@cases.every_case([cases.BY_NAME["rmsprop-everything-decay"], cases.BY_NAME["adam-everything"]])
def test_same_bits(case, executor):
    w, grads = problem(SIZE, np.float32)
    opt, plain = case.make(w.copy(), executor=executor), case.make(w.copy(), executor=executor)
    pieces = stepper_of(opt)()
    for number, g in enumerate(grads):
        assert step_in_pieces(opt, pieces, g, [1, 1 + number, 5], grad_scale=3.0)
        plain.step(g, grad_scale=3.0)
    assert_same_run(opt, plain)


@settings(deadline=None, max_examples=25)
@given(
    size=st.integers(0, 1300 if COMPILED else 600),
    cuts=st.lists(st.integers(0, 5), max_size=4),
    executor=st.sampled_from(["serial", "parallel", "auto"]),
    clip_norm=st.sampled_from([None, 0.1]),
    zero_grad=st.booleans(),
)
def test_wherever_it_is_cut(size, cuts, executor, clip_norm, zero_grad):
    w, grads = problem(size, np.float32, steps=2)
    options = {"clip_norm": clip_norm, "zero_grad": zero_grad, "executor": executor}
    opt, plain = (fastopt.SGD(w.copy(), lr=0.1, momentum=0.9, **options) for _ in range(2))
    pieces = stepper_of(opt)()
    cuts = [cut for cut in cuts if cut * BLOCK <= size]
    for g in grads:
        other = g.copy()
        step_in_pieces(opt, pieces, g, cuts)
        plain.step(other)
        assert_same_bits(g, other)
    assert_same_run(opt, plain)
    assert opt.last == plain.last


@pytest.mark.parametrize("stochastic", [False, True])
def test_low_precision_storage(stochastic):
    size = 4096 + 7 if COMPILED else 700
    w, grads = problem(size, np.float16)
    options = {"lr": 0.1, "state_dtype": "8bit", "stochastic_rounding": stochastic, "seed": 4}
    opt, plain = fastopt.Adam(w.copy(), **options), fastopt.Adam(w.copy(), **options)
    pieces = stepper_of(opt)()
    for g in grads:
        step_in_pieces(opt, pieces, g, [1, 2])
        plain.step(g)
    assert_same_run(opt, plain)


def test_parts_with_stochastic_rounding():
    """Two optimizers over a half each, who know which half, are as one over everything."""
    w, grads = problem(4 * BLOCK, np.float16)
    options = {"lr": 0.1, "stochastic_rounding": True}
    whole = fastopt.RMSProp(w.copy(), **options)
    half = w.size // 2
    halves = [fastopt.RMSProp(part.copy(), **options) for part in (w[:half], w[half:])]
    pieces = [stepper_of(opt)() for opt in halves]
    pieces[1].take_part(half, LOCAL)
    for g in grads:
        whole.step(g)
        for opt, each, part in zip(halves, pieces, (g[:half], g[half:]), strict=True):
            step_in_pieces(opt, each, part, [1])
    assert_same_bits(np.concatenate([opt.params for opt in halves]), whole.params)


def test_a_step_that_is_left_out():
    w, (g, *_) = problem(SIZE, np.float32)
    opt = fastopt.Adam(w.copy(), skip_nonfinite=True)
    g[-1] = np.inf
    assert not step_in_pieces(opt, stepper_of(opt)(), g, [1])
    assert_same_bits(opt.params, w)
    assert opt.last.skipped
    assert opt.step_count == 0


def test_refusals_change_nothing():
    w, (g, *_) = problem(SIZE, np.float32)
    opt = fastopt.Adam(w.copy())
    pieces = stepper_of(opt)()
    with refusal(ValueError, ["grads", "shape"]):
        pieces.begin(g[:-1].copy(), 1.0)
    with refusal(ValueError, ["grad_scale"]):
        pieces.begin(g, 0.0)
    with refusal(ValueError, ["grads", "share memory"]):
        pieces.begin(opt.params, 1.0)
    step_in_pieces(opt, pieces, g, [])
    plain = fastopt.Adam(w.copy())
    plain.step(g)
    assert_same_run(opt, plain)


def test_fingerprints_tell_settings_apart():
    def fingerprint(scale=1.0, **options):
        opt = fastopt.Adam(np.zeros(3, np.float32), **{"clip_norm": 1.0, **options})
        pieces = stepper_of(opt)()
        pieces.begin(np.zeros(3, np.float32), scale)
        return fingerprint_of(pieces)

    seeds = [
        fingerprint(),
        fingerprint(2.0),
        fingerprint(lr=0.5),
        fingerprint(beta1=0.5),
        fingerprint(clip_norm=2.0),
    ]
    assert len(set(seeds)) == len(seeds)
    assert fingerprint(lr=0.5) == seeds[2]


@pytest.mark.parametrize("executor", ["serial", "parallel", "reference"])
@pytest.mark.parametrize("options", [{}, {"clip_norm": 0.5}, {"zero_grad": True}, {"sparse": "lazy"}])
def test_one_array_after_the_other(executor, options):
    """Arrays in any order, one of them in parts, one without a gradient, perhaps one with rows."""
    shapes = (3, 5), 2 * BLOCK + 7, (), (0, 2), 6
    pairs = [problem(shape, np.float32, steps=4) for shape in shapes]
    opt, plain = (
        fastopt.Adam([w.copy() for w, _ in pairs], executor=executor, **options) for _ in range(2)
    )
    stepper = stepper_of(opt)()
    ends = np.cumsum([w.size for w, _ in pairs]).tolist()
    cuts = [(0, ends[0]), (ends[0], ends[0] + BLOCK), (ends[0] + BLOCK, ends[1]), *pairwise(ends[1:])]
    for step in range(4):
        grads = [None if at == step else g[step] for at, (_, g) in enumerate(pairs)]
        if "sparse" in options and step > 1:
            grads[0] = np.array([2, 0]), pairs[0][1][step][:2].copy()
        others = [g if g is None or isinstance(g, tuple) else g.copy() for g in grads]
        stepper.begin(grads, 2.0)
        assert stepper.decide()
        for start, stop in cuts[::-1] if step % 2 else cuts:
            stepper.run(start, stop)
        stepper.end()
        plain.step(others, grad_scale=2.0)
    assert opt.step_count == plain.step_count == 4
    assert opt.last == plain.last
    for one, other in zip(opt.params, plain.params, strict=True):
        assert_same_bits(one, other)
    for name in opt.state:
        for one, other in zip(opt.state[name], plain.state[name], strict=True):
            assert_same_bits(one, other)
