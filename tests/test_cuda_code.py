"""The generated code of every optimizer, for GPUs that need not be there: PTX, and what ptxas says."""

import functools
import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import numba
import numpy as np
import pytest

import fastopt
from fastopt.codecs.base import BLOCK
from fastopt.codecs.floats import floats
from tests import cuda_paths
from tests.cases import ADAGRAD, ADAM, NADAM, RMSPROP, SGD
from tests.support import parameters_of

MISSING = next((name for name in ("numba_cuda", "nvidia") if find_spec(name) is None), None)
if MISSING is not None or numba.config.ENABLE_CUDASIM or numba.config.DISABLE_JIT:
    reason = f"{MISSING} is not installed" if MISSING else "nothing is compiled"
    pytest.skip(f"code for CUDA: {reason}", allow_module_level=True)

ARCHITECTURES = [(7, 5), (8, 0), (9, 0), (10, 0), (12, 0)]
OPTIMIZERS = {
    "RMSProp": (fastopt.RMSProp, RMSPROP["plain"]),
    "RMSProp-everything": (fastopt.RMSProp, RMSPROP["everything"] | {"weight_decay": 0.1}),
    "SGD": (fastopt.SGD, SGD["plain"]),
    "SGD-everything": (fastopt.SGD, SGD["everything"]),
    "AdaGrad": (fastopt.AdaGrad, ADAGRAD["everything"]),
    "Adam": (fastopt.Adam, ADAM["plain"]),
    "Adam-everything": (fastopt.Adam, ADAM["everything"]),
    "AdamW": (fastopt.AdamW, {}),
    "NAdam": (fastopt.NAdam, NADAM["everything"]),
    "options": (
        fastopt.Adam,
        {"bounds": (-1.0, 1.0), "average_decay": 0.9, "weight_decay": 0.1, "clip_value": 1.0},
    ),
}
FORMS = {
    "plain": {},
    "scaled": {},
    "clipped": {"clipped": True, "recalls": True},
    "capturable": {"clipped": True, "capturable": True},
}

every_architecture = pytest.mark.parametrize("cc", ARCHITECTURES, ids=lambda cc: f"sm_{cc[0]}{cc[1]}")
every_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)


@functools.cache
def program(name, kernel, dtype, form, fast):
    """Compiled once: the code of an architecture is made from the same intermediate code."""
    from fastopt.executors.cuda.kernel_source import KernelVariant
    from fastopt.executors.cuda.kernels import kernels

    kind, settings = OPTIMIZERS[name]
    settings = settings | {"zero_grad": form == "scaled"}
    opt = kind(np.zeros(1, dtype), executor="reference", **settings)
    job = parameters_of(opt).job(0, np.dtype(dtype).name, form == "scaled")._replace(fast=fast)
    return kernels(job, KernelVariant(**FORMS[form]), ARCHITECTURES[0]).program(kernel)


def ptx(name, kernel, cc, dtype=np.float32, form="plain", fast=False):
    """The code of a kernel as text."""
    return program(name, kernel, dtype, form, fast).ptx(cc)


def tool(name):
    """A program of NVIDIA's, from pip or installed."""
    import nvidia

    paths = [path for root in nvidia.__path__ for path in Path(root).rglob(name) if path.is_file()]
    return str(paths[0]) if paths else shutil.which(name)


def assembled(code, cc, folder):
    """What ptxas reports, and the machine code as text where nvdisasm is there."""
    ptxas, nvdisasm = tool("ptxas"), tool("nvdisasm")
    if ptxas is None:
        pytest.skip("ptxas is not there: pip install nvidia-cuda-nvcc")
    source, cubin = folder / "kernel.ptx", folder / "kernel.cubin"
    source.write_text(code)
    options = ["-v", f"-arch=sm_{cc[0]}{cc[1]}", str(source), "-o", str(cubin)]
    report = subprocess.run([ptxas, *options], capture_output=True, text=True, check=True).stderr
    if nvdisasm is None:
        return report, None
    listing = subprocess.run([nvdisasm, "-c", str(cubin)], capture_output=True, text=True, check=True)
    return report, listing.stdout


def accesses(kind, code):
    """How many instructions of a kind there are for numbers of four bytes."""
    return len(re.findall(rf"\b{re.escape(kind)}\.[fb]32", code))


def registers(report):
    return int(re.search(r"Used (\d+) registers", report)[1])


def assert_no_spills(report):
    assert "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in report


