"""Streams and launches: on the caller's stream, one a step, without waiting or copying."""

import os
import re
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import fastopt
from fastopt.executors.cuda import streams
from tests.device import (
    assert_same_on_device,
    needs_device,
    needs_driver,
    needs_emulator,
    to_device,
    to_host,
)
from tests.subprocesses import LIMIT
from tests.support import problem


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
