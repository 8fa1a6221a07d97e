"""The toy format gives the same bits from every executor, and those of definitions typed apart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import fastopt
from fastopt import transforms as t
from fastopt.arrays import device_array
from fastopt.codecs import formats, rounding
from fastopt.codecs.base import BLOCK
from fastopt.codecs.floats import floats
from tests import oracles
from tests.device import SIMULATED, needs_device, to_device, to_host
from tests.examples.toy_format import FLOAT8, registered
from tests.support import COMPILED, EXECUTORS, assert_same_bits, compiled_suite_only
from tests.support import problem as single_problem

DTYPE = np.dtype(ml_dtypes.float8_e5m2)
SINGLE = np.dtype(np.float32)


@pytest.fixture(autouse=True, scope="module")
def _registered() -> Iterator[None]:
    with registered():
        yield


def decoded(stored: np.ndarray) -> np.ndarray:
    """The upper half of a float16, which NumPy converts."""
    return (stored.view(np.uint8).astype(np.uint16) << 8).view(np.float16).astype(np.float32)


def rounded(numbers: np.ndarray, noise: np.ndarray | None) -> np.ndarray:
    """To nearest by ml_dtypes; with noise by the definition: up if the rest and the noise make one."""
    if noise is None:
        return numbers.astype(DTYPE)
    size = np.abs(numbers.astype(np.float64))
    exponent = np.frexp(size)[1] - 1
    spacing = 2.0 ** (np.maximum(exponent, -14) - 2)
    whole = np.floor(size / spacing)
    rest = np.rint((size / spacing - whole) * 2**21)
    up = rest + (noise >> 11) >= 2**21
    result = np.copysign((whole + up) * spacing, numbers)
    return np.where(np.isfinite(numbers), result, numbers).astype(DTYPE)


def samples() -> np.ndarray:
    """Every number of the format, those around the middles between two, and any float32."""
    with np.errstate(all="ignore"):
        every = decoded(np.arange(256, dtype=np.uint8))
        finite = np.sort(every[np.isfinite(every)])
        middles = (finite[1:] + finite[:-1]) / 2
        around = [np.nextafter(middles, np.float32(way)) for way in (-np.inf, np.inf)]
        bits = np.random.default_rng(8).integers(0, 2**32, 20_000, np.uint32)
        single = np.random.default_rng(9).normal(size=20_000) * 2.0 ** np.linspace(-24, 18, 20_000)
        edges = np.array([61439.996, 61440, 65536, 3e38, 1e-45, 0.0, -0.0], np.float32)
        each = every, middles, *around, bits.view(np.float32), single, edges
        return np.concatenate([one.astype(np.float32) for one in each])


def assert_same_numbers(actual: np.ndarray, expected: np.ndarray) -> None:
    """The same bits but for the content of NaN."""
    nan = np.isnan(expected.astype(np.float32))
    np.testing.assert_array_equal(np.isnan(actual.astype(np.float32)), nan)
    np.testing.assert_array_equal(actual.view(np.uint8)[~nan], expected.view(np.uint8)[~nan])


def test_every_code_there_and_back() -> None:
    stored = np.arange(256, dtype=np.uint8).view(DTYPE)
    numbers = floats(FLOAT8.name).decode(stored, SINGLE)
    np.testing.assert_array_equal(numbers, decoded(stored))
    for noise in None, rounding.noise(0, 256, 0.0, 0), np.full(256, 2**32 - 1, np.uint32):
        assert_same_numbers(floats(FLOAT8.name).encode(numbers, noise), stored)


@pytest.mark.parametrize("dithered", [False, True])
def test_rounding_by_definition(dithered: bool) -> None:
    numbers = samples()
    noise = rounding.noise(0, numbers.size, 0.0, 0) if dithered else None
    with np.errstate(all="ignore"):
        expected = rounded(numbers, noise)
    assert_same_numbers(floats(FLOAT8.name).encode(numbers, noise), expected)


def problem(size: int, dtype: Any, grad_dtype: Any, steps: int = 3) -> tuple[Any, list[Any]]:
    w, grads = single_problem(size, np.float32, steps)
    return w.astype(dtype), [(g / 64).astype(grad_dtype) for g in grads]


def expected(w: Any, grads: list[Any], state_dtype: Any, dithered: bool) -> tuple[Any, Any]:
    """RMSProp by its definition in float32, everything rounded after every step."""
    v = np.zeros(w.shape, state_dtype)
    for step, g in enumerate(grads):
        new_w, state = oracles.rmsprop(
            w.astype(np.float32), g.astype(np.float32), {"square_avg": v.astype(np.float32)}, step
        )
        phase = rounding.phase(0, step)
        noise = [rounding.noise(0, w.size, phase, slot) if dithered else None for slot in (0, 2)]
        w = rounded(new_w, noise[0]) if w.dtype == DTYPE else new_w
        v = rounded(state["square_avg"], noise[1]) if v.dtype == DTYPE else state["square_avg"]
    return w, v


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize(
    ("param", "grad", "state", "dithered"),
    [
        (DTYPE, DTYPE, DTYPE, False),
        (DTYPE, DTYPE, DTYPE, True),
        (DTYPE, SINGLE, SINGLE, True),
        (SINGLE, SINGLE, DTYPE, False),
        (np.float16, DTYPE, DTYPE, True),
    ],
    ids=str,
)
def test_same_bits(param: Any, grad: Any, state: Any, dithered: bool, executor: str) -> None:
    for size in (BLOCK + 5, 4 * BLOCK) if COMPILED and executor != "reference" else (37,):
        w, grads = problem(size, param, grad)
        options: dict[str, Any] = {"stochastic_rounding": dithered, "state_dtype": state}
        opt = fastopt.RMSProp(w.copy(), executor=executor, **options)
        reference = fastopt.RMSProp(w.copy(), executor="reference", **options)
        for g in grads:
            opt.step(g)
            reference.step(g)
        assert_same_bits(opt.params, reference.params)
        assert_same_bits(opt.state["square_avg"], reference.state["square_avg"])
        if param != np.float16:
            new_w, v = expected(w, grads, state, dithered)
            assert_same_bits(opt.params, new_w)
            assert_same_bits(opt.state["square_avg"], v)


class OnDevice:
    """An array on a device whose interface has the dtype, which no library's has."""

    def __init__(self, array: Any) -> None:
        self.bits = to_device(array.view(np.uint8))

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {**(device_array.interface(self.bits) or {}), "typestr": DTYPE}