@every_architecture
@every_optimizer
@pytest.mark.parametrize("kernel", ["wide", "scalar", "many"])
def test_float32_stays_float32(kernel, name, cc):
    code = ptx(name, kernel, cc)
    assert ".f64" not in code
    assert ".local" not in code
    assert "call" not in code
    assert not re.search(r"\b(div|rem)\.[su](32|64)", code)  # for the trip count of a loop
    assert not re.search(r"\bfma\.", code)  # rounded once, where the CPU rounds twice


@every_architecture
@every_optimizer
def test_wide_accesses(name, cc):
    code = ptx(name, "wide", cc)
    arrays = accesses("ld.global.v4", code)
    assert arrays >= 2
    assert accesses("st.global.v4", code) == arrays - 1
    # The tail has one access for each of the wide ones.
    assert accesses("ld.global", code) == arrays
    assert accesses("st.global", code) == arrays - 1
    assert not re.search(r"\.v[24]\.", ptx(name, "scalar", cc))
    assert accesses("ld.global.v4", ptx(name, "many", cc)) == arrays


@every_architecture
@every_optimizer
def test_no_spills(name, cc, tmp_path):
    report, _ = assembled(ptx(name, "wide", cc), cc, tmp_path)
    assert_no_spills(report)
    if name == "RMSProp":
        assert registers(report) <= 40


@pytest.mark.parametrize("kernel", ["scalar", "many", *list(FORMS)[1:]])
@every_optimizer
def test_no_spills_in_the_other_kernels(name, kernel, tmp_path):
    code = ptx(name, "wide", (9, 0), form=kernel) if kernel in FORMS else ptx(name, kernel, (9, 0))
    assert_no_spills(assembled(code, (9, 0), tmp_path)[0])


@every_optimizer
def test_float64(name, tmp_path):
    code = ptx(name, "wide", (9, 0), dtype=np.float64)
    assert "ld.global.v2.f64" in code
    assert "st.global.v2.f64" in code
    assert not re.search(r"\.(f32|v4)\b", code)
    assert_no_spills(assembled(code, (9, 0), tmp_path)[0])


@every_architecture
def test_precise_and_fast(cc, tmp_path):
    """Roots and quotients: rounded correctly with a slow path, or approximate without."""
    precise, fast = (ptx("RMSProp", "wide", cc, fast=fast) for fast in (False, True))
    assert precise.count("sqrt.rn.f32") == precise.count("div.rn.f32") == 5  # four, and the tail
    assert fast.count("sqrt.approx.f32") == fast.count("div.full.f32") == 5
    assert ".ftz" not in precise + fast
    report, listing = assembled(fast, cc, tmp_path)
    assert registers(report) <= 40
    if listing is not None:
        assert not re.search(r"\bCALL\b", listing)
        assert "LDG.E.128" in listing
        assert "STG.E.128" in listing


def test_bytes_of_the_machine_code(tmp_path):
    """Wide accesses survive the last step of compilation."""
    _, listing = assembled(ptx("RMSProp", "wide", (9, 0)), (9, 0), tmp_path)
    if listing is None:
        pytest.skip("nvdisasm is not there: pip install nvidia-cuda-nvdisasm")
    assert len(re.findall(r"LDG\.E\.128", listing)) == 3
    assert len(re.findall(r"STG\.E\.128", listing)) == 2


@every_architecture
def test_norm(cc, tmp_path):
    from fastopt.executors.cuda.kernel_source import KernelVariant
    from fastopt.executors.cuda.sum_kernels import conclude, gradient_sums
    from fastopt.transforms.gradient_clip import gradient_clip

    programs = {
        f"{dtype}-{kind}": program
        for dtype in ("float32", "float64")
        for kind in ("one", "many")
        for program in gradient_sums(dtype, dtype == "float64", cc).programs(kind)
    }
    for capturable in False, True:
        how = KernelVariant(capturable=capturable), True, "float32", cc
        programs[f"conclude-{capturable}"] = conclude(gradient_clip(skips=True, wide=False), *how)
    for name, program in programs.items():
        code = program.ptx(cc)
        assert not re.search(r"\bfma\.", code), name  # the CPU's bits
        assert ".local" not in code, name
        assert_no_spills(assembled(code, cc, tmp_path)[0])
        if not name.startswith("conclude"):
            stretches = re.split(r"\b(?:add\.rn\.f64|bra|bar)\b", code)
            assert max(stretch.count("ld.global") for stretch in stretches) >= 8, "loads wait"


def own_program(chain):
    from fastopt.executors.cuda.kernel_source import KernelVariant
    from fastopt.executors.cuda.kernels import kernels

    opt = fastopt.Optimizer(np.zeros(1, np.float32), chain, executor="reference")
    return kernels(parameters_of(opt).job(0, "float32", False), KernelVariant(), (9, 0)).program("wide")


