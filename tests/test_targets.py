"""Processors that code is compiled for: what they cannot do is an error, and nothing else needs it."""

from __future__ import annotations

import platform
from itertools import combinations
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import fastopt
from fastopt.codecs.formats import FORMATS
from fastopt.executors import norm
from fastopt.executors.global_norm import sum_of_squares
from tests.subprocesses import COUNT_PASSES, needs_jit, run, script

pytestmark = needs_jit
on_x86 = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="the names of processors are those of x86"
)

GENERIC = {"NUMBA_CPU_NAME": "generic"}
WITHOUT_F16C = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "-f16c"}
WITH_F16C = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "+f16c"}

BEGIN = """
import numpy as np, ml_dtypes, fastopt
from fastopt.kernels import target

HALF, BRAIN = np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)
rng = np.random.default_rng(7)

def problem(size, dtype):
    return rng.standard_normal(size).astype(dtype), rng.standard_normal(size).astype(dtype)

def fails(call):
    try:
        call()
    except RuntimeError as error:
        return str(error)
    raise AssertionError("no error")
"""


@on_x86
def test_what_needs_no_float16_works_without_it(tmp_path: Path) -> None:
    code = """
    assert not target.converts_float16()
    grads = [problem(size, dtype)[0] for size in (300, 40_000) for dtype in (np.float32, BRAIN)]
    size = np.linalg.norm(np.concatenate([grad.astype(np.float64) for grad in grads]))
    print(np.isclose(fastopt.global_norm(grads), size, rtol=1e-12))
    w, g = problem(5000, np.float32)
    expected = w.copy()
    means = dict(lr=0.1, clip_norm=0.5, skip_nonfinite=True, state_dtype="8bit")
    opt = fastopt.RMSProp(w, **means)
    opt.step(g)
    fastopt.RMSProp(expected, executor="reference", **means).step(g)
    print(w.tobytes() == expected.tobytes(), np.isclose(opt.last.norm, np.linalg.norm(g), rtol=1e-6))
    """
    assert run(script(BEGIN, code), tmp_path, **GENERIC) == "True\nTrue True"


@on_x86
@pytest.mark.parametrize("variables", [GENERIC, WITHOUT_F16C], ids=["generic", "haswell"])
def test_float16_is_an_error_without_it(variables: dict[str, str], tmp_path: Path) -> None:
    code = f"""
    processor = {variables["NUMBA_CPU_NAME"]!r}
    w, g = problem(100, np.float32)
    before = w.copy()
    opt = fastopt.SGD(w, lr=0.5, clip_norm=1e9)
    errors = [
        fails(lambda: fastopt.SGD(np.ones(9, HALF))),
        fails(lambda: fastopt.SGD(w, copy_to=np.ones(100, HALF))),
        fails(lambda: fastopt.RMSProp(w, state_dtype="float16")),
        fails(lambda: fastopt.global_norm(np.ones(9, HALF))),
        fails(lambda: fastopt.global_norm([w, np.ones(40_000, HALF)])),
        fails(lambda: opt.step(g.astype(HALF))),
    ]
    assert all("F16C" in error and processor in error and "bfloat16" in error for error in errors)
    assert w.tobytes() == before.tobytes()
    opt.step(g)
    print(np.array_equal(w, before - np.float32(0.5) * g), len(errors))
    """
    assert run(script(BEGIN, code), tmp_path, **variables) == "True 6"


@on_x86
def test_features_that_are_added_count(tmp_path: Path) -> None:
    code = """
    w, g = problem(5000, HALF)
    expected = w.copy()
    fastopt.SGD(w, lr=0.5, clip_norm=1.0).step(g)
    fastopt.SGD(expected, lr=0.5, clip_norm=1.0, executor="reference").step(g)
    print(target.converts_float16(), w.tobytes() == expected.tobytes())
    """
    assert run(script(BEGIN, code), tmp_path, **WITH_F16C) == "True True"


@on_x86
def test_info_shows_what_is_compiled_for(tmp_path: Path) -> None:
    code = "from fastopt.system import vector_width; print(vector_width())"
    assert run(code, tmp_path, **GENERIC) == "128 bits (SSE): 4 float32 in a register"
    for name, shown in {"haswell": "256 bits (AVX)", "skylake-avx512": "512 bits (AVX-512)"}.items():
        of_name_alone = {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": ""}
        assert run(code, tmp_path, **of_name_alone).startswith(shown)


@pytest.mark.skipif(platform.machine() not in ("aarch64", "arm64"), reason="of processors by Arm")
def test_arm_converts_float16() -> None:
    from fastopt.kernels import target

    assert target.converts_float16()
    assert target.widest_vectors() == (128, "NEON")


DTYPES: dict[str, Any] = {name: np.dtype(name) for name in FORMATS if name != "bfloat16"}
DTYPES["bfloat16"] = np.dtype(ml_dtypes.bfloat16)


def arrays(formats: tuple[str, ...]) -> list[Any]:
    rng = np.random.default_rng(len(formats))
    return [rng.standard_normal(size).astype(DTYPES[f]) for f in formats for size in (31, 8192 + 65, 0)]


@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_norm_has_the_same_bits_for_any_mixture(count: int) -> None:
    for formats in combinations(FORMATS, count):
        mixed = arrays(formats)
        assert sum_of_squares(mixed) == norm.reference(mixed), formats


def test_formats_that_change_from_step_to_step() -> None:
    """Each is measured by code for it, whatever came before."""
    w = [np.ones(300, np.float32), np.ones(40, np.float32)]
    opt = fastopt.SGD(w, lr=0.0, clip_norm=1.0)
    rng = np.random.default_rng(3)
    formats = ("float32", "float16", "bfloat16")
    for first in formats:
        for second in (*formats, None):
            grads = [rng.standard_normal(300).astype(DTYPES[first]), None]
            if second is not None:
                grads[1] = rng.standard_normal(40).astype(DTYPES[second])
            opt.step(grads)
            present = [grad for grad in grads if grad is not None]
            assert opt.last is not None
            assert opt.last.norm == norm.reference(present) ** 0.5


def test_only_formats_that_occur_are_compiled(tmp_path: Path) -> None:
    code = """
    from fastopt.executors.cpu.sum_kernels import sum_kernel
    w = np.ones(300, np.float32)
    opt = fastopt.SGD(w, lr=0.5, clip_norm=1.0)
    for dtype in {dtypes}:
        opt.step(w.astype(dtype))
    print(compiled(), sum_kernel.cache_info().misses)
    """
    for dtypes, count in (("(np.float32,) * 3", 1), ("(BRAIN, np.float32, BRAIN)", 2)):
        text = script(COUNT_PASSES, BEGIN, code.replace("{dtypes}", dtypes))
        assert run(text, tmp_path) == f"True {count}"
        assert run(text, tmp_path) == f"False {count}"
