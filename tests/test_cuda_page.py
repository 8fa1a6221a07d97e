"""The code in the page on GPUs runs as it stands."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.device import SIMULATED, skip_without_device

skip_without_device()
if SIMULATED:
    pytest.skip("the simulator has no streams of its own", allow_module_level=True)

PAGE = Path(__file__).parent.parent / "docs" / "cuda.md"


def test_code_runs():
    text = PAGE.read_text("utf-8")
    blocks = re.findall(r"^```py\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert len(blocks) == text.count("```py\n") == 5
    scope = {"__name__": "reader"}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), scope)


def test_benchmarks_run(capsys):
    """With few elements: whether they work, and not how fast."""
    from bench import cuda

    assert cuda.main(["--elements", "1024", "--rounds", "2"]) == 0
    shown = capsys.readouterr().out
    measured = ["copy on the device", "fastopt", "fastopt, fast mode"]
    for name in [*measured, "torch", "CuPy, fused", "optax, jit"]:
        lines = [line for line in shown.splitlines() if line.startswith(name)]
        assert any(" us" in line or "did not run" in line for line in lines), name
    for name in measured:
        assert re.search(rf"^{name} +[\d.]+ ms \([\d.]+ to [\d.]+\) .* x$", shown, re.MULTILINE), name


def test_benchmarks_look_at_the_result():
    from bench import cuda

    cuda.check("fastopt", cuda.own(100, 2, fast=False))
    with pytest.raises(AssertionError, match=r"gives 2\.0 after one step"):
        cuda.check("another", cuda.Way(lambda i: None, lambda: 2.0))


def test_kernel_of_cupy():
    """Its formula, which C and Python write alike, where there is no CuPy to compile it."""
    from bench import cuda

    class ElementwiseKernel:
        def __init__(self, inputs, outputs, body, name):
            self.names = [own.split()[1] for own in f"{inputs}, {outputs}".split(", ")]
            self.body = body

        def __call__(self, *given):
            scope = dict(zip(self.names, given, strict=True))
            exec(self.body, {"sqrt": np.sqrt}, scope)
            for name, array in zip(self.names, given, strict=True):
                if isinstance(array, np.ndarray):
                    array[:] = scope[name]

    cupy = SimpleNamespace(ones=np.ones, zeros=np.zeros, ElementwiseKernel=ElementwiseKernel)
    way = cuda.cupy_kernel(cupy, 10, 2)
    cuda.check("CuPy", way)
    own = cuda.own(10, 2, fast=False)
    for i in (0, 0, 1, 0):
        own.step(i)
    for i in (1, 0, 0):
        way.step(i)
    assert way.first() == pytest.approx(own.first(), rel=1e-6)
