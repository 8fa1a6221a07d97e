"""Statistics of steps on a device: those of memory, and reading them makes nobody wait."""

import numpy as np
import pytest

import fastopt
from fastopt import chain
from fastopt import transforms as t
from fastopt.steps.stepper import stepper_of
from tests.device import EMULATED, needs_driver, sizes, skip_without_device, to_device
from tests.device_pairs import pair, structures, train
from tests.support import problem

skip_without_device()

NAMES = (
    "grad_norm", "grad_mean", "grad_nonfinite", "update_rms", "param_norm", "square_avg_mean",
    "average_norm", "clipped_share",
)  # fmt: skip
OPTIONS = {"clip_value": 0.7, "weight_decay": 0.1, "average_decay": 0.9, "bounds": (-1.5, None)}


def rmsprop(**how):
    return lambda params: fastopt.RMSProp(params, lr=0.1, stats=NAMES, **OPTIONS, **how)


def assert_same_stats(both):
    actual, expected = (opt.read_stats() for opt in both)
    assert actual.step == expected.step
    assert repr(dict(actual)) == repr(dict(expected))  # NaN too
    assert repr(dict(actual.per_array)) == repr(dict(expected.per_array))


@pytest.mark.parametrize("size", sizes(1, 70, 8193))
@pytest.mark.parametrize("how", [{}, {"clip_norm": 0.5, "state_dtype": "8bit"}], ids=["plain", "8bit"])
def test_same_bits_as_memory(size, how):
    w, grads = problem(size, np.float32, 2)
    both = pair(w, rmsprop(**how))
    assert both[0].stats is None
    assert both[0].read_stats() is None
    for scale in 1.0, 3.0:
        for grad in grads:
            train(both, [grad], grad_scale=scale)
            assert_same_stats(both)


def test_many_arrays_scaled_and_left_out():
    """The gradient of an array that is left out had the scale of its own last step."""
    params, grads = structures()
    grads[2][1][0, 0] = np.inf
    both = pair(params, rmsprop())
    for grad, scale in zip([*grads, grads[1]], (4.0, 1024.0, 3.0, 3.0, 0.1), strict=True):
        train(both, [grad], grad_scale=scale)
        assert_same_stats(both)


def test_skipped_steps_have_none():
    both = pair(
        np.zeros(3), lambda params: fastopt.SGD(params, stats=["grad_norm"], skip_nonfinite=True)
    )
    train(both, [np.array([3.0, 4.0, 0.0])])
    train(both, [np.array([3.0, np.nan, 0.0])], grad_scale=2.0)
    assert both[0].read_stats()["grad_norm"] == 5.0
    assert_same_stats(both)
    train(both, [np.array([6.0, 8.0, 0.0])], grad_scale=2.0)
    assert both[0].read_stats().step == 2
    assert_same_stats(both)


def test_capturable():
    """Nothing is copied behind a step that a graph may replay: reading waits."""
    both = pair(np.zeros(2), lambda params: fastopt.SGD(params, stats=["grad_norm"]))
    opt = fastopt.SGD(to_device(np.zeros(2)), stats=["grad_norm"], capturable=True)
    for values in np.full((2, 2), 3.0), np.full(2, 4.0):
        for g in values.reshape(-1, 2):
            opt.step(to_device(g))
            both[1].step(g)
    assert opt.stats.step == both[1].stats.step == 3
    assert dict(opt.stats) == dict(both[1].stats)


def test_resumed_and_renumbered():
    w, grads = problem(5, np.float32, 3)
    both = pair(w, rmsprop())
    train(both, grads[:2])
    saved = both[1].state_dict()
    for opt in both:
        opt.load_state_dict(saved)
        assert opt.stats is opt.read_stats() is None
    train(both, grads[2:], grad_scale=2.0)
    assert both[0].stats.step == 3
    assert_same_stats(both)
    for opt in both:
        stepper_of(opt)().go_to(7)
    train(both, grads[2:])
    assert both[0].read_stats().step == 8
    assert_same_stats(both)


@needs_driver
def test_reading_does_not_wait(monkeypatch):
    """The newest that has arrived, with its step, whichever steps have come since."""
    from fastopt.executors.cuda import device

    opt = fastopt.SGD(to_device(np.zeros(2)), stats=["grad_norm"])
    for size in range(1, 4):
        opt.step(to_device(np.array([3.0, 4.0]) * size))
    device.synchronize()
    arrived = {1, 2}
    with monkeypatch.context() as patch:
        patch.setattr(device.Pinned, "has_arrived", lambda pinned: _step_in(pinned) in arrived)
        for name in ("synchronize", "to_host"):
            patch.setattr(device, name, None)
        assert (opt.stats.step, opt.stats["grad_norm"]) == (2, 10.0)
        arrived.clear()
        assert opt.stats is None
        opt.step(to_device(np.array([3.0, 4.0])))
    device.synchronize()
    assert (opt.stats.step, opt.stats["grad_norm"]) == (4, 5.0)


def _step_in(pinned):
    return int(pinned.array[0])


@pytest.mark.skipif(not EMULATED, reason="copies never arrive only where nothing is copied")
def test_a_host_that_is_far_ahead_leaves_some_out(monkeypatch):
    from fastopt.executors.cuda import device
    from fastopt.executors.launching import UNDER_WAY

    opt, g = fastopt.SGD(to_device(np.zeros(2)), stats=["grad_norm"]), to_device(np.ones(2))
    with monkeypatch.context() as patch:
        patch.setattr(device.Pinned, "has_arrived", lambda pinned: False)
        for _ in range(UNDER_WAY + 3):
            opt.step(g)
        assert opt.stats is None
    assert opt.stats.step == UNDER_WAY
    assert opt.read_stats().step == UNDER_WAY + 3
    for scale in range(1, 5 * UNDER_WAY):
        opt.step(g, grad_scale=float(scale))
        assert opt.stats["grad_norm"] == pytest.approx(2.0**0.5 / scale)


def test_groups():
    """A state that only one group has."""
    params, grads = structures()
    rate = t.scale_by_learning_rate(0.1)
    chains = [chain(rate), chain(t.trace(0.9), rate)]
    names = ["update_norm", "momentum_buffer_mean"]
    both = pair([params[:4], params[4:]], lambda arrays: fastopt.Optimizer(arrays, chains, stats=names))
    train(both, [[grad[:4], grad[4:]] for grad in grads])
    assert_same_stats(both)


def test_a_copy_that_fails_is_none(monkeypatch):
    """Nor is one that an interrupt keeps from its start: what is in its memory is no statistics."""
    from fastopt.executors.cuda import device

    opt, g = fastopt.SGD(to_device(np.zeros(2)), stats=["grad_norm"]), to_device(np.ones(2))
    opt.step(g)

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(device.Pinned, "receive", interrupted)
        with pytest.raises(KeyboardInterrupt):
            opt.step(g)
    assert (opt.stats.step, opt.read_stats().step) == (1, 2)
