"""What pyproject.toml, the Makefile and the pages promise of Pythons, versions and links."""

import os
import re
import shutil
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from tests import environments, oldest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
PYTHONS = re.search(r"^PYTHONS := (.*)$", MAKEFILE, re.MULTILINE)[1].split()


def test_pins_are_the_lower_bounds(monkeypatch):
    extras = {
        "a": ["numba-cuda[cu13]>=0.30.0", "pytest", "fastopt[b,c]", "torch==2.0; x < '3'"],
        "b": ["z.z-z>=1"],
        "c": ["tqdm", "fastopt[b]"],
        "d": ["keras>=3"],
    }
    declared = {"dependencies": ["numpy>=1.26.0"], "optional-dependencies": extras}
    monkeypatch.setattr(oldest, "project", lambda: declared)
    assert oldest.pins("a") == ["numba-cuda==0.30.0", "numpy==1.26.0", "z.z-z==1"]


def test_every_dependency_has_a_bound():
    names = {pin.partition("==")[0] for pin in oldest.pins("test")}
    assert {"numba", "numpy", "scipy", "ml_dtypes"} <= names
    assert all(">=" in wanted for wanted in oldest.project()["dependencies"])


def test_pythons():
    """Those declared are those that the Makefile looks for, newest first."""
    numbers = [int(python.removeprefix("python3.")) for python in PYTHONS]
    assert numbers == sorted(numbers, reverse=True)
    declared = [
        line.rpartition(" ")[2]
        for line in oldest.project()["classifiers"]
        if line.startswith("Programming Language :: Python :: 3.")
    ]
    assert declared == sorted(declared)
    assert {f"python{version}" for version in declared} <= set(PYTHONS)
    assert (
        oldest.project()["requires-python"] == f">={declared[0]}" == PYTHONS[-1].replace("python", ">=")
    )


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_all_tests_of_devices_are_run_on_the_emulated_gpu():
    """A file that is in no list of the Makefile would be skipped everywhere."""
    targets = "cuda-emulated", "torch-emulated", "mpi-emulated"
    command = ["make", "--dry-run", "--always-make", *targets]
    # Not what the make that runs these tests tells those that it starts.
    variables = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    how = {"cwd": ROOT, "env": variables, "capture_output": True, "text": True, "check": True}
    commands = subprocess.run(command, **how).stdout
    marks = "needs_driver", "needs_torch_on_cuda", "needs_emulator"
    files = [
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests").rglob("test_*.py")
        if path != Path(__file__) and any(mark in path.read_text("utf-8") for mark in marks)
    ]
    assert len(files) > 15
    assert not [file for file in files if file not in commands]


def test_files_are_short():
    """No file of Python is above the 400 lines that CONTRIBUTING.md promises."""
    folders = "bench", "examples", "fastopt", "tests"
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    lines = {str(path.relative_to(ROOT)): path.read_text("utf-8").count("\n") for path in files}
    assert len(lines) > 500
    assert {name: count for name, count in lines.items() if count > 400} == {}


def test_pages_say_the_oldest():
    page = (ROOT / "docs" / "start.md").read_text("utf-8")
    for pin in oldest.pins("test"):
        name, _, version = pin.partition("==")
        if name in ("numba", "numpy", "scipy"):
            assert re.search(rf"{name} {re.escape(version)}\b", page, re.IGNORECASE), pin


@pytest.fixture
def pythons(tmp_path, monkeypatch):
    """A machine with these Pythons in PATH and in a home folder."""

    def make(path=(), home=(), broken=()):
        folder = tmp_path / "bin"
        for name, version, status in [
            *((folder / f"python{v}", v, 0) for v in path),
            *((tmp_path / ".pyenv/versions" / v / "bin" / f"python{v}", v, 0) for v in home),
            *((folder / f"python{v}", v, 1) for v in broken),
        ]:
            name.parent.mkdir(parents=True, exist_ok=True)
            name.write_text(f"#!/bin/sh\necho {version}\nexit {status}\n")
            name.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:/bin:/usr/bin")
        monkeypatch.setattr(Path, "home", lambda: tmp_path)
        monkeypatch.setattr(environments.shutil, "which", lambda name: _which(folder, name))

    return make


def _which(folder, name):
    return str(folder / name) if (folder / name).exists() else None


def test_newest_python(pythons, tmp_path):
    pythons(path=["3.11", "3.12"], home=["3.13"], broken=["3.13"])
    python, _ = environments.newest(PYTHONS, "3.11")
    assert python == str(tmp_path / ".pyenv/versions/3.13/bin/python3.13")
    python, reason = environments.newest(PYTHONS, "3.13")
    assert python is None
    assert "3.13" in reason


def test_no_other_python(pythons):
    pythons(path=["3.12"])
    assert environments.newest(PYTHONS, "3.12")[0] is None
    python, reason = environments.oldest(">=3.11")
    assert python is None
    assert reason == "the oldest dependencies have wheels for python3.11, which is not found here"


@pytest.fixture
def build(monkeypatch):
    """`hatch_build.py`, which hatchling alone imports."""
    interface = ModuleType("hatchling.metadata.plugin.interface")
    interface.MetadataHookInterface = object
    monkeypatch.setitem(sys.modules, interface.__name__, interface)
    spec = spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def metadata(build, repository):
    data = {}
    config = {"repository": repository}
    build.Hook.update(SimpleNamespace(config=config, root=str(ROOT)), data)
    return data["readme"]["text"], data["urls"]


LINK = re.compile(r"\]\(([^)]+)\)|\bsrc(?:set)?=\"([^\"]+)\"")


def test_links_in_the_metadata_are_absolute(build):
    text, urls = metadata(build, "https://example.org/a/fastopt/")
    links = [one or other for one, other in LINK.findall(text)]
    assert len(links) == len(LINK.findall(README)) > 25
    assert all(link.startswith("https://") for link in links)
    address = "https://example.org/a/fastopt"
    assert f"{address}/blob/HEAD/docs/options.md" in links
    assert f"{address}/raw/HEAD/docs/figures/readme-dark.svg" in links
    for link in [*links, *urls.values()]:
        if link.startswith((f"{address}/blob", f"{address}/raw")):
            path = link.split("/HEAD/")[1].partition("#")[0]
            assert (ROOT / path).exists(), path


def test_without_a_repository_nothing_leads_nowhere(build):
    text, urls = metadata(build, "")
    assert urls == {}
    assert all(one.startswith("https://") for one, _ in LINK.findall(text))
    assert "<picture" not in text
    for title in ("Start", "Sparse gradients", "all benchmarks"):
        assert title in text