@needs_device
@pytest.mark.parametrize("dithered", [False, True])
@pytest.mark.parametrize("param", [DTYPE, SINGLE], ids=str)
def test_same_bits_on_a_device(param: Any, dithered: bool) -> None:
    for size in (37, 64) if SIMULATED else (3, 64, 1031):
        w, grads = problem(size, param, DTYPE)
        options: dict[str, Any] = {"stochastic_rounding": dithered, "state_dtype": DTYPE}
        params = OnDevice(w) if param == DTYPE else to_device(w)
        opt = fastopt.RMSProp(params, clip_norm=0.5, **options)
        memory = fastopt.RMSProp(w, clip_norm=0.5, **options)
        for g in grads:
            opt.step(OnDevice(g))
            memory.step(g)
            assert opt.last == memory.last
        assert to_host(getattr(params, "bits", params)).tobytes() == w.tobytes()
        assert to_host(opt.state["square_avg"]).tobytes() == memory.state["square_avg"].tobytes()


def test_saved_and_resumed(tmp_path: Path) -> None:
    w, grads = problem(300 if COMPILED else 30, DTYPE, DTYPE, steps=4)
    one = fastopt.Adam(w.copy(), stochastic_rounding=True)
    for g in grads[:2]:
        one.step(g)
    one.save(tmp_path / "run", params=True)
    other = fastopt.Adam(np.zeros_like(w), stochastic_rounding=True)
    other.load(tmp_path / "run")
    for g in grads[2:]:
        one.step(g)
        other.step(g)
    assert_same_bits(one.params, other.params)
    for name in one.state:
        assert_same_bits(one.state[name], other.state[name])


def test_norm_clipping_and_allocation() -> None:
    w, (g, *_) = problem(1000 if COMPILED else 60, DTYPE, DTYPE)
    wide = decoded(g)
    assert fastopt.global_norm(g) == fastopt.global_norm(wide)
    opt = fastopt.SGD(w, lr=0.1, clip_norm=0.5)
    opt.step(g)
    assert opt.last.norm == fastopt.global_norm(wide)
    assert fastopt.empty(3, FLOAT8.name).dtype == DTYPE
    copy = np.zeros(w.size, DTYPE)
    copied = fastopt.SGD(decoded(w), lr=0.1, copy_to=copy)
    copied.step(wide)
    assert_same_bits(copy, rounded(copied.params, None))


def test_bounds_are_rounded_inwards() -> None:
    w, (g, *_) = problem(100 if COMPILED else 30, DTYPE, SINGLE)
    opt = fastopt.SGD(w, lr=1.0, bounds=(-0.3, 0.3))
    opt.step(g)
    assert float(np.abs(decoded(w)).max()) == 0.25  # 0.3125 is the nearest, and beyond


def test_a_format_is_registered_once() -> None:
    formats.register(FLOAT8)  # again is no error
    with pytest.raises(ValueError, match="another format with the name float8_e5m2"):
        formats.register(FLOAT8._replace(dlpack=1))
    with pytest.raises(ValueError, match="number with nearest"):
        formats.register(FLOAT8._replace(name="float8_e4m3", nearest=None))
    assert "float8_e4m3" not in formats.FORMATS


@compiled_suite_only
def test_other_formulas_and_sizes_are_other_code_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastopt.executors.cpu import kernels, sum_kernels
    from fastopt.kernels import disk_cache
    from fastopt.kernels.disk_cache import CacheFile
    from fastopt.steps import memory_stepper, memory_sums

    contents: list[str | None] = []

    number = FLOAT8.number

    def other(o: Any, code: Any) -> Any:
        return number(o, code)

    def noting(name: str, content: str | None) -> CacheFile:
        if name.endswith("-float32"):  # a kernel: others do not depend on formats
            contents.append(content)
        return CacheFile(name, content)

    monkeypatch.setattr(disk_cache, "CacheFile", noting)
    monkeypatch.setattr(memory_stepper, "kernel", kernels.kernel.__wrapped__)
    monkeypatch.setattr(memory_sums, "sum_kernel", sum_kernels.sum_kernel.__wrapped__)
    for row in FLOAT8, FLOAT8, FLOAT8._replace(cut=20), FLOAT8._replace(number=other):
        monkeypatch.setitem(formats.FORMATS, FLOAT8.name, row)
        fastopt.Optimizer(np.zeros(8, DTYPE), t.clip_by_global_norm(1.0))
    assert None not in contents
    assert contents[:2] == contents[2:4]
    assert len(set(contents)) == 6
