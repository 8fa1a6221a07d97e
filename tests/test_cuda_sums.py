"""Sums of transforms on a device: the bits of memory, and nobody waits."""

import copy
import math
import pickle

import numpy as np
import pytest

import fastopt
from fastopt import chain
from fastopt import transforms as t
from fastopt.codecs.base import BLOCK
from fastopt.steps.stepper import stepper_of
from tests.device import (
    SIMULATED,
    misaligned,
    needs_driver,
    needs_emulator,
    sizes,
    skip_without_device,
    to_device,
    to_host,
)
from tests.device_pairs import assert_same, moved, optimizer, pair, skipping, skips, structures, train
from tests.lines import interrupted_at
from tests.refusals import refusal
from tests.sums import blend, clip, everything, product, scaled, square
from tests.support import assert_same_bits, problem

skip_without_device()


# Each compiles a dozen kernels. float64 is among the many arrays.
FORMATS = {
    "float32": (np.float32, {}),
    "float16": (np.float16, {"zero_grad": True}),
    "8bit": (np.float32, {"state_dtype": "8bit", "clip_norm": 0.4, "maximize": True}),
}
CASES = [
    (format_, size)
    for format_ in FORMATS
    for size in sizes(1, 70, *([8193, 24_577] if format_ in ("float32", "8bit") else [300]))
    if not SIMULATED or size > 1
]


@pytest.mark.parametrize(("format_", "size"), CASES)
def test_same_bits_as_memory(format_, size):
    """Three passes that depend on each other, at any alignment."""
    dtype, options = FORMATS[format_]
    w, grads = (np.array(array, dtype) for array in problem(size, np.float32, 3))
    place = misaligned if size == 70 and dtype == np.float32 and not options else to_device
    both = pair(w, optimizer(everything(), **options), place)
    with np.errstate(all="ignore"):
        train(both, grads)
        train(both, grads, grad_scale=2.0)
    assert_same(*both)


def test_many_arrays_and_missing_gradients():
    params, grads = structures()
    both = pair(params, optimizer(everything(per_array=True)))
    train(both, grads)
    assert_same(*both)


def test_groups():
    """Both are in one pass, and the other pass is of the first group alone."""
    params, grads = structures()
    params, split = [params[::4], params[2::4]], [[grad[::4], grad[2::4]] for grad in grads]
    rate = t.scale_by_learning_rate(0.1)
    chains = [chain(clip(0.5), blend(0.25), rate), chain(clip(0.75), t.scale_by_adam(), rate)]
    both = pair(params, optimizer(chains))
    train(both, split)
    assert_same(*both)


@pytest.mark.parametrize("kind", [fastopt.LAMB, fastopt.LARS])
def test_layerwise_optimizers(kind):
    params, grads = structures()
    lr = fastopt.schedules.cosine(0.1, 6)
    settings = {"lr": lr, "weight_decay": 0.01, "clip_norm": 1.0, "skip_nonfinite": True}
    groups = [{"params": params[:4]}, {"params": params[4:], "weight_decay": 0.1}]
    on_device = [{**group, "params": moved(group["params"])} for group in groups]
    both = kind(on_device, **settings), kind(copy.deepcopy(groups), **settings)
    grads[3][1] = np.full((3, 5), np.nan)
    train(both, [[grad[:4], grad[4:]] for grad in [*grads, grads[0]]])
    assert both[1].step_count == 4
    assert_same(*both)


@pytest.mark.parametrize("name", ["clip_by_global_norm", "adaptive_grad_clip", "skip_nonfinite"])
def test_transforms(name):
    params, grads = structures()
    make = getattr(t, name)
    parts = make() if name == "skip_nonfinite" else make(lambda step: 0.5 / (1 + step))
    both = pair(params, optimizer(chain(t.trace(0.5), parts, t.scale_by_learning_rate(0.1))))
    train(both, grads)
    assert_same(*both)


def many_hypers(hyper, sums, carried):
    total = sums[0] + sums[1] - sums[2] * sums[3] + sums[4] / (1.0 + abs(sums[5]))
    return (total / (1.0 + abs(total)),), carried


def test_more_sums_than_a_launch_adds():
    sums = {str(k): square if k % 2 else product for k in range(6)}
    parts = fastopt.Transform(
        scaled_by_state, state={"s": 1.0}, hyper=(0.5, 2.0), sums=sums, from_sums=many_hypers
    )
    w, grads = problem(sizes(100, 20_000)[-1], np.float32, 2)
    both = pair(w, optimizer(parts))
    train(both, grads)
    assert_same(*both)


def scaled_by_state(update, param, state, hyper):
    return hyper[0] * update * state[0], state


def test_sums_of_nothing():
    both = pair([np.zeros(0), np.zeros((2, 0))], optimizer(everything(per_array=True)))
    train(both, [[np.zeros(0), np.zeros((2, 0))], [None, np.zeros((2, 0))]])
    assert_same(*both)


