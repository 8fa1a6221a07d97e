"""Registers and spills of kernels for 16 bits, codes, sums and graphs, on every architecture."""

import numpy as np
import pytest

import fastopt
from fastopt.codecs.floats import floats
from tests.support import parameters_of
from tests.test_cuda_code import (
    ARCHITECTURES,
    assembled,
    assert_no_spills,
    every_architecture,
    kernels_of_blocks,
    registers,
)

KERNELS = "wide", "scalar", "many"
# The most registers, with which a multiprocessor has room for three blocks of 256 threads, or two.
STEPPING, SUMMING = 80, 128

formats = pytest.mark.parametrize(
    ("dtype", "settings"), [("float32", {}), ("bfloat16", {"state_dtype": "8bit"})]
)


def assert_in_registers(program, cc, most, folder):
    report, _ = assembled(program.ptx(cc), cc, folder)
    assert_no_spills(report)
    assert registers(report) <= most


def job_of(kind, dtype, **settings):
    opt = kind(np.zeros(4096, floats(dtype).dtype), executor="reference", **settings)
    return parameters_of(opt).job(0, dtype, False)


@every_architecture
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["RMSProp", "Adam"])
def test_16_bits_and_codes(name, dtype, cc, tmp_path):
    compiled = kernels_of_blocks(name, None, dtype)
    for kernel in KERNELS:
        assert_in_registers(compiled.program(kernel), cc, STEPPING, tmp_path)


@every_architecture
@pytest.mark.parametrize(("dtype", "bits"), [("bfloat16", 24), ("float16", 32)])
def test_split_parameters(dtype, bits, cc, tmp_path):
    compiled = kernels_of_blocks("Adam", None, dtype, master_bits=bits)
    for kernel in KERNELS:
        assert_in_registers(compiled.program(kernel), cc, STEPPING, tmp_path)


@every_architecture
def test_sums_of_gradients(cc, tmp_path):
    """Of the formats that `test_cuda_code.test_norm` leaves out."""
    from fastopt.executors.cuda.sum_kernels import gradient_sums

    for dtype in "float16", "bfloat16":
        for kind in "one", "many":
            for program in gradient_sums(dtype, False, ARCHITECTURES[0]).programs(kind):
                assert_in_registers(program, cc, SUMMING, tmp_path)


@every_architecture
@pytest.mark.parametrize("options", [{}, {"recalls": True}, {"capturable": True}], ids=str)
def test_decisions_about_gradients(options, cc, tmp_path):
    from fastopt.executors.cuda.kernel_source import KernelVariant
    from fastopt.executors.cuda.sum_kernels import conclude
    from fastopt.transforms.gradient_clip import gradient_clip

    for dtype in "float32", "float64":
        how = KernelVariant(**options), True, dtype, ARCHITECTURES[0]
        part = gradient_clip(skips=True, wide=dtype == "float64")
        assert_in_registers(conclude(part, *how), cc, 64, tmp_path)


@every_architecture
@pytest.mark.parametrize(
    ("dtype", "settings"), [("float32", {}), ("bfloat16", {"state_dtype": "8bit"})]
)
def test_sums_of_transforms(dtype, settings, cc, tmp_path):
    from fastopt.executors.cuda.kernel_source import KernelVariant
    from fastopt.executors.cuda.sum_kernels import conclude, sum_kernels
    from fastopt.steps.parameter_set import sum_job

    job, form = job_of(fastopt.LAMB, dtype, **settings), KernelVariant()
    (position,) = (i for i, part in enumerate(job.parts) if part.sums is not None)
    compiled = sum_kernels(sum_job(job, position), form, ARCHITECTURES[0])
    programs = [*compiled.programs("one"), *compiled.programs("many")]
    programs.append(conclude(job.parts[position], form, False, "float32", ARCHITECTURES[0]))
    for program in programs:
        assert_in_registers(program, cc, SUMMING, tmp_path)


@every_architecture
@pytest.mark.parametrize(
    ("dtype", "settings"), [("float32", {}), ("bfloat16", {"state_dtype": "8bit"})]
)
def test_graphs_of_many_parameters(dtype, settings, cc, tmp_path):
    from fastopt.executors.cuda.kernel_source import KernelVariant
    from fastopt.executors.cuda.kernels import kernels

    form = KernelVariant(capturable=True, hyper_in_rows=True)
    compiled = kernels(job_of(fastopt.Adam, dtype, **settings), form, ARCHITECTURES[0])
    assert_in_registers(compiled.program("many"), cc, STEPPING, tmp_path)
