"""Streams and launches: on the caller's stream, one a step, without waiting or copying."""

import os
import re
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import fastopt
from fastopt import transforms as t
from fastopt.executors.cuda import streams
from tests.device import (
    assert_same_on_device,
    misaligned,
    needs_device,
    needs_driver,
    needs_emulator,
    to_device,
    to_host,
)
from tests.subprocesses import LIMIT
from tests.support import assert_same_bits, problem


class Wrapped:
    """An array of some library that knows no more than the interface."""

    def __init__(self, array, stream=None, **changes):
        self.array, self.stream, self.changes = array, stream, changes

    @property
    def __cuda_array_interface__(self):
        interface = dict(self.array.__cuda_array_interface__)
        return {**interface, "stream": self.stream, **self.changes}


class WithProtocol:
    def __cuda_stream__(self):
        return 0, 4711


class OfTorch:
    cuda_stream = 4712


class OfCupy:
    ptr = 4713


@pytest.mark.parametrize(
    ("stream", "expected"),
    [(0, 0), (4710, 4710), (WithProtocol(), 4711), (OfTorch(), 4712), (OfCupy(), 4713)],
)
def test_handles(stream, expected):
    assert streams.handle(stream) == expected


@pytest.mark.parametrize("stream", [True, "fast", 1.5, object()])
def test_what_is_no_stream_is_refused(stream):
    with pytest.raises(TypeError, match=r"stream must be .*, not "):
        streams.handle(stream)


def test_no_stream_for_arrays_in_memory():
    w = np.ones(3)
    opt = fastopt.SGD(w)
    with pytest.raises(ValueError, match="stream must be None for arrays in memory"):
        opt.step(np.ones(3), stream=0)
    assert w.tolist() == [1.0, 1.0, 1.0]
    with pytest.raises(ValueError, match="capturable=True needs params on a CUDA device"):
        fastopt.SGD(w, capturable=True)
    with pytest.raises(ValueError, match="advance is for an optimizer made with capturable=True"):
        opt.advance()


@needs_driver
def test_steps_in_a_stream():
    from numba import cuda

    w, grads = problem(1000, np.float32)
    stream = cuda.stream()
    handle = int(stream.handle)
    ways = [stream, handle, cuda.external_stream(handle)]
    opt, same = fastopt.Adam(to_device(w)), fastopt.Adam(w)
    for g, way in zip(grads, ways, strict=True):
        on_device = to_device(g)
        opt.step(on_device, stream=way)
        stream.synchronize()
        same.step(g)
    assert_same_on_device(opt, w, same.state)


@needs_device
def test_a_wrong_stream_changes_nothing():
    w = to_device(np.ones(5, np.float32))
    opt = fastopt.SGD(w)
    with pytest.raises(TypeError, match="stream must be"):
        opt.step(to_device(np.ones(5, np.float32)), stream="first")
    assert opt.step_count == 0
    assert to_host(w).tolist() == [1.0] * 5


def launches():
    import gpu_emulator

    return gpu_emulator.launches


