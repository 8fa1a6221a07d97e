"""Steps that cannot be captured are refused, and those with missing gradients can be."""

from functools import partial

import numba
import numpy as np
import pytest

import fastopt
from fastopt import transforms as t
from fastopt.executors import launching
from fastopt.steps.stepper import stepper_of
from tests.device import assert_same_on_device, needs_driver, to_device, to_host
from tests.support import assert_same_bits, problem
from tests.test_cuda_graphs import captured

pytestmark = needs_driver


def refused(monkeypatch, optimizer, error, words, step):
    """Take a step while the driver says that a graph is captured, or fails: nothing is written."""
    from fastopt.executors.cuda import device

    status = 0 if error is RuntimeError else 906  # another thread's capture forbids the legacy stream

    def ask(stream, answer):
        numba.carray(answer, 1)[0] = 1
        return status

    function = numba.cfunc("int32(intp, CPointer(int32))")(ask)
    params, driver = [to_host(param) for param in optimizer.params], stepper_of(optimizer)().driver
    usual, driver[launching.IS_CAPTURING] = driver[launching.IS_CAPTURING], function.address
    try:
        with monkeypatch.context() as patch:
            if status == 0:
                patch.setattr(device, "is_capturing", lambda stream: True)
            with pytest.raises(error, match=words):
                step()
    finally:
        driver[launching.IS_CAPTURING] = usual
    for param, content in zip(optimizer.params, params, strict=True):
        assert_same_bits(to_host(param), content)


@pytest.mark.parametrize("settings", [{}, {"clip_norm": 1.0, "skip_nonfinite": True}])
@pytest.mark.parametrize("count", [1, 2])
def test_a_step_without_capturable_is_not_recorded(count, settings, monkeypatch):
    """Its hyperparameters would be fixed: the first step, one that follows it, and one like before."""
    arrays = [problem(n, np.float32) for n in (100, 30)[:count]]
    host = [w for w, _ in arrays]
    opt = fastopt.Adam([to_device(w) for w in host], lr=lambda t: 0.5 / (1 + t), **settings)
    same = fastopt.Adam(host, lr=lambda t: 0.5 / (1 + t), **settings)
    for number in range(3):
        grads = [g[number] for _, g in arrays]
        on_device = [to_device(g) for g in grads]
        step = partial(opt.step, on_device)
        refused(monkeypatch, opt, RuntimeError, "capturable=True", step)
        assert opt.step_count == number
        opt.step(on_device)
        same.step(grads)
        for captured_step in step, partial(step, stream=5):
            refused(monkeypatch, opt, RuntimeError, "capturable=True", captured_step)
    for actual, expected in zip(opt.params, same.params, strict=True):
        assert_same_bits(to_host(actual), expected)


def test_constant_hyperparameters_are_refused_too(monkeypatch):
    """No replay would count its step."""
    opt = fastopt.SGD([to_device(np.ones(9, np.float32))])
    grads = [to_device(np.ones(9, np.float32))]
    for _ in range(2):
        opt.step(grads)
    refused(monkeypatch, opt, RuntimeError, "count no step", lambda: opt.step(grads))
    assert opt.step_count == 2


def test_an_error_of_the_driver_is_raised(monkeypatch):
    from fastopt.executors.cuda.device import CudaError

    opt = fastopt.SGD([to_device(np.ones(9, np.float32))])
    grads = [to_device(np.ones(9, np.float32))]
    for _ in range(2):
        opt.step(grads)
    words = "cuStreamIsCapturing.*CAPTURE_IMPLICIT"
    refused(monkeypatch, opt, CudaError, words, lambda: opt.step(grads))
    assert opt.step_count == 2


def test_one_shot_steps_are_refused(monkeypatch):
    from fastopt.executors.cuda import device

    w, g, v = (to_device(np.ones(9, np.float32)) for _ in range(3))
    monkeypatch.setattr(device, "is_capturing", lambda stream: True)
    with pytest.raises(RuntimeError, match="capturable=True"):
        fastopt.rmsprop_step(w, g, square_avg=v)
    assert to_host(w).tolist() == [1.0] * 9


