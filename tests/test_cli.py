"""The command line: what it prints, its exit status, and how it fails."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastopt
from fastopt import cli
from fastopt.demo import digits, memory, output, throughput
from tests.subprocesses import LIMIT

TINY = ["demo", "--elements", "1e3", "--rounds", "2", "--epochs", "2", "--hidden", "4"]
PNG = b"\x89PNG\r\n\x1a\n"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, as from a shell."""
    command = [sys.executable, "-m", "fastopt", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The message of arguments that are an error."""
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2
    return capsys.readouterr().err


def test_module_is_the_command() -> None:
    result = run("--version")
    assert result.returncode == 0
    assert result.stdout == f"fastopt {fastopt.__version__}\n"


def test_no_command_shows_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    shown = capsys.readouterr().out
    assert "info" in shown
    assert "demo" in shown


def test_info(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FASTOPT_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("FASTOPT_CACHE", raising=False)
    (tmp_path / "fastopt").mkdir()
    (tmp_path / "fastopt" / "one.bin").write_bytes(bytes(250_000))
    result = run("info")
    assert (result.returncode, result.stderr) == (0, "")
    lines = dict(re.split(r"  +", line, maxsplit=1) for line in result.stdout.splitlines())
    assert lines["fastopt"] == fastopt.__version__
    assert lines["NumPy"] == np.__version__
    assert int(lines["threads"]) >= 1
    assert 1 <= int(lines["cores"]) <= (os.cpu_count() or 1)
    assert lines["threading layer"] in ("omp", "tbb", "workqueue")
    assert lines["cache folder"] == str(tmp_path / "fastopt")
    assert lines["cache"] == "1 kernels, 0.2 MB, writable"


def test_info_without_cache(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FASTOPT_CACHE", "0")
    assert cli.main(["info"]) == 0
    assert "turned off by FASTOPT_CACHE=0" in capsys.readouterr().out


def test_info_says_that_the_cache_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()  # no folder can be made below a file, whoever tries
    monkeypatch.setenv("FASTOPT_CACHE_DIR", str(tmp_path / "file"))
    monkeypatch.delenv("FASTOPT_CACHE", raising=False)
    assert cli.main(["info"]) == 0
    assert "NOT writable" in capsys.readouterr().out


def test_demo() -> None:
    result = run(*TINY)
    assert (result.returncode, result.stderr) == (0, "")  # no progress bar where there is no terminal
    for rule in digits.RULES:
        assert re.search(rf"^{rule.name} +{rule.lr:g} +\d\.\d{{5}} ", result.stdout, re.MULTILINE)
    assert "1,000 float32" in result.stdout
    assert "give the same bits" in result.stdout
    assert len(re.findall(r"ms +\d+\.\d GB/s +\d+\.\d x$", result.stdout, re.MULTILINE)) >= 3
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_parts_and_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "curves.png"
    assert cli.main([*TINY, "--part", "digits", "--save", str(path)]) == 0
    shown = capsys.readouterr().out
    assert str(path) in shown
    assert "float32" not in shown
    assert path.read_bytes().startswith(PNG)
    assert cli.main([*TINY, "--part", "throughput"]) == 0
    assert "digits" not in capsys.readouterr().out


@pytest.mark.parametrize("part", ["digits", "throughput", "both"])
def test_missing_packages_are_named(
    part: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert cli.main([*TINY, "--part", part]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    wanted = "tqdm" if part == "throughput" else "scikit-learn tqdm"
    assert message.endswith(f"-m pip install {wanted}\n")


def test_missing_mpi4py_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    assert cli.main(["demo", "--mpi"]) == 2
    assert capsys.readouterr().err.endswith("-m pip install mpi4py\n")


def test_missing_matplotlib_matters_to_the_picture_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert cli.main([*TINY, "--save", str(tmp_path / "curves.png")]) == 2
    assert capsys.readouterr().err.endswith("-m pip install matplotlib\n")
    assert cli.main(TINY) == 0


def test_interrupt_is_quiet(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(throughput, "show", interrupted)
    assert cli.main([*TINY, "--part", "throughput"]) == 130
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--elements", "0"], "'0' is not a whole number"),
        (["--elements", "1.5"], "'1.5' is not a whole number"),
        (["--rounds", "many"], "'many' is not a whole number"),
        (["--epochs", "inf"], "'inf' is not a whole number"),
        (["--epochs", "nan"], "'nan' is not a whole number"),
        (["--seed", "-1"], "not a whole number from 0"),
        (["--seed", "4294967296"], "not a whole number from 0"),
        (["--save", "curves.jpg"], "does not end in .png"),
        (["--save", "no/such/folder/curves.png"], "there is no folder 'no/such/folder'"),
        (["--save", "curves.png", "--part", "throughput"], "leave out --part throughput"),
        (["--part", "all"], "invalid choice"),
        (["--mpi", "--part", "throughput"], "leave out --part and --save"),
        (["--mpi", "--save", "curves.png"], "leave out --part and --save"),
    ],
)
def test_bad_options(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in refused(["demo", *arguments], capsys)


def test_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert "invalid choice" in refused(["dance"], capsys)


def test_table_is_aligned() -> None:
    assert output.table(["a", "b"], [["long", "1"], ["", "22"]]) == "a       b\nlong    1\n       22"


def test_gradient_of_the_network() -> None:
    """Against finite differences, on images of 6 numbers."""
    rng = np.random.default_rng(3)
    images = rng.random((5, 6), np.float32)
    labels = np.array([0, 2, 1, 2, 0])
    network = digits.Network(6, 4, 3, seed=1)
    network.differentiate(images, labels)
    previous, small = network.params.copy(), 1e-2
    for i in range(network.params.size):
        losses = []
        for shift in (small, -small):
            network.params[:] = previous
            network.params[i] += shift
            losses.append(network.loss(images, labels))
        slope = (losses[0] - losses[1]) / (2 * small)
        assert network.grads[i] == pytest.approx(slope, abs=2e-3)


def test_training_is_reproducible_and_learns() -> None:
    data = digits.load(seed=5)
    rule = digits.RULES[-1]
    one, other = (digits.train(rule, data, hidden=4, epochs=2, seed=5) for _ in range(2))
    assert one == other
    assert one.losses[-1] < one.losses[0]
    assert len(one.losses) == len(one.accuracies) == 3


@pytest.mark.skipif(
    os.environ.get("NUMBA_DISABLE_JIT") == "1",
    reason="twenty million elements in plain Python: minutes",
)
@pytest.mark.parametrize("seed", [0, 1])
def test_digits_are_learnt(seed: int) -> None:
    data = digits.load(seed)
    for rule in digits.RULES:
        history = digits.train(rule, data, hidden=128, epochs=30, seed=seed)
        assert history.accuracies[-1] > digits.GOAL


def test_all_ways_to_step_are_the_same_bits() -> None:
    ends = []
    for make in (throughput.numpy_in_place, throughput.with_fastopt):
        w, g, v = throughput.buffers(100, seed=2)
        step = make(w, g, v)
        step()
        step()
        ends.append((w.tobytes(), v.tobytes()))
    assert ends[0] == ends[1]
    assert throughput.same_bits(seed=2, elements=100)


def test_a_difference_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "numpy_in_place", lambda w, g, v: lambda: w.fill(1))
    assert not throughput.same_bits(seed=2, elements=100)


def test_large_buffers_shrink_to_the_memory(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(memory, "available", lambda: 10_000)
    assert memory.affordable(250, 32) == 250
    assert memory.affordable(251, 32) == 200
    throughput.show(elements=1000, rounds=1, seed=0)
    assert "over 200 float32" in capsys.readouterr().out


def test_available_memory_respects_a_container(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    assert memory.available() > 1 << 20
    (tmp_path / "memory.max").write_text("3000\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert memory.available() == 2000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.available() > 1 << 20
