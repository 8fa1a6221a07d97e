"""Sums that a step on a device adds up in its own pass: the bits of memory."""

import copy

import numpy as np
import pytest

import fastopt
from fastopt import chain
from fastopt import transforms as t
from fastopt.executors.norm import SUM_BLOCK
from fastopt.steps.stepper import stepper_of
from tests.device import SIMULATED, misaligned, sizes, skip_without_device, to_device
from tests.device_pairs import assert_same, moved, optimizer, pair, skips, structures, train
from tests.refusals import refusal
from tests.sums import clip, square
from tests.support import problem
from tests.test_sums_after import calm, everything, late

skip_without_device()


def assert_same_sums(both):
    assert_same(*both)
    assert both[0].state_dict()["sums"] == both[1].state_dict()["sums"]


FORMATS = {
    "float32": (np.float32, {}),
    "float64": (np.float64, {"clip_norm": 0.4}),
    "float16": (np.float16, {"zero_grad": True, "stochastic_rounding": True}),
    "8bit": (np.float32, {"state_dtype": "8bit", "clip_norm": 0.4, "maximize": True}),
}
CASES = [
    *(("float32", size) for size in sizes(1, 5, 70, 1023, 8193)),
    *(("8bit", size) for size in sizes(3, 70, 300, 4097, 8193)),
    *((format_, size) for format_ in ("float64", "float16") for size in sizes(7, 70, 1030)),
]


# Misaligned arrays have another kernel: one of a format, since all read and store alike.
@pytest.mark.parametrize(
    ("format_", "size", "place"),
    [*((*case, to_device) for case in CASES), ("float32", 70, misaligned)],
)
def test_same_bits_as_memory(format_, size, place):
    dtype, options = FORMATS[format_]
    w, grads = (np.array(array, dtype) for array in problem(size, np.float32, 2))
    both = pair(w, optimizer(everything(), **options), place)
    with np.errstate(all="ignore"):
        train(both, grads)
        train(both, grads, grad_scale=2.0)
    assert_same_sums(both)


@pytest.mark.parametrize("per_array", [False, True])
def test_many_arrays_and_missing_gradients(per_array):
    """An array that is left out keeps its sum."""
    params, grads = structures()
    both = pair(params, optimizer(everything(per_array=per_array)))
    train(both, [*grads, [None] * len(params), grads[0]])
    assert_same_sums(both)


def test_groups():
    """What one group alone has is over that one, what both have over both, at other positions."""
    params, grads = structures()
    split = [[grad[::2], grad[1::2]] for grad in grads]
    rate = t.scale_by_learning_rate(0.1)
    chains = [chain(late(), calm(), rate), chain(calm(), t.scale_by_adam(), rate)]
    both = pair([params[::2], params[1::2]], optimizer(chains))
    train(both, split)
    assert_same_sums(both)


def test_arrays_without_elements():
    both = pair([np.zeros(0), np.zeros((2, 0))], optimizer(everything(per_array=True)))
    train(both, [[np.zeros(0), np.zeros((2, 0))], [None, np.zeros((2, 0))]])
    assert_same_sums(both)


def test_resumed_and_refused():
    """From the device to memory and back; other sums are refused."""
    params, grads = structures()
    parts = everything(per_array=True)
    whole, half = (fastopt.Optimizer(copy.deepcopy(params), parts) for _ in range(2))
    on_device = fastopt.Optimizer(moved(params), parts)
    for g in grads[:2]:
        whole.step(copy.deepcopy(g))
        on_device.step(moved(g))
    half.load_state_dict(on_device.state_dict())
    back = fastopt.Optimizer(on_device.params, parts)
    back.load_state_dict(half.state_dict())
    for g in grads[2:]:  # some are left out, and keep the sums that were loaded
        whole.step(copy.deepcopy(g))
        back.step(moved(g))
    assert_same_sums((back, whole))
    with refusal(ValueError, ["sums"]):
        back.load_state_dict({**whole.state_dict(), "sums": [[1.0]]})
    assert_same_sums((back, whole))


