"""The norm, clipping and skipping on the device: the CPU's bits, and nobody waits."""

import math
from functools import partial

import numpy as np
import pytest

import fastopt
from fastopt.executors import norm
from fastopt.steps.stepper import Stepper, stepper_of
from tests.device import (
    SIMULATED,
    assert_same_on_device,
    needs_driver,
    needs_emulator,
    sizes,
    skip_without_device,
    to_device,
    to_host,
)
from tests.lines import interrupted_at
from tests.support import DTYPES, assert_same_bits, problem

skip_without_device()

BLOCK = norm.SUM_BLOCK


@pytest.mark.parametrize(
    "n", sizes(0, 1, 31, 32, 33, 65, 100, 8191, 8192, 8193, 12_289, 3 * BLOCK + 77)
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_global_norm_has_the_bits_of_the_cpu(dtype, n):
    array = np.random.default_rng(n).normal(size=n).astype(dtype)
    assert fastopt.global_norm(to_device(array)) == fastopt.global_norm(array)


def test_global_norm_of_many():
    rng = np.random.default_rng(1)
    lengths = (3, 0, 40, 7) if SIMULATED else (3, 0, 40, 7, BLOCK + 9, 2 * BLOCK)
    host = {f"{n}": [rng.normal(size=n).astype(dtype) for dtype in DTYPES] for n in lengths} | {
        "none": None
    }
    device = {k: v and [to_device(x) for x in v] for k, v in host.items()}
    assert fastopt.global_norm(device) == fastopt.global_norm(host)
    assert fastopt.global_norm([]) == 0.0


@pytest.mark.parametrize("blocks", [1, 9, 300] if SIMULATED else [1, 4095, 4096, 4097, 12_208])
def test_sums_of_many_blocks(blocks):
    """As 10^8 elements have: some rounds of additions, on the device alone."""
    from fastopt.executors.cuda import device
    from fastopt.executors.cuda.control import Control
    from fastopt.executors.cuda.kernel_source import KernelVariant
    from fastopt.executors.cuda.sum_kernels import conclude
    from fastopt.executors.cuda.sum_launches import Conclusion, PassMemory
    from fastopt.executors.cuda.sum_source import ALL
    from fastopt.transforms.gradient_clip import gradient_clip

    sums, form, control = np.zeros((3, blocks)), KernelVariant(), Control()
    sums[0] = np.random.default_rng(blocks).exponential(size=blocks)
    memory = PassMemory(3, blocks, np.zeros((1, 1)), np.zeros(0, np.int64))
    memory.replace_sums(sums)
    program = conclude(gradient_clip(skips=False), form, True, "float64", device.architecture())
    where = [0], [control.factor_at("float64")], [0]
    how = form, False, False, ALL, memory, control.address, 0
    conclusion = Conclusion(program, 3, *how, *where)
    conclusion.settings[:] = 0.0, 1.0, math.inf
    conclusion.arrange([blocks], [0, blocks], [True], [0])
    conclusion.table.send(0)
    conclusion.start(0)
    assert memory.carried(1)[0, 0] == math.sqrt(norm.tree_sum(sums[0]))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_global_norm_of_what_is_not_finite(bad):
    assert math.isnan(fastopt.global_norm(to_device(np.array([1.0, bad], np.float32))))


@pytest.mark.parametrize("scale", [1e300, 1e-300, 1e-200])
def test_squares_that_overflow_or_vanish(scale):
    array = np.array([3.0, -4.0, 1e-10]) * scale
    assert fastopt.global_norm(to_device(array)) == fastopt.global_norm(array)
    w, same = to_device(np.zeros(3)), np.zeros(3)
    opts = [fastopt.SGD(x, lr=1.0, clip_norm=scale) for x in (w, same)]
    opts[0].step(to_device(array))
    opts[1].step(array)
    assert_same_bits(to_host(w), same)
    assert opts[0].last.norm == opts[1].last.norm == pytest.approx(5.0 * scale, rel=1e-15)


def test_sums_of_blocks_that_overflow():
    """Without a warning, though the host adds them."""
    arrays = [np.full(1, 1.2e154), np.full(1, 1.2e154)]
    assert fastopt.global_norm(list(map(to_device, arrays))) == fastopt.global_norm(arrays)


@pytest.mark.parametrize("dtype", DTYPES)
def test_clipping_with_what_is_not_finite(dtype):
    """By the norm of the finite elements; each element that is not finite spoils itself."""
    g = np.array([3.0, np.nan, 4.0, np.inf], dtype)
    w = to_device(np.zeros(4, dtype))
    opt = fastopt.SGD(w, lr=1.0, clip_norm=1.0)
    opt.step(to_device(g))
    np.testing.assert_allclose(to_host(w), [-0.6, np.nan, -0.8, -np.inf], rtol=4 * np.finfo(dtype).eps)
    assert math.isnan(opt.last.norm)
    assert opt.last.skipped is False


BAD = [False, True, True, False, True, False, False]


def gradients(n, dtype=np.float32):
    w, grads = problem(n, dtype, steps=len(BAD))
    for g, bad in zip(grads, BAD, strict=True):
        if bad:
            g[n // 2] = np.nan
    return w, grads


SKIPPING = [
    {"lr": 0.1},
    {"lr": lambda t: 0.1 / (1 + t), "clip_norm": lambda t: 4.0 / (1 + t)},
    {"lr": 0.1, "clip_norm": 2.0, "zero_grad": True},
]


# Every two of the three.
@pytest.mark.parametrize(
    ("settings", "several", "look"),
    [(case, several, several == i % 2) for i, case in enumerate(SKIPPING) for several in (False, True)],
)
def test_skipped_steps_do_not_count(settings, several, look):
    """Numbers are those of the steps that were taken, whether or not the host asks which those were."""
    w, grads = gradients(40)
    shape = (lambda x: [x[:25], x[25:]]) if several else (lambda x: x)
    on_device = to_device(w)
    opt = fastopt.Adam(shape(on_device), skip_nonfinite=True, **settings)
    same = fastopt.Adam(shape(w), skip_nonfinite=True, **settings)
    for g in grads:
        moved = to_device(g)
        opt.step(shape(moved))
        same.step(shape(g))
        if look:
            assert opt.last.skipped == same.last.skipped
            assert opt.step_count == same.step_count
    assert opt.step_count == same.step_count == BAD.count(False)
    assert_same_bits(to_host(on_device), w)
    for name in same.state:
        pairs = (
            zip(opt.state[name], same.state[name], strict=True)
            if several
            else [(opt.state[name], same.state[name])]
        )
        for actual, expected in pairs:
            assert_same_bits(to_host(actual), expected, name)


def test_settings_assigned_between_skipped_steps():
    w, grads = gradients(40)
    opt, same = (fastopt.Adam(x, skip_nonfinite=True) for x in (to_device(w), w))
    for i, g in enumerate(grads):
        opt.lr = same.lr = 0.1 / (1 + i)
        opt.step(to_device(g))
        same.step(g)
    assert_same_on_device(opt, w, same.state)


def test_more_skipped_steps_than_are_kept(monkeypatch):
    # The host looks sooner; the device keeps as many.
    monkeypatch.setattr("fastopt.steps.cuda_stepper.KEPT", 4)
    w, grads = gradients(40)
    opt, same = (fastopt.Adam(x, skip_nonfinite=True) for x in (to_device(w), w))
    for g in [*grads, *grads]:
        opt.step(to_device(g))
        same.step(g)
    assert_same_on_device(opt, w, same.state)


@pytest.mark.parametrize("several", [False, True])
def test_gradients_of_another_format_after_skipped_steps(several):
    """What earlier launches kept for the skipped step is of other kernels."""
    w, grads = gradients(40)
    host = [w[:20].copy(), w[20:].copy()] if several else [w.copy()]
    device = [to_device(x) for x in host]
    settings = {"lr": lambda step: 0.1 / (1 + step), "skip_nonfinite": True}
    opt, same = (fastopt.Adam(x, **settings) for x in (device, host))
    for i, g in enumerate([*grads, *grads]):
        g = g.astype([np.float32, np.float16, np.float16][i % 3])
        step_grads = [g[:20], g[20:]] if several else [g]
        opt.step([to_device(x) for x in step_grads])
        same.step(step_grads)
    for actual, expected in zip(device, host, strict=True):
        assert_same_bits(to_host(actual), expected)
    assert opt.step_count == same.step_count


def test_saved_after_skipped_steps(tmp_path):
    w, grads = gradients(40)
    opt, same = (fastopt.Adam(x, skip_nonfinite=True) for x in (to_device(w), w))
    for g in grads[:3]:
        opt.step(to_device(g))
        same.step(g)
    assert opt.state_dict()["step_count"] == same.state_dict()["step_count"] == 1
    opt.save(tmp_path / "on_device")
    other = fastopt.Adam(w, skip_nonfinite=True)
    other.load(tmp_path / "on_device")
    assert other.step_count == 1


def test_left_out_and_skipped():
    """A gradient that is None in a step that is skipped: its array does not lag behind."""
    w, grads = gradients(40)
    host = [w[:20].copy(), w[20:].copy()]
    device = [to_device(x) for x in host]
    opt, same = (fastopt.Adam(x, skip_nonfinite=True) for x in (device, host))
    for i, g in enumerate(grads):
        step_grads = [g[:20] if i % 3 else None, g[20:]]
        opt.step([x if x is None else to_device(x) for x in step_grads])
        same.step(step_grads)
    assert opt.state_dict()["lags"] == same.state_dict()["lags"]
    for actual, expected in zip(device, host, strict=True):
        assert_same_bits(to_host(actual), expected)


@needs_driver
def test_an_interrupted_step_is_not_taken_for_a_skipped_one():
    """The device counts those that it skips: no interrupt comes between that and the host's count."""
    from fastopt.steps.cuda_launches import StepLaunches
    from fastopt.steps.cuda_stepper import CudaStepper
    from fastopt.steps.cuda_sums import DevicePass

    functions = [getattr(CudaStepper, name) for name in ("decide", "run", "_run_and_count")]
    functions += [Stepper.step, StepLaunches.decide, StepLaunches.start, DevicePass.start]
    settings, line, interrupted = {"lr": 0.1, "skip_nonfinite": True}, 0, True
    w, grads = gradients(40)
    first, bad, second = (to_device(grads[i]) for i in (0, 1, 3))
    same = fastopt.Adam(w.copy(), **settings)
    for g in (grads[0], grads[3], grads[0]):
        same.step(g)
    while interrupted:
        line += 1
        opt = fastopt.Adam(to_device(w), **settings)
        opt.step(first)
        interrupted = interrupted_at(line, partial(opt.step, bad), functions=functions)
        opt.step(second)
        opt.step(first)
        assert opt.step_count == same.step_count
        assert_same_on_device(opt, same.params, same.state)
    assert line > 9


class TwoRanks:
    """Of which the other one has no gradients."""

    sum = max = staticmethod(lambda value: value)


@needs_driver
def test_interrupted_before_the_host_knows_what_was_skipped():
    """With other processes the host asks what was decided: the next step must know it."""
    from fastopt.steps.cuda_skips import SkippedSteps
    from fastopt.steps.cuda_stepper import CudaStepper
    from fastopt.steps.cuda_sums import DevicePass

    functions = [CudaStepper.decide, DevicePass.start, SkippedSteps.is_last_taken, SkippedSteps.read]
    settings, line, interrupted = {"lr": lambda t: 0.1 / (1 + t), "skip_nonfinite": True}, 0, True
    w, grads = gradients(40)
    first, bad, second = (to_device(grads[i]) for i in (0, 1, 3))
    same = fastopt.Adam(w.copy(), **settings)
    for g in (grads[0], grads[3], grads[0]):
        same.step(g)
    while interrupted:
        line += 1
        opt = fastopt.Adam(to_device(w), **settings)
        stepper_of(opt)().take_part(0, TwoRanks())
        opt.step(first)
        interrupted = interrupted_at(line, partial(opt.step, bad), functions=functions)
        opt.step(second)
        opt.step(first)
        assert opt.step_count == same.step_count
        assert_same_on_device(opt, same.params, same.state)
    assert line > 9


@needs_emulator
def test_last_is_only_read_when_asked(monkeypatch):
    from fastopt.executors.cuda import device

    w, g = (to_device(np.ones(9, np.float32)) for _ in range(2))
    opt = fastopt.Adam(w, clip_norm=1.0, skip_nonfinite=True)
    assert opt.last is None
    opt.step(g)
    with monkeypatch.context() as patch:
        for name in ("synchronize", "to_host", "to_device"):
            patch.setattr(device, name, None)
        opt.step(g)
    assert opt.last == (3.0, False)


def test_the_norm_of_no_gradients_is_zero():
    w = [to_device(np.zeros(2)), to_device(np.zeros(3))]
    opt = fastopt.SGD(w, clip_norm=1.0)
    opt.step([None, None])
    assert opt.last == (0.0, False)
    opt.step([to_device(np.array([3.0, 4.0])), None])
    assert opt.last == (5.0, False)
    opt.step([None, None])
    assert opt.last == (0.0, False)
    assert opt.step_count == 3
