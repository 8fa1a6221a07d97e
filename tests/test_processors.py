"""The machine code of kernels for other processors than that of this machine."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import numpy as np
import pytest

import fastopt
from fastopt.codecs.corrections import BY_MASTER_BITS
from fastopt.executors.cpu import kernels
from fastopt.executors.cpu.kernels import FAR, FARTHEST, NEAR, PREFETCH_STEP, ahead, source
from fastopt.kernels.identity import frozen
from fastopt.kernels.job import ArrayFormat, Job
from fastopt.kernels.terms import Term
from fastopt.transforms.statistics import square
from tests.subprocesses import needs_jit

pytestmark = needs_jit

machine_code: Any = pytest.importorskip(
    "tests.machine_code", reason="Numba's passes are other ones", exc_type=ImportError
)

KINDS: dict[str, Any] = {
    "RMSProp": (fastopt.RMSProp, ("unsigned8",)),
    "Adam": (fastopt.Adam, ("signed8", "unsigned8")),
}

GRADIENT_SQUARE = Term(frozen(square), "the square of the gradient", "gradient")


@cache
def code(
    kind: str,
    stored: str,
    eight_bits: bool,
    fast: bool = False,
    master_bits: int | None = None,
    terms: tuple[Term, ...] = (),
    stochastic: bool = False,
) -> str:
    """A kernel in LLVM's language; states of 8 bits have stochastic rounding, or all that is stored."""
    make, codes = KINDS[kind]
    parts = make(np.zeros(1, np.float32)).chain.parts(frozen)
    wide = "float32" if master_bits else stored
    states = codes if eight_bits else (wide,) * len(codes)
    corrections = (BY_MASTER_BITS[master_bits].name,) if master_bits else ()
    formats = (stored, stored, *corrections, *states)
    storage = tuple(ArrayFormat(name, name in codes or stochastic) for name in formats)
    job = Job(parts, storage, zero_grad=False, scales=False, fast=fast, stats=terms)
    text: str = machine_code.intermediate_code(job)
    return text


PREFETCHED = {  # by job: the processors on which it is prefetched, of those in `PROCESSORS`
    ("float32",) * 3: {"sapphirerapids"},
    ("float16",) * 3: {"sapphirerapids"},
    ("float32", "float32", "unsigned8"): {"sapphirerapids"},
    ("float64",) * 3: {"sapphirerapids", "znver5"},
    ("float32", "float32", "float64"): {"sapphirerapids", "znver5"},
    ("float32", "float32", "bfloat16", "bfloat16"): {"sapphirerapids", "znver5"},
    ("float32", "float32", "signed8", "unsigned8"): {"sapphirerapids", "znver5", "znver3"},
}
PROCESSORS = ("sapphirerapids", "znver5", "znver3")


@pytest.mark.parametrize("processor", PROCESSORS)
@pytest.mark.parametrize("formats", PREFETCHED)
def test_prefetches_where_they_pay(
    monkeypatch: pytest.MonkeyPatch, formats: tuple[str, ...], processor: str
) -> None:
    make = fastopt.RMSProp if len(formats) == 3 else fastopt.Adam
    parts = make(np.zeros(1, np.float32)).chain.parts(frozen)
    storage = tuple(ArrayFormat(name, False) for name in formats)
    job = Job(parts, storage, zero_grad=False, scales=False)
    monkeypatch.setattr(kernels, "processor", lambda: processor)
    assert kernels.prefetches(job) == (processor in PREFETCHED[formats])
    assert ("fetch_" in source(job)) == kernels.prefetches(job)


@pytest.mark.parametrize(
    ("target", "kind", "stored", "fast", "most"),
    [
        ("AVX-512", "RMSProp", "float32", False, 21),
        ("AVX-512", "RMSProp", "float16", False, 22),
        ("AVX-512", "RMSProp", "float16", True, 23),
        ("AVX-512", "Adam", "float32", False, 42.25),
        ("AVX-512", "Adam", "float16", False, 42),
        ("AVX2", "RMSProp", "float32", False, 22),
        ("AVX2", "RMSProp", "float16", True, 24),
        ("AVX2", "Adam", "float32", False, 51),
    ],
)
def test_instructions_of_8_bit_states(
    target: str, kind: str, stored: str, fast: bool, most: float
) -> None:
    """For a vector of numbers: decode, step, encode. The former took 33 for RMSProp, 56 for Adam."""
    text = machine_code.assembly(code(kind, stored, True, fast), target)
    rounds = machine_code.rounds(text, target)
    vectors = PREFETCH_STEP // machine_code.TARGETS[target][3]
    assert rounds
    assert max(map(len, rounds)) <= most * vectors


@pytest.mark.parametrize(
    ("target", "kind", "stochastic", "most"),
    [
        ("AVX-512", "RMSProp", False, 25),
        ("AVX-512", "RMSProp", True, 24.5),
        ("AVX-512", "Adam", False, 36.5),
        ("AVX2", "RMSProp", False, 28),
        ("AVX2", "RMSProp", True, 25),
        ("AVX2", "Adam", False, 48.5),
        ("NEON", "RMSProp", False, 27.5),
        ("NEON", "Adam", False, 40),
    ],
)
def test_instructions_of_pairs(target: str, kind: str, stochastic: bool, most: float) -> None:
    """For one vector. Element by element RMSProp took 29.5, 34.5 and 33 on these targets."""
    text = machine_code.assembly(code(kind, "bfloat16", False, stochastic=stochastic), target)
    assert machine_code.instructions_of_vector(text, target) <= most