def test_skipped_steps_leave_the_sums_alone():
    parts = chain(late(), skips(), calm(), t.scale_by_learning_rate(0.1))
    both = pair(np.zeros(20, np.float32), optimizer(parts, skip_nonfinite=True))
    drawn = np.random.default_rng(1).normal(size=(7, 20)).astype(np.float32) / 10
    drawn[[1, 4]] *= 1000.0
    drawn[3, 2] = np.nan
    train(both, drawn)
    assert both[1].step_count == 4
    assert_same_sums(both)


@pytest.mark.skipif(SIMULATED, reason="a thread of Python for every element")
def test_stretches():
    """Stretches that end with blocks of sums, in any order."""
    sizes_ = [2 * SUM_BLOCK + 7, 5]
    drawn = [problem(n, np.float32, steps=2) for n in sizes_]
    how = {"state_dtype": "8bit"}
    parts = chain(t.scale_by_rms(), late(), t.scale_by_learning_rate(0.1))
    both = pair([w for w, _ in drawn], optimizer(parts, **how))
    stepper, size = stepper_of(both[0])(), sum(sizes_)
    for step in range(2):
        grads = [g[step] for _, g in drawn]
        stepper.begin(moved(grads), 1.0)
        assert stepper.decide()
        for start, stop in (2 * SUM_BLOCK, size), (0, SUM_BLOCK), (SUM_BLOCK, 2 * SUM_BLOCK):
            stepper.run(start, stop)
        stepper.end()
        both[1].step(grads)
    assert_same_sums(both)


def test_capturable():
    w, drawn = problem(40, np.float32, 4)
    parts = chain(late(), calm(), clip(0.3), t.scale_by_learning_rate(0.1))
    params = [w[:25], w[25:]]
    capturable = fastopt.Optimizer(moved(params), parts, capturable=True)
    both = capturable, fastopt.Optimizer(copy.deepcopy(params), parts)
    train(both, [[g[:25], g[25:]] for g in drawn])
    assert_same_sums(both)


NAMED = {
    "Prodigy": (fastopt.Prodigy, {"lr": 0.5, "weight_decay": 0.01}),
    "DoG": (fastopt.DoG, {"average_decay": 0.9}),
}


@pytest.mark.parametrize("name", NAMED)
def test_optimizers_without_a_rate(name):
    kind, how = NAMED[name]
    params, grads = structures()
    both = pair(params, lambda leaves: kind(leaves, **how))
    train(both, grads)
    assert_same(*both)


@pytest.mark.parametrize("kind", [fastopt.RMSProp, fastopt.SGD, fastopt.Adam])
def test_automatic_rate(kind):
    """Its rule has a power and an exponential, which are computed alike everywhere."""
    w, grads = problem(30, np.float64, 9)
    both = pair(w, lambda leaves: kind(leaves, lr="auto"))
    train(both, grads)
    assert_same(*both)
    assert both[0].current("lr") == both[1].current("lr")
    both[0].lr = both[1].lr = 1e-3
    train(both, grads[:2])
    assert_same(*both)
    assert both[0].lr == 1e-3


def test_a_sum_alone_reads_nothing_more():
    """The gradients are not read before the step, where sums of the step before are all there is."""
    parts = chain(late(), t.scale_by_learning_rate(0.1))
    opt = fastopt.Optimizer(to_device(np.ones(5, np.float32)), parts)
    assert not stepper_of(opt)().reads_first
    both = pair(np.ones(5, np.float32), optimizer(chain(calm(), t.scale_by_learning_rate(0.1))))
    assert stepper_of(both[0])().reads_first


def test_a_term_that_cannot_be_compiled():
    if SIMULATED:
        pytest.skip("nothing is compiled")
    parts = fastopt.Transform(
        lambda update, param, state, hyper: (hyper[0] * update, state),
        hyper=(1.0,),
        sums_after={"s": lambda update, param, state, hyper: np.sort(update), "t": square},
        from_sums=lambda hyper, sums, carried: (hyper, carried),
    )
    with refusal(TypeError, ["sum 's'"]):
        fastopt.Optimizer(to_device(np.ones(3, np.float32)), parts)