def test_constants_do_not_widen():
    """Literals and constants from elsewhere, as on the CPU."""

    def mixed(update, param, state, hyper):
        return 0.5 * update + CONSTANT * param, ()

    assert ".f64" not in own_program(fastopt.transforms.Transform(mixed)).ptx((9, 0))

    def widens(update, param, state, hyper):
        return (1 - param) * update, ()

    with pytest.raises(TypeError, match="'widens' turns float32 into float64"):
        own_program(fastopt.transforms.Transform(widens))


CONSTANT = 0.125


@every_architecture
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("dithered", [False, True])
def test_16_bits(dtype, dithered, cc, tmp_path):
    from fastopt.executors.cuda.kernel_source import KernelVariant
    from fastopt.executors.cuda.kernels import kernels

    w = np.zeros(1, floats(dtype).dtype)
    opt = fastopt.Adam(w, executor="reference", stochastic_rounding=dithered)
    compiled = kernels(parameters_of(opt).job(0, dtype, False), KernelVariant(), ARCHITECTURES[0])
    code = compiled.program("wide").ptx(cc)
    assert ".f64" not in code
    wide = r"ld\.global\.(nc\.)?(v4\.[a-z]+16|v2\.[a-z]+32|[bu]64)"
    assert len(re.findall(wide, code)) >= 3
    assert len(re.findall(wide.replace("ld", "st"), code)) >= 2
    assert_no_spills(assembled(code, cc, tmp_path)[0])


BLOCKS = {  # with the most registers that any kernel of any architecture takes
    "RMSProp": (fastopt.RMSProp, {}, 58),
    "RMSProp-everything": (fastopt.RMSProp, {"centered": True, "momentum": 0.9}, 80),
    "Adam": (fastopt.Adam, {}, 64),
    "AdamW": (fastopt.AdamW, {}, 64),
}


@functools.cache
def kernels_of_blocks(name, dithered, dtype="float32", cc=ARCHITECTURES[0], **how):
    from fastopt.executors.cuda.kernel_source import KernelVariant
    from fastopt.executors.cuda.kernels import kernels

    kind, settings, _ = BLOCKS[name]
    how |= {"state_dtype": "8bit", "stochastic_rounding": dithered, "executor": "reference"}
    opt = kind(np.zeros(4096, floats(dtype).dtype), **settings, **how)
    return kernels(parameters_of(opt).job(0, dtype, False), KernelVariant(), cc)


@pytest.mark.parametrize(
    ("kernel", "dithered", "cc"),
    [
        *(("wide", dithered, cc) for dithered in (False, True) for cc in ARCHITECTURES),
        *((kernel, True, (9, 0)) for kernel in ("scalar", "many")),
    ],
)
@pytest.mark.parametrize("name", BLOCKS)
def test_states_in_blocks(name, kernel, dithered, cc, tmp_path):
    """Eight elements of a thread stay in registers, and a warp finds its largest by shuffles."""
    compiled = kernels_of_blocks(name, dithered)
    code = compiled.program(kernel).ptx(cc)
    assert not re.search(r"\.f64|\.local|\bcall\b|\.shared|\bbar\.", code)
    assert not re.search(r"\b(div|rem)\.[su](32|64)", code)
    states = len(compiled.names.blocked)
    ways = 1 if kernel == "scalar" else 2  # whole blocks, and the last one
    # Only codes with a sign are decoded by fused sums, which are exact.
    signed = sum(array.storage.codec == "signed8" for array in compiled._job.arrays)
    assert code.count("fma.") == 8 * signed * ways
    # For the largest, and for the largest finite where some are not.
    assert code.count("shfl.sync.bfly") == 5 * 2 * states * ways
    if kernel != "scalar":
        assert accesses("ld.global.v4", code) >= 4
        assert accesses("st.global.v4", code) == 2
        # Of four bytes: scales, and four codes at once, twice. In the last block, where codes move one
        # by one, also eight parameters and gradients, and the random bits of eight elements.
        words = [len(re.findall(rf"\b{kind}\.global\.[fbu]32", code)) for kind in ("ld", "st")]
        # In a table there is the number of blocks too.
        assert words[0] == 4 * states + 16 + 8 * states * dithered + (kernel == "many")
        # Codes of whole blocks in each of two branches, scales in one or in each.
        assert 5 * states + 10 <= words[1] <= 7 * states + 8
    report, _ = assembled(code, cc, tmp_path)
    assert_no_spills(report)
    assert registers(report) <= BLOCKS[name][2]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize(("name", "most"), [("RMSProp", 1.6), ("Adam", 2.45)])
