"""The machine code of kernels for processors that need not be here, and what is in their loops."""

from __future__ import annotations

import re

import pytest
from llvmlite import binding
from numba.core.codegen import CPUCodeLibrary
from numba.core.llvm_bindings import create_pass_builder

from fastopt.executors.cpu import kernels
from fastopt.executors.cpu.kernels import PREFETCH_STEP, kernel
from fastopt.kernels.job import Job

# By name: LLVM's triple, processor, features, how many float32 its vectors hold, and their registers.
TARGETS = {
    "AVX-512": ("x86_64-unknown-linux-gnu", "skylake-avx512", "", 16, r"zmm\d"),
    "AVX2": ("x86_64-unknown-linux-gnu", "haswell", "", 8, r"ymm\d"),
    "NEON": ("aarch64-unknown-linux-gnu", "neoverse-n1", "", 4, r"\bv\d+\.4s|\bq\d+"),
    "SVE": ("aarch64-unknown-linux-gnu", "neoverse-v1", "", 4, r"\bz\d+\.s|\bv\d+\.4s"),
}


def intermediate_code(job: Job) -> str:
    """A kernel in LLVM's language, before anything that a processor decides; it prefetches."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "prefetches", lambda job: True)
        patch.setenv("FASTOPT_CACHE", "0")
        patch.setattr(CPUCodeLibrary, "_optimize_functions", lambda *_: None)
        patch.setattr(CPUCodeLibrary, "_optimize_final_module", lambda *_: None)
        library = kernel.__wrapped__(job).library
        assert library is not None  # nothing is on disk
        return str(library.get_llvm_str())


def assembly(code: str, target: str) -> str:
    """What LLVM makes of it for a target, by the passes that Numba asks for."""
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    triple, cpu, features, *_ = TARGETS[target]
    options = {"cpu": cpu, "features": features, "opt": 3, "reloc": "default", "codemodel": "default"}
    machine = binding.Target.from_triple(triple).create_target_machine(**options)
    machine.set_asm_verbosity(False)
    # What is declared of the machine here does not hold there.
    code = re.sub(r"^target (triple|datalayout) = .*$", "", code, flags=re.MULTILINE)
    module = binding.parse_assembly(code)
    module.triple, module.data_layout = triple, str(machine.target_data)
    for settings in ({"loop_vectorize": True, "slp_vectorize": False}, {"loop_vectorize": True}):
        builder = create_pass_builder(machine, opt=3, **settings)
        builder.getModulePassManager().run(module, builder)
    return str(machine.emit_assembly(module))


def instructions(text: str) -> list[str]:
    """Those of the kernel itself: labels and instructions, without its C entry point."""
    lines = [line.split("#")[0].split("//")[0].strip() for line in text.splitlines()]
    begin = next(i for i, line in enumerate(lines) if re.match(r"_ZN.*kernel.*:$", line))
    end = next(i for i, line in enumerate(lines[begin:], begin) if line.startswith(".size"))
    kept = [line for line in lines[begin + 1 : end] if line]
    return [line for line in kept if not line.startswith(".") or line.endswith(":")]


def basic_blocks(text: str) -> list[list[str]]:
    """The instructions between labels and jumps."""
    blocks: list[list[str]] = [[]]
    for line in instructions(text):
        if line.endswith(":"):
            blocks.append([])
        else:
            blocks[-1].append(line)
            if re.match(r"(j\w+|b|b\.\w+|cbn?z|tbn?z|ret)\s", line + " "):
                blocks.append([])
    return [block for block in blocks if block]


def rounds(text: str, target: str) -> list[list[str]]:
    """The straight code for a whole piece, which has a root for each vector of it."""
    *_, width, register = TARGETS[target]
    root = re.compile(rf"sqrt.*{register}")
    blocks = basic_blocks(text)
    return [
        block
        for block in blocks
        if sum(bool(root.search(line)) for line in block) == PREFETCH_STEP // width
    ]


def instructions_of_vector(text: str, target: str) -> float:
    """How many instructions the loop over whole pieces takes for each vector of numbers."""
    root = re.compile(rf"sqrt.*{TARGETS[target][4]}")
    counts = [
        (sum(bool(root.search(line)) for line in block), len(block)) for block in basic_blocks(text)
    ]
    roots = max(count for count, _ in counts)
    assert roots
    return min(length for count, length in counts if count == roots) / roots
