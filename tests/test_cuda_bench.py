"""The benchmarks for a GPU run, here with tiny buffers, and name what they leave out."""

from __future__ import annotations

import json
import sys
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from bench.cuda import cases, clock, peers, report
from bench.cuda.__main__ import main
from bench.cuda.problems import RMS
from tests.device import SIMULATED, skip_without_device

skip_without_device()
if SIMULATED:
    pytest.skip("CUDA: the simulator has no clock", allow_module_level=True)


def test_everything_is_measured_or_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cases, "FIRST", dict(list(cases.FIRST.items())[:1]))
    assert main(["--smoke", "--rounds", "2", "--seconds", "3000", "--results", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("*.json")
    printed, results = capsys.readouterr().out, json.loads(path.read_text())
    assert results["machine"]["gpu"] in printed
    assert {row["part"] for row in results["cases"]} == report.PARTS.keys()
    libraries = ("torch", "CuPy", "Triton", "optax", "bitsandbytes", "FlashOptim", "CUDA C")
    for library in ("fastopt", "copy", *libraries):
        assert library in printed
    for row in results["cases"]:
        assert row["peers"].keys().isdisjoint(row.get("missing", ()))
        assert row["peers"] or row["missing"]
        assert all(peer["seconds"]["median"] > 0 for peer in row["peers"].values())
    assert "RMSProp, 8-bit state" in report.text(results)


def test_kernel_of_cupy(monkeypatch):
    """Its formula, which C and Python write alike, where there is no CuPy to compile it."""

    class ElementwiseKernel:
        def __init__(self, inputs, outputs, body, name):
            self.names = [text.split()[1] for text in f"{inputs}, {outputs}".split(", ")]
            self.body = body

        def __call__(self, *arguments):
            scope = dict(zip(self.names, arguments, strict=True))
            exec(self.body, {"sqrt": np.sqrt}, scope)
            for name, array in zip(self.names, arguments, strict=True):
                if isinstance(array, np.ndarray):
                    array[:] = scope[name]

    cupy = SimpleNamespace(ones=np.ones, zeros=np.zeros, ElementwiseKernel=ElementwiseKernel)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    makers = {"fastopt": partial(peers.fastopt_buffer, RMS), "CuPy": peers.cupy_kernel}
    ways, missing = clock.prepare(makers, 10, 2, tolerance=1e-6)
    assert not missing
    for way in ways.values():
        for i in (1, 0, 0):
            way.step(i)
    assert ways["CuPy"].first() == pytest.approx(ways["fastopt"].first(), rel=1e-6)