def test_machine_instructions_of_blocks(name, most, dtype, tmp_path):
    """Those of a warp for an element; 0.63 are the root and the quotient, rounded right."""
    code = kernels_of_blocks(name, None, dtype, (9, 0)).program("wide").ptx((9, 0))
    _, listing = assembled(code, (9, 0), tmp_path)
    if listing is None:
        pytest.skip("nvdisasm is not there")
    assert cuda_paths.shortest(listing) / BLOCK <= most


def test_bfloat16_is_converted_by_an_instruction():
    """Where there is one: before 8.0 by arithmetic."""
    counts = {cc: ptx_of_bfloat16(cc).count("cvt.rn.bf16.f32") for cc in ((7, 5), (8, 0), (9, 0))}
    assert counts == {(7, 5): 0, (8, 0): 8 + 8, (9, 0): 8 + 8}  # whole blocks, and the last one


def ptx_of_bfloat16(cc):
    return kernels_of_blocks("RMSProp", None, "bfloat16", cc).program("wide").ptx(cc)


@pytest.mark.parametrize(
    ("name", "dtype", "bits", "most"),
    [
        ("RMSProp", "bfloat16", 24, 56),
        ("AdamW", "bfloat16", 24, 64),
        ("Adam", "bfloat16", 24, 64),
        ("Adam", "float16", 32, 64),
    ],
)
def test_split_parameters(name, dtype, bits, most, tmp_path):
    """Four numbers are loaded by one instruction, and their corrections too."""
    code = kernels_of_blocks(name, None, dtype, master_bits=bits).program("wide").ptx((9, 0))
    assert not re.search(r"\.f64|\.local|\bcall\b", code)
    wide = len(re.findall(r"ld\.global\.(nc\.)?([bu]64|v4\.[bu]16|v2\.[bu]32)", code))
    assert wide == (6 if bits == 32 else 4)  # twice the parameters, gradients and these corrections
    report, _ = assembled(code, (9, 0), tmp_path)
    assert_no_spills(report)
    assert registers(report) <= most


def summing(count, **how):
    """The kernels of RMSProp with so many sums that the step adds up."""
    from fastopt.executors.cuda.kernel_source import KernelVariant
    from fastopt.executors.cuda.kernels import kernels

    def scaled(update, param, state, hyper):
        return hyper[0] * update, state

    sums = {str(k): [lambda u, p, s, h: u * u, lambda u, p, s, h: u * p][k] for k in range(count)}
    how |= {"sums_after": sums, "from_sums": lambda hyper, sums, carried: (hyper, carried)}
    parts = fastopt.Transform(scaled, hyper=(1.0,), **how) if count else fastopt.transforms.scale(1.0)
    t = fastopt.transforms
    chain = fastopt.chain(parts, t.scale_by_rms(), t.scale_by_learning_rate(0.1))
    opt = fastopt.Optimizer(np.zeros(4096, np.float32), chain, executor="reference")
    return kernels(parameters_of(opt).job(0, "float32", False), KernelVariant(), ARCHITECTURES[0])


@every_architecture
def test_sums_of_the_pass(cc, tmp_path):
    """Terms are float64, all else stays float32: roots and quotients are no more than without sums."""
    for kernel, most in ("wide", 56), ("many", 64), ("scalar", 56):
        code = summing(2).program(kernel).ptx(cc)
        assert "call" not in code
        assert ".local" not in code
        assert not re.search(r"\bfma\.|\b(div|rem)\.[su](32|64)", code)
        assert not re.search(r"(sqrt|div)\.rn\.f64", code)
        # Of each sum five numbers of two words are exchanged, and threads meet once.
        assert code.count("shfl.sync.bfly") == 2 * 5 * 2
        assert len(re.findall(r"\bbar\.", code)) == 1
        if kernel != "scalar":
            assert accesses("ld.global.v4", code) == 3
            assert accesses("st.global.v4", code) == 2
        report, _ = assembled(code, cc, tmp_path)
        assert_no_spills(report)
        assert registers(report) <= most
    assert ".f64" not in summing(0).program("wide").ptx(cc)


@every_architecture
def test_what_adds_up_the_pass(cc, tmp_path):
    from fastopt.executors.cuda import pass_kernels

    for program in pass_kernels.fold(8, 2, cc), pass_kernels.fold(4, 20, cc), pass_kernels.total(cc):
        code = program.ptx(cc)
        assert not re.search(r"\bfma\.|\.local", code)
        assert_no_spills(assembled(code, cc, tmp_path)[0])