@needs_emulator
class TestLaunches:
    """What the emulated GPU was given to do."""

    @pytest.mark.parametrize(
        "kind",
        [fastopt.RMSProp, fastopt.SGD, fastopt.AdaGrad, fastopt.Adam, fastopt.AdamW, fastopt.NAdam],
    )
    def test_one_a_step(self, kind):
        from numba import cuda

        stream = cuda.stream()
        w, g = (to_device(np.ones(1000, np.float32)) for _ in range(2))
        opt = kind(w, lr=lambda t: 0.1 / (1 + t))
        for _ in range(3):
            count = len(launches())
            opt.step(g, stream=stream)
            (launch,) = launches()[count:]
            assert launch["stream"] == int(stream.handle)

    def test_one_for_a_thousand_arrays(self):
        params, grads = (
            [to_device(np.ones(n % 70, np.float32)) for n in range(1000)] for _ in range(2)
        )
        opt = fastopt.RMSProp(params)
        count = len(launches())
        opt.step(grads)
        assert len(launches()) == count + 1

    def test_three_with_a_norm(self):
        w, g = (to_device(np.ones(1000, np.float32)) for _ in range(2))
        opt = fastopt.RMSProp(w, clip_norm=1.0, skip_nonfinite=True)
        count = len(launches())
        opt.step(g, stream=77)
        assert [launch["stream"] for launch in launches()[count:]] == [77] * 3

    def test_default_streams(self):
        """That of the gradient's interface, where the library has no current stream."""
        w, g = (to_device(np.ones(64, np.float32)) for _ in range(2))
        opt = fastopt.RMSProp(w)
        for grad, expected in [
            (g, None),
            (Wrapped(g, 99), 99),
            (Wrapped(g, 1), 1),
            (Wrapped(g), None),
        ]:
            opt.step(grad)
            assert launches()[-1]["stream"] == expected

    def test_current_stream_of_the_library(self, monkeypatch):
        from types import SimpleNamespace

        cupy = SimpleNamespace(cuda=SimpleNamespace(get_current_stream=lambda: OfCupy()))
        monkeypatch.setitem(sys.modules, "cupy", cupy)
        w, g = (to_device(np.ones(64, np.float32)) for _ in range(2))
        ours = type("ndarray", (Wrapped,), {"__module__": "cupy"})
        wrapped = ours(g, stream=1)
        wrapped.data = SimpleNamespace(ptr=g.__cuda_array_interface__["data"][0])
        opt = fastopt.RMSProp(w)
        for _ in range(2):
            opt.step(wrapped)
            assert launches()[-1]["stream"] == OfCupy.ptr

    def test_an_object_with_other_memory(self, monkeypatch):
        """The same object is checked again: torch can give it other memory."""
        from types import SimpleNamespace

        cupy = SimpleNamespace(cuda=SimpleNamespace(get_current_stream=lambda: OfCupy()))
        monkeypatch.setitem(sys.modules, "cupy", cupy)
        w, *grads = problem(64, np.float32)[0], *problem(64, np.float32)[1]
        ours = type("ndarray", (Wrapped,), {"__module__": "cupy"})
        wrapped = ours(None)
        opt, same = fastopt.RMSProp(to_device(w)), fastopt.RMSProp(w)
        for g in grads:
            wrapped.array = to_device(g)
            wrapped.data = SimpleNamespace(ptr=wrapped.array.__cuda_array_interface__["data"][0])
            opt.step(wrapped)
            same.step(g)
        assert_same_on_device(opt, w, same.state)

    @pytest.mark.parametrize(
        ("settings", "copies"),
        [
            ("lr=0.1", 0),
            ("lr=0.1, clip_norm=1.0", 0),
            ("lr=0.1, skip_nonfinite=True", 0),
            ("lr=lambda t: 0.1 / (1 + t), clip_norm=lambda t: 1.0 + t", 0),
            ("lr=lambda t: 0.1 / (1 + t), capturable=True", 1),
        ],
    )
    @pytest.mark.parametrize("several", [False, True])
    def test_driver_is_asked_for_nothing_else(self, settings, copies, several, tmp_path):
        """The log of the driver: launches, and where numbers change for a graph their copy."""
        code = f"""
        import sys
        import numpy as np
        from numba import cuda
        import fastopt

        several = {several}
        stream = cuda.stream()
        w, g = ([cuda.to_device(np.ones(n, np.float32)) for n in (100, 33)] for _ in range(2))
        w, g = (w, g) if several else (w[0], g[0])
        opt = fastopt.Adam(w, {settings})
        opt.step(g, stream=stream)
        print("BEGIN", file=sys.stderr, flush=True)
        for _ in range(3):
            opt.step(g, stream=stream)
        print("END", int(stream.handle), file=sys.stderr, flush=True)
        """
        result = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)],
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=True,
            env={**os.environ, "GPU_EMULATOR_LOG": "1"},
        )
        log, handle = re.search(r"BEGIN\n(.*)END (\d+)", result.stderr, re.DOTALL).groups()
        calls = [line.removeprefix("[gpu-emulator] ") for line in log.splitlines()]
        launched = [call for call in calls if call.startswith("launch")]
        sent = [call for call in calls if call.startswith(("HtoDAsync", "cuEventRecord"))]
        assert len(launched) == 3 * (3 if "norm" in settings or "skip" in settings else 1)
        assert len(sent) == 3 * 2 * copies
        assert len(calls) == len(launched) + len(sent), calls
        assert all(f"stream={int(handle):#x}" in call for call in calls), calls


@needs_driver
class TestCapturable:
    def test_same_bits(self):
        w, grads = problem(100, np.float32)
        settings = {"lr": lambda t: 0.1 / (1 + t), "clip_norm": lambda t: 2.0 + t}
        opt = fastopt.Adam(to_device(w), capturable=True, **settings)
        same = fastopt.Adam(w, **settings)
        for g in grads:
            opt.step(to_device(g))
            same.step(g)
        assert_same_on_device(opt, w, same.state)

    @pytest.mark.parametrize("several", [False, True])
    def test_recorded_launch_follows_the_schedule(self, several, monkeypatch):
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

    def test_each_graph_has_its_gradients(self, monkeypatch):
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

    def test_a_graph_keeps_its_sums(self, monkeypatch):
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

    def test_a_graph_is_of_the_arrays_of_the_step_before(self, monkeypatch):
        params, grads = ([to_device(np.zeros(n, np.float32)) for n in (9, 20, 5)] for _ in range(2))
        opt = fastopt.SGD(params, capturable=True)
        opt.step(grads)
        with pytest.raises(RuntimeError, match="with gradients for the arrays of the step before"):
            captured(monkeypatch, lambda: opt.step([*grads[:2], None]), launches=0)
        opt.step(grads)
        for _ in range(8):  # so many can be captured one after the other
            captured(monkeypatch, lambda: opt.step(grads), launches=1)

    def test_a_capture_waits_for_nothing_and_loads_nothing(self, monkeypatch):
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


def captured(monkeypatch, step, launches):
    """What replays the launches and copies of a step, with the arguments that they have now."""
    import ctypes

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


@needs_driver
def test_a_copy_to_the_device_is_over_when_it_returns(monkeypatch):
    """The driver's own returns once memory was read, and a stream of torch waits for no other."""
    from fastopt.executors.cuda import device

    target, calls = device.allocate((3,), np.float64), []

    def noted(name, function):
        def call(*arguments):
            calls.append(name)
            return function(*arguments)

        return call

    for name in ("cuMemcpyHtoD", "cuStreamSynchronize"):
        monkeypatch.setattr(device.binding, name, noted(name, getattr(device.binding, name)))
    device.to_device(target.address, np.ones(3))
    assert calls == ["cuMemcpyHtoD", "cuStreamSynchronize"]
