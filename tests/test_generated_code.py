"""The machine code of kernels: packed, in the right precision, and without calls."""

from __future__ import annotations

import platform
import re
from typing import Any

import numpy as np
import pytest

import fastopt
from fastopt.executors.cpu.columns import KERNEL
from fastopt.executors.cpu.kernels import Kernel, kernel
from fastopt.kernels.identity import frozen
from fastopt.kernels.job import ArrayFormat, Job
from fastopt.steps.stepper import stepper_of
from tests.subprocesses import needs_jit

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "eps outside": {"eps_inside_sqrt": False},
    "bias correction": {"bias_correction": True},
    "momentum": {"momentum": 0.9},
    "lr in momentum": {"momentum": 0.9, "lr_in_momentum": True},
    "weight decay": {"weight_decay": 1e-2},
    "decoupled decay": {"weight_decay": 1e-2, "decoupled_weight_decay": True},
    "clip and maximize": {"clip_value": 1.0, "maximize": True},
    "centered": {"centered": True},
    "five arrays": {
        "centered": True,
        "momentum": 0.9,
        "nesterov": True,
        "weight_decay": 1e-2,
        "eps_inside_sqrt": False,
    },
    "everything": {
        "centered": True,
        "momentum": 0.9,
        "nesterov": True,
        "weight_decay": 1e-2,
        "decoupled_weight_decay": True,
        "clip_value": 1.0,
        "maximize": True,
    },
}

# Instructions on whole vectors, on single numbers, and between the two precisions.
X86 = {
    "root": {4: r"\bv?sqrtps\b", 8: r"\bv?sqrtpd\b"},
    "quotient": {4: r"\bv?divps\b", 8: r"\bv?divpd\b"},
    "conversion": r"\bv?cvt(ss2sd|sd2ss|ps2pd|pd2ps)",
    "double": r"\bv?(sqrt|div|add|mul|sub)[ps]d\b",
    "call": r"\bcall",
}
ARM = {
    "root": {4: r"\bfsqrt\.4s|\bfsqrt\s+v\d+\.4s", 8: r"\bfsqrt\.2d|\bfsqrt\s+v\d+\.2d"},
    "quotient": {4: r"\bfdiv\.4s|\bfdiv\s+v\d+\.4s", 8: r"\bfdiv\.2d|\bfdiv\s+v\d+\.2d"},
    "conversion": r"\bfcvt[ln]?\b",
    "double": r"\bf(sqrt|div|add|mul|sub)\s+(d\d|v\d+\.2d)|\bf(sqrt|div|add|mul|sub)\.2d",
    "call": r"\bblr?\b",
}
PATTERNS: dict[str, Any] = ARM if platform.machine() in ("arm64", "aarch64") else X86

pytestmark = [
    needs_jit,
    pytest.mark.skipif(
        platform.machine() not in ("x86_64", "AMD64", "arm64", "aarch64"),
        reason=f"the instructions of {platform.machine()} are not known here",
    ),
]


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile anew: what comes from disk has no assembly."""
    monkeypatch.setenv("FASTOPT_CACHE", "0")


def job(parts: Any, *formats: str) -> Job:
    """A plain step: of arrays in these formats, or all in the only one."""
    count = 2 + sum(len(part.slots) for part in parts)
    stored = formats * count if len(formats) == 1 else formats
    return Job(parts, tuple(map(ArrayFormat, stored)), zero_grad=False, scales=False)


STORED = {
    "float16": ("float16",) * 3,
    "bfloat16": ("bfloat16",) * 3,
    "shadowed gradient": ("float32", "bfloat16", "float32"),
    "8-bit state": ("float32", "float32", "unsigned8"),
    "16 and 8 bits": ("bfloat16", "bfloat16", "unsigned8"),
    "split": ("bfloat16", "bfloat16", "correction8", "unsigned8"),
    "split float16": ("float16", "float16", "correction16", "float16"),
}


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("formats", STORED.values(), ids=STORED)
@pytest.mark.parametrize("dithered", [False, True])
def test_encoded_kernel_is_packed(formats: tuple[str, ...], dithered: bool) -> None:
    plain = job(fastopt.RMSProp(np.zeros(1, np.float32)).chain.parts(frozen), *formats)
    rounded = (
        (3,) if plain.correction else (0, 2)
    )  # parameters with corrections have nearest rounding only
    storage = tuple(
        ArrayFormat(
            array_format.codec, dithered and array_format.codec != "float32" and slot in rounded
        )
        for slot, array_format in enumerate(plain.storage)
    )
    code = instructions(kernel.__wrapped__(plain._replace(storage=storage)).assembly)
    assert re.search(PATTERNS["root"][4], code)
    assert re.search(PATTERNS["quotient"][4], code)
    assert not re.search(PATTERNS["double"], code)
    # LLVM clears the end of a last block that is not full with memset, in as many places as it has made
    # of the loop over blocks: one for AVX-512, two for AVX2. Any other call would be one an element.
    assert len(re.findall(PATTERNS["call"], code)) == len(re.findall("memset", code))


def compiled(dtype: type, settings: dict[str, Any]) -> Kernel:
    """A kernel as `Optimizer` gets it, but never one that is already in memory."""
    chain = fastopt.RMSProp(np.zeros(1, dtype), executor="reference", **settings).chain
    return kernel.__wrapped__(job(chain.parts(frozen), np.dtype(dtype).name))


def instructions(assembly: str) -> str:
    """Those of the kernel, not of its shorter C entry point: without directives and comments."""
    functions = re.findall(r"^\S+:.*?\.Lfunc_end", assembly, flags=re.MULTILINE | re.DOTALL)
    lines = (line.split("#")[0].strip() for line in max(functions, key=len).splitlines()[1:])
    return "\n".join(line for line in lines if line and not line.startswith("."))


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_kernel_is_packed(dtype: type, settings: dict[str, Any]) -> None:
    code = instructions(compiled(dtype, settings).assembly)
    size = np.dtype(dtype).itemsize
    assert re.search(PATTERNS["root"][size], code)
    assert re.search(PATTERNS["quotient"][size], code)
    assert not re.search(PATTERNS["conversion"], code)
    assert not re.search(PATTERNS["call"], code)
    assert bool(re.search(PATTERNS["double"], code)) == (dtype is np.float64)


def test_serial_and_parallel_share_machine_code() -> None:
    w, g = np.zeros(10, np.float32), np.zeros(10, np.float32)
    serial, parallel = (fastopt.RMSProp(w, executor=name) for name in ("serial", "parallel"))
    addresses = {int(stepper_of(opt)().rows[0, KERNEL]) for opt in (serial, parallel)}
    assert addresses == {kernel(job(serial.chain.parts(frozen), "float32")).address}
    serial.step(g)
    parallel.step(g)
    assert stepper_of(serial)().launch is not stepper_of(parallel)().launch