@pytest.mark.parametrize("look", [False, True])
@pytest.mark.parametrize("per_array", [False, True])
def test_skipped_steps_do_not_count(monkeypatch, per_array, look):
    """Two transforms that skip, between others, and more skipped steps than the device keeps."""
    monkeypatch.setattr("fastopt.steps.cuda_stepper.KEPT", 4)
    parts = chain(blend(), skips(per_array=per_array), clip(0.5), t.skip_nonfinite(), t.scale_by_adam())
    params = [np.zeros(20, np.float32), np.zeros(3, np.float32)]
    options = {"zero_grad": True, "skip_nonfinite": look}
    both = pair(params, optimizer(chain(parts, t.scale_by_learning_rate(0.1)), **options))
    drawn = np.random.default_rng(1).normal(size=(9, 23)).astype(np.float32)
    drawn[[1, 2, 4, 5, 7]] *= 100.0
    drawn[3, 21] = np.nan
    for number, g in enumerate(drawn):
        device_grads = [to_device(g[:20]), None if number == 6 else to_device(g[20:])]
        host_grads = [g[:20].copy(), None if number == 6 else g[20:].copy()]
        both[0].step(device_grads)
        both[1].step(host_grads)
        if look:
            assert both[0].step_count == both[1].step_count
            assert both[0].last.skipped == both[1].last.skipped
        for grad, like in zip(device_grads, host_grads, strict=True):
            assert grad is None or to_host(grad).tobytes() == like.tobytes()
    assert 0 < both[1].step_count < 9
    assert_same(*both)


WAYS = [(to_device, None), (None, to_device), (to_device, to_device)]


@pytest.mark.parametrize("way", range(len(WAYS)))
def test_resumed_from_a_file_and_from_a_dict(tmp_path, way):
    places = [place or (lambda array: array) for place in WAYS[way]]
    w, grads = problem(40, np.float32, 4)
    parts = everything(per_array=way == 1)
    whole = fastopt.Optimizer(w.copy(), parts)
    first = fastopt.Optimizer(places[0](w), parts)
    for g in grads[:3]:
        whole.step(g)
        first.step(places[0](g))
    first.save(tmp_path / "run", params=True)
    from_file = fastopt.Optimizer(places[1](np.zeros_like(w)), parts)
    from_file.load(tmp_path / "run")
    content = to_host(first.params) if hasattr(first.params, "copy_to_host") else first.params
    from_dict = fastopt.Optimizer(places[1](content.copy()), parts)
    from_dict.load_state_dict(first.state_dict())
    whole.step(grads[3])
    for opt in from_file, from_dict:
        opt.step(places[1](grads[3]))
        assert opt.state_dict()["carried"] == whole.state_dict()["carried"]
        params = to_host(opt.params) if hasattr(opt.params, "copy_to_host") else opt.params
        assert_same_bits(params, whole.params)


CARRYING = fastopt.Transform(
    scaled, hyper=(0.5,), sums={"s": square}, from_sums=skipping, carried={"total": 0.0}
)


@needs_driver
def test_copied_pickled_and_renumbered():
    w, drawn = problem(5, np.float32, 3)
    grads = [np.float32(0.01) * g for g in drawn]
    both = pair(w, optimizer(CARRYING))
    train(both, grads[:2])
    for opt in copy.deepcopy(both[0]), pickle.loads(pickle.dumps(both[0])):
        opt.step(to_device(grads[2]))
        assert opt.state_dict()["carried"] == [[[1.5]]]
    for opt in both:
        stepper_of(opt)().go_to(7)  # the numbers of now go on
    train(both, grads[2:])
    assert_same(*both)


def test_stretches():
    pairs = [problem(n, np.float32, steps=2) for n in (6, BLOCK + 7)]
    both = pair([w for w, _ in pairs], optimizer(everything()))
    stepper, size = stepper_of(both[0])(), BLOCK + 13
    for step in range(2):
        grads = [g[step] for _, g in pairs]
        stepper.begin(moved(grads), 1.0)
        assert stepper.decide()
        for start, stop in (6 + BLOCK, size), (0, 6), (6, 6 + BLOCK):
            stepper.run(start, stop)
        stepper.end()
        both[1].step(grads)
    # What was begun and not taken has changed nothing.
    stepper.begin(moved(grads), 1.0)
    stepper.decide()
    train(both, [grads])
    assert_same(*both)


def test_capturable():
    """Hyperparameters in device memory, and gradients at other addresses."""
    w, drawn = problem(40, np.float32, 4)
    parts = chain(blend(), skips(), t.scale_by_learning_rate(0.1))
    grads = [np.float32(s) * g for s, g in zip((1e-4, 10.0, 1e-4, 1e-4), drawn, strict=True)]
    for several in (False, True):
        shape = (lambda x: [x[:25], x[25:]]) if several else (lambda x: x)
        on_device, same = to_device(w), w.copy()
        opt = fastopt.Optimizer(shape(on_device), parts, capturable=True)
        other = fastopt.Optimizer(shape(same), parts)
        for g in grads:
            opt.step(shape(to_device(g)))
            other.step(shape(g))
        assert opt.step_count == other.step_count == 3
        assert opt.state_dict()["carried"] == other.state_dict()["carried"]
        assert_same_bits(to_host(on_device), same)


