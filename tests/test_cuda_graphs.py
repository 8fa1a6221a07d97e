"""`capturable=True`: steps that are captured in a graph, whose replays follow schedules and counts."""

import ctypes

import numpy as np
import pytest

import fastopt
from fastopt import transforms as t
from tests.device import (
    assert_same_on_device,
    misaligned,
    needs_driver,
    to_device,
    to_host,
)
from tests.support import assert_same_bits, problem

pytestmark = needs_driver


def captured(monkeypatch, step, launches):
    """What replays the launches and copies of a step, with the arguments that they have now."""
    from fastopt.executors.cuda import device, programs

    recorded, launch, send = [], programs.Program.launch, device.send

    def record(program, blocks, threads, stream, pointers):
        words = [ctypes.c_int64.from_address(int(pointer)).value for pointer in pointers]
        recorded.append((launch, program, blocks, threads, stream, np.array(words, np.int64)))

    with monkeypatch.context() as patch:
        patch.setattr(device, "is_capturing", lambda stream: True)
        patch.setattr(programs.Program, "launch", record)
        patch.setattr(device, "send", lambda *copied: recorded.append((send, *copied)))
        step()
    assert [function for function, *_ in recorded].count(launch) == launches

    def replay():
        for function, *first, last in recorded:
            is_launch = function is launch
            function(*first, last.ctypes.data + 8 * np.arange(len(last)) if is_launch else last)

    return replay


def test_same_bits():
    w, grads = problem(100, np.float32)
    settings = {"lr": lambda t: 0.1 / (1 + t), "clip_norm": lambda t: 2.0 + t}
    opt = fastopt.Adam(to_device(w), capturable=True, **settings)
    same = fastopt.Adam(w, **settings)
    for g in grads:
        opt.step(to_device(g))
        same.step(g)
    assert_same_on_device(opt, w, same.state)


@pytest.mark.parametrize("several", [False, True])
def test_recorded_launch_follows_the_schedule(several, monkeypatch):
    """A launch with the arguments of the capture: only what `advance` sent is new."""
    w, (g, *_) = problem(100, np.float32)
    settings = {"lr": lambda t: 0.5 / (1 + t), "clip_norm": lambda t: 3.0 / (1 + t)}
    params = [to_device(w), to_device(w[:30])] if several else to_device(w)
    same_params = [w.copy(), w[:30].copy()] if several else w.copy()
    grads = [to_device(g), to_device(g[:30])] if several else to_device(g)
    host = [g, g[:30]] if several else g
    opt = fastopt.Adam(params, capturable=True, **settings)
    same = fastopt.Adam(same_params, **settings)
    opt.step(grads)
    same.step(host)

    replay = captured(monkeypatch, lambda: opt.step(grads), launches=3)
    assert opt.step_count == 1
    for _ in range(3):
        opt.advance()
        replay()
        same.step(host)
    assert opt.step_count == same.step_count == 4
    pairs = zip(params, same_params, strict=True) if several else [(params, same_params)]
    for actual, expected in pairs:
        assert_same_bits(to_host(actual), expected)


def test_each_graph_has_its_gradients(monkeypatch):
    """Captured with new gradients, before and after steps with others: no table is mixed up."""
    params = [to_device(np.zeros(n, np.float32)) for n in (9, 20)]
    grads = [[to_device(np.full(n, value, np.float32)) for n in (9, 20)] for value in (1, 10, 100)]
    opt = fastopt.SGD(params, lr=1.0, capturable=True)
    opt.step(grads[0])
    replays = [captured(monkeypatch, lambda g=g: opt.step(g), launches=1) for g in grads[1:]]
    for taken in (replays[0], replays[1], lambda: opt.step(grads[0]), replays[0]):
        taken()
    opt.step(grads[0])
    assert [set(to_host(w).tolist()) for w in params] == [{-123.0}] * 2