@pytest.mark.parametrize(
    ("formats", "pairs"),
    [
        (("bfloat16",) * 3, True),
        (("float16",) * 3, False),  # has instructions of its own
        (("bfloat16", "float16", "bfloat16"), False),
        (("bfloat16", "bfloat16", "float32"), False),
        (("float32", "bfloat16", "bfloat16"), False),
        (("bfloat16", "bfloat16", "unsigned8"), False),
        (("bfloat16", "bfloat16", "correction16", "bfloat16"), False),
    ],
)
def test_what_is_stepped_in_pairs(formats: tuple[str, ...], pairs: bool) -> None:
    parts = fastopt.RMSProp(np.zeros(1, np.float32)).chain.parts(frozen)
    job = Job(parts, tuple(map(ArrayFormat, formats)), zero_grad=False, scales=False)
    assert ("load_pair_param(" in source(job)) == pairs
    assert "pair" not in source(job._replace(stats=(GRADIENT_SQUARE,)))


@pytest.mark.parametrize(("kind", "eight_bits"), [("RMSProp", False), ("Adam", True)])
@pytest.mark.parametrize("stored", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("target", machine_code.TARGETS)
def test_loops_are_vectors(target: str, kind: str, stored: str, eight_bits: bool) -> None:
    has_vectors(code(kind, stored, eight_bits), target, kind, eight_bits)


@pytest.mark.parametrize(("kind", "eight_bits"), [("RMSProp", False), ("Adam", True)])
@pytest.mark.parametrize("stored", ["float16", "bfloat16"])
@pytest.mark.parametrize("master_bits", [24, 32])
@pytest.mark.parametrize("target", machine_code.TARGETS)
def test_loops_of_split_weights_are_vectors(
    target: str, master_bits: int, stored: str, kind: str, eight_bits: bool
) -> None:
    has_vectors(code(kind, stored, eight_bits, master_bits=master_bits), target, kind, eight_bits)


def has_vectors(kernel: str, target: str, kind: str, eight_bits: bool) -> None:
    """Assert that the loop is vectors, and fetches all arrays, without calls of functions."""
    text = machine_code.assembly(kernel, target)
    lines = machine_code.instructions(text)
    # What encodes nothing has vectors of 256 bits there too.
    register = r"[yz]mm\d" if target.startswith("AVX") else machine_code.TARGETS[target][4]
    for operation in ("sqrt", "div"):
        assert any(re.search(rf"{operation}.*({register})", line) for line in lines), operation
    asked = [line for line in lines if re.match(r"prefetch|prfm", line)]
    assert len(asked) >= 2 + len(KINDS[kind][1])
    calls = [line for line in lines if re.match(r"callq?\s|blr?\s", line)]
    # The end of a last block is cleared; on x86 the address of memset is in a register.
    assert len(calls) <= sum("memset" in line for line in lines)
    assert eight_bits or not calls


def test_sums_stay_in_registers() -> None:
    """Beside float64 of 512 bits float32 have 256; and only their sum goes to memory."""
    text = machine_code.assembly(code("RMSProp", "float32", False, terms=(GRADIENT_SQUARE,)), "AVX-512")
    (piece,) = [
        block
        for block in machine_code.basic_blocks(text)
        if sum(bool(re.search(r"sqrt.*ymm", line)) for line in block) == PREFETCH_STEP // 8
    ]
    adds = [line for line in piece if re.search(r"vaddpd.*zmm", line)]
    assert len(adds) >= PREFETCH_STEP // 8 - 1
    through_memory = [line for line in piece if re.search(r"pd\s.*%?rsp", line)]
    assert len(through_memory) == 1  # the sum of all
    assert re.match(r"vmov[au]pd\s+%zmm\d+, .*rsp", through_memory[0])


@pytest.mark.parametrize(
    ("arrays", "distance", "on_zen5"),
    [
        (("float32", "float32", "float32"), NEAR, False),
        (("float32", "bfloat16", "float32"), NEAR, False),
        (("float32", "float32", "unsigned8"), NEAR, False),
        (("float32", "float32", "float64"), NEAR, True),
        (("float32", "float32", "signed8", "unsigned8"), FAR, True),
        (("float16", "float16", "unsigned8"), FARTHEST, False),
        (("float64", "float64", "float64"), FAR, True),
    ],
)
def test_how_far_ahead(
    arrays: tuple[str, ...], distance: int, on_zen5: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And where a Zen 5 does not prefetch."""
    kind = fastopt.Adam if len(arrays) == 4 else fastopt.RMSProp
    parts = kind(np.zeros(1, np.float32)).chain.parts(frozen)
    job = Job(parts, tuple(map(ArrayFormat, arrays)), zero_grad=False, scales=False)
    assert ahead(job) == distance
    for processor, fetches in (("sapphirerapids", True), ("znver4", True), ("znver5", on_zen5)):
        monkeypatch.setattr(kernels, "processor", lambda name=processor: name)
        assert ("fetch_param(" in source(job)) == fetches, processor