@needs_emulator
def test_the_host_does_not_wait(monkeypatch):
    from fastopt.executors.cuda import device

    both = pair(np.ones(9, np.float32), optimizer(chain(blend(), skips(), clip(0.5))))
    g = to_device(np.full(9, 0.1, np.float32))
    both[0].step(g)
    both[1].step(np.full(9, 0.1, np.float32))
    with monkeypatch.context() as patch:
        for name in ("synchronize", "to_host", "to_device"):
            patch.setattr(device, name, None)
        both[0].step(g)
    both[1].step(np.full(9, 0.1, np.float32))
    assert_same(*both)


def test_what_python_cannot_divide():
    def inverse(hyper, sums, carried):
        return (1e300 / sums[0],), carried

    parts = fastopt.Transform(scaled, sums={"sum": square}, from_sums=inverse)
    both = pair(np.ones(3, np.float32), optimizer(parts))
    train(both, [np.zeros(3, np.float32)])
    assert np.isnan(to_host(both[0].params)).all()
    assert np.isnan(both[1].params).all()


def more_hyper(hyper, sums, carried):
    return hyper if sums[0] < 5.0 else (*hyper, 2.0), carried


def noted(hyper, sums, carried):
    SEEN.append(sums)
    return hyper, carried


SEEN = []


@needs_driver
@pytest.mark.parametrize("function", [more_hyper, noted])
def test_from_sums_that_cannot_be_compiled(function):
    parts = fastopt.Transform(scaled, hyper=(1.0,), sums={"s": square}, from_sums=function)
    with refusal(TypeError, ["from_sums", "scaled", "compiled"]):
        fastopt.Optimizer(to_device(np.ones(3)), parts)


@pytest.mark.parametrize("columns", [1, 3])
def test_order_of_many_blocks(columns):
    """More sums than one round adds, of arrays of all sizes; zeros keep their signs."""
    from numba import types

    from fastopt.arrays.device_array import enter
    from fastopt.executors.cuda import device
    from fastopt.executors.cuda.programs import Program
    from fastopt.executors.cuda.tree_sum import SUM_THREADS, define_adding, scope_of_sums
    from fastopt.executors.norm import tree_sum
    from fastopt.kernels.kernel_identity import identified_by_functions

    scope = scope_of_sums(columns, device.architecture())
    define_adding(scope, device.architecture())
    exec(
        "def add(at, capacity, count):\n"
        f"    sums = cuda.shared.array({columns * SUM_THREADS}, float64)\n"
        "    add_up(at, capacity, count, sums, cuda.threadIdx.x)\n",
        scope,
    )
    identity = identified_by_functions([], [], f"test-add-up-{columns}-")
    program = Program(identity, lambda: scope["add"], [types.int64] * 3, device.architecture())
    program.load()
    for count in (0, 1, 300) if SIMULATED else (0, 1, 9, 4095, 4097, 12_208):
        for numbers in np.random.default_rng(count).normal(size=count), np.full(count, -0.0):
            every = [np.append(numbers * (k + 1), 1.0) for k in range(columns)]
            room = to_device(np.concatenate(every))
            words = np.array([enter("room", room).address, count + 1, count], np.int64)
            pointers = np.array([words.ctypes.data + 8 * i for i in range(3)], np.int64)
            program.launch(1, SUM_THREADS, 0, pointers)
            device.synchronize()
            for column, added in zip(every, to_host(room)[:: count + 1], strict=True):
                expected = tree_sum(column[:-1]) if count else 1.0
                assert math.copysign(1.0, added) == math.copysign(1.0, expected)
                assert added == expected


@needs_driver
@pytest.mark.parametrize("count", [2, 1])
def test_an_interrupt_while_sums_are_arranged(count):
    """The next step arranges them anew: no kernel gets a gradient that there is not."""
    from fastopt.executors.cuda.sum_launches import Adding, Conclusion

    drawn = [problem(n, np.float32, 3) for n in (40, 9)[:count]]
    params, grads = [w for w, _ in drawn], [[g[k] for _, g in drawn] for k in range(3)]
    grads[1][0] = None

    def start():
        parts = chain(clip(0.3, per_array=True), t.scale_by_learning_rate(0.1))
        both = pair(params, optimizer(parts))
        train(both, grads[:1])
        return both

    both = start()
    functions, line = (Adding.arrange, Conclusion.arrange), 1
    while interrupted_at(line, lambda opt=both[0]: opt.step(moved(grads[1])), functions=functions):
        train(both, grads[1:])
        assert_same(*both)
        line, both = line + 1, start()
    assert line > 10