def test_a_graph_keeps_its_sums(monkeypatch):
    """What it adds up is in a table that steps with fewer gradients do not take away."""
    from numba import cuda

    params = [to_device(np.zeros(n, np.float32)) for n in (9, 20)]
    grads = [to_device(np.full(n, 10.0, np.float32)) for n in (9, 20)]
    parts = t.chain(t.clip_by_global_norm(5.0), t.scale_by_learning_rate(0.1))
    host, host_grads = ([to_host(x) for x in arrays] for arrays in (params, grads))
    opt = fastopt.Optimizer(params, parts, capturable=True)
    same = fastopt.Optimizer(host, parts)
    opt.step(grads)
    same.step(host_grads)
    replay = captured(monkeypatch, lambda: opt.step(grads), launches=3)
    for left_out in (0, 1, 2):
        opt.step([None if i == left_out else g for i, g in enumerate(grads)])
        same.step([None if i == left_out else g for i, g in enumerate(host_grads)])
        cuda.current_context().deallocations.clear()
        opt.advance()
        replay()
        same.step(host_grads)
    for actual, expected in zip(params, host, strict=True):
        assert_same_bits(to_host(actual), expected)


def test_arrays_that_a_graph_leaves_out(monkeypatch):
    """They lag behind with each replay, which other steps leave as it is."""
    (w, (g, *_)), (v, (h, *_)) = (problem(n, np.float32) for n in (9, 20))
    opt = fastopt.Adam([to_device(w), to_device(v)], lr=lambda t: 0.5 / (1 + t), capturable=True)
    same = fastopt.Adam([w, v], lr=lambda t: 0.5 / (1 + t))
    grads, host = [to_device(g), to_device(h)], [g, h]
    some, some_of_host = [None, grads[1]], [None, h]
    for step_grads, step_host in (grads, host), (some, some_of_host):
        opt.step(step_grads)
        same.step(step_host)
    replay = captured(monkeypatch, lambda: opt.step(some), launches=1)
    for number in range(4):
        opt.advance()
        replay()
        same.step(some_of_host)
        if number == 1:
            opt.step(some)
            same.step(some_of_host)
        assert opt.step_count == same.step_count
        assert opt.state_dict()["lags"] == same.state_dict()["lags"]
    opt.step(grads)
    same.step(host)
    for actual, expected in zip(opt.params, same.params, strict=True):
        assert_same_bits(to_host(actual), expected)


def test_a_graph_is_of_the_arrays_of_the_step_before(monkeypatch):
    params, grads = ([to_device(np.zeros(n, np.float32)) for n in (9, 20, 5)] for _ in range(2))
    opt = fastopt.SGD(params, capturable=True)
    opt.step(grads)
    with pytest.raises(RuntimeError, match="with gradients for the arrays of the step before"):
        captured(monkeypatch, lambda: opt.step([*grads[:2], None]), launches=0)
    opt.step(grads)
    for _ in range(8):  # so many can be captured one after the other
        captured(monkeypatch, lambda: opt.step(grads), launches=1)


def test_a_capture_waits_for_nothing_and_loads_nothing(monkeypatch):
    """A driver refuses both meanwhile."""
    from fastopt.executors.cuda import control, programs

    settings = {"lr": lambda t: 0.1 / (1 + t), "skip_nonfinite": True}
    w, (g, *_) = problem(100, np.float32)
    opt = fastopt.Adam(to_device(w), capturable=True, **settings)
    same = fastopt.Adam(w, **settings)
    opt.step(to_device(g))
    same.step(g)
    others = to_device(g), misaligned(g)
    with monkeypatch.context() as patch:
        patch.setattr(control.Control, "read", lambda _: pytest.fail("read"))
        patch.setattr(programs.Program, "load", lambda _: pytest.fail("load"))
        replay = captured(monkeypatch, lambda: opt.step(others[0]), launches=3)
        with pytest.raises(RuntimeError, match="take one step with gradients"):
            captured(monkeypatch, lambda: opt.step(others[1]), launches=0)
    opt.step(others[1])
    same.step(g)
    opt.advance()
    replay()
    same.step(g)
    assert_same_on_device(opt, w, same.state)