@pytest.mark.parametrize("name", ["plain", "clip_norm", "skip", "sums"])
def test_missing_gradients_leave_the_launches_as_they_are(name, monkeypatch):
    """Steps without the same gradients, of which one is captured and replayed."""
    options = {
        "plain": {},
        "clip_norm": {"clip_norm": lambda t: 3.0 / (1 + t)},
        "skip": {"skip_nonfinite": True},
        "sums": {},
    }[name]

    def make(params, **more):
        rate = lambda t: 0.5 / (1 + t)  # noqa: E731
        if name == "sums":
            parts = t.chain(
                t.clip_by_global_norm(2.0), t.scale_by_adam(), t.scale_by_learning_rate(rate)
            )
            return fastopt.Optimizer(params, parts, **more)
        return fastopt.Adam(params, lr=rate, **options, **more)

    arrays = [problem(n, np.float32, 12) for n in (40, 30, 20, 9)]
    host, step = [w for w, _ in arrays], 0
    opt, same = make([to_device(w) for w in host], capturable=True), make(host)

    def step_both(missing, on_device=None):
        nonlocal step
        host_grads = [None if i in missing else g[step] for i, (_, g) in enumerate(arrays)]
        step += 1
        grads = [g if g is None else to_device(g) for g in host_grads]
        same.step(host_grads)
        if on_device is None:
            opt.step(grads)
        else:
            on_device(grads)

    step_both(())
    step_both((0, 1))
    launches = stepper_of(opt)().launches
    kept = list(map(id, launches.parts))
    for _ in range(2):
        step_both((0, 1))
    assert list(map(id, launches.parts)) == kept

    grads = [None if i < 2 else to_device(g[step]) for i, (_, g) in enumerate(arrays)]
    count = {"plain": 1, "clip_norm": 3, "skip": 3, "sums": 3}[name]
    replay = captured(monkeypatch, lambda: opt.step(grads), launches=count)

    def replayed(new):
        for old, content in zip(grads[2:], new[2:], strict=True):
            old.copy_to_device(content)
        opt.advance()
        replay()

    step_both((0, 1), replayed)
    step_both((0, 1))
    step_both((0, 1), replayed)
    with pytest.raises(RuntimeError, match="take one step with gradients"):
        captured(monkeypatch, lambda: opt.step([to_device(g[0]) for _, g in arrays]), launches=0)
    step_both((1,))
    step_both(())
    with pytest.raises(RuntimeError, match="capture it anew"):
        opt.advance()
    step_both((3,))
    assert opt.step_count == same.step_count
    assert opt.state_dict()["lags"] == same.state_dict()["lags"]
    for actual, expected in zip(opt.params, same.params, strict=True):
        assert_same_bits(to_host(actual), expected)


def test_a_graph_after_a_load(monkeypatch):
    """Its launches are still those of the optimizer, whose step count and states are others."""
    w, grads = problem(50, np.float32, 6)
    settings = {"lr": lambda t: 0.1 / (1 + t), "clip_norm": lambda t: 2.0 / (1 + t)}
    opt, same = fastopt.Adam(to_device(w), capturable=True, **settings), fastopt.Adam(w, **settings)
    g = to_device(grads[0])
    for _ in range(3):
        opt.step(g)
        same.step(grads[0])
    saved = {"device": opt.state_dict(), "memory": same.state_dict()}
    replay = captured(monkeypatch, lambda: opt.step(g), launches=3)
    for _ in range(2):
        opt.advance()
        replay()
        same.step(grads[0])
    opt.load_state_dict(saved["device"])
    same.load_state_dict(saved["memory"])
    for number in (1, 2):
        g.copy_to_device(grads[number])
        opt.advance()
        replay()
        same.step(grads[number])
    assert_same_on_device(opt, w, same.state)
    assert opt.step_count == same.step_count == 5


def test_what_a_graph_does_not_have(monkeypatch):
    """Other kernels, for which a capture loads nothing; nor is `advance` captured."""
    w, (g, *_) = problem(50, np.float32)
    opt, g = fastopt.Adam(to_device(w), capturable=True), to_device(g)
    opt.step(g)
    replay = captured(monkeypatch, lambda: opt.step(g), launches=1)
    with pytest.raises(RuntimeError, match="take one step with gradients"):
        captured(monkeypatch, lambda: opt.step(g, grad_scale=2.0), launches=0)
    with pytest.raises(RuntimeError, match="is not captured in it"):
        captured(monkeypatch, opt.advance, launches=0)
    opt.advance()
    replay()
    opt.step(g, grad_scale=2.0)
    with pytest.raises(RuntimeError, match="capture it anew"):
        opt.advance()
    replay = captured(monkeypatch, lambda: opt.step(g, grad_scale=2.0), launches=1)
    opt.advance()
    replay()
    assert opt.step_count == 4
