"""fastopt's own code is part of the identity of kernels: every file of it that reaches machine code."""

from __future__ import annotations

import ast
import compileall
import functools
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

import fastopt
from fastopt.kernels import identity
from fastopt.kernels.identity import digest_of, of_module, package
from tests.subprocesses import COUNT_PASSES, needs_jit, run, script
from tests.support import interpreted_suite_only

ROOT = Path(fastopt.__file__).parent
SOURCES = {path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for path in ROOT.rglob("*.py")}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The package in a folder of its own."""
    ignore = shutil.ignore_patterns("__pycache__")
    return Path(shutil.copytree(ROOT, tmp_path / "copy" / "fastopt", ignore=ignore))


def imported(file: str) -> set[str]:
    """The files of fastopt that a file imports anything from."""
    files = set()
    for node in ast.walk(ast.parse(SOURCES[file])):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        paths = [name.replace(".", "/").removeprefix("fastopt/") for name in names]
        files |= {f"{path}.py" for path in paths} | {f"{path}/__init__.py" for path in paths}
    return files & SOURCES.keys()


@functools.cache
def reaching() -> set[str]:
    """What a file that compiles imports, directly or not, and these files."""
    words = "@helper", "@intrinsic", "@emits(", "compile_function(", "_CFuncCompiler", "ccallback"
    words += "device.intrinsic", "device.helper", "compile_kernel("
    files = {file for file, text in SOURCES.items() if any(word in text for word in words)}
    files = {file for file in files if not file.startswith("interop/")}
    while further := {new for file in files for new in imported(file)} - files:
        files |= further
    return files


# What is imported for what the content of functions and the source of the loop say.
OTHERWISE = "transforms/"


@interpreted_suite_only
def test_what_reaches_machine_code_changes_the_key(copy: Path) -> None:
    previous, reaches = digest_of(copy), reaching()
    assert {"codecs/rounding.py", "codecs/blocks.py", "executors/cpu/columns.py"} < reaches
    assert previous == package()
    for file in SOURCES:
        text = SOURCES[file]
        (copy / file).write_text(f"{text}\n_EDITED = 1\n", "utf-8")
        # The package's own file has the version.
        if file == "__init__.py" or (file in reaches and not file.startswith(OTHERWISE)):
            assert digest_of(copy) != previous, f"{file} reaches machine code"
        (copy / file).write_text(text, "utf-8")
    assert digest_of(copy) == previous


@interpreted_suite_only
@pytest.mark.parametrize(
    "file",
    ["cli.py", "system.py", "optimizers/named.py", "minimization/loop.py", "interop/scipy.py"],
)
def test_what_does_not_reach_it_changes_no_key(copy: Path, file: str) -> None:
    assert file not in reaching()
    (copy / file).write_text(SOURCES[file] + "\n_EDITED = 1\n", "utf-8")
    assert digest_of(copy) == package()


@interpreted_suite_only
def test_functions_of_a_module_that_the_key_leaves_out(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that look at tensors: their key has the files beside it."""
    module = "fastopt.interop.torch.tensor_check_code"
    places = SimpleNamespace(files=lambda name: copy.joinpath(*name.split(".")[1:]))
    monkeypatch.setattr(identity, "resources", places)
    keys = {package(), of_module.__wrapped__(module)}
    for file in "interop/torch/tensor_check_code.py", "interop/torch/tensor_check.py":
        (copy / file).write_text(SOURCES[file] + "\n_EDITED = 1\n", "utf-8")
        keys.add(of_module.__wrapped__(module))
    assert len(keys) == 4
    assert of_module("fastopt.executors.cpu.driver_code") == package()


@interpreted_suite_only
def test_a_file_that_moves_or_is_new_changes_the_key(copy: Path) -> None:
    keys = {digest_of(copy)}
    (copy / "kernels/more.py").write_text("")
    keys.add(digest_of(copy))
    (copy / "kernels/more.py").rename(copy / "codecs/more.py")
    keys.add(digest_of(copy))
    (copy / "newer").mkdir()
    (copy / "codecs/more.py").rename(copy / "newer/more.py")
    keys.add(digest_of(copy))
    assert len(keys) == 4


def zipped(copy: Path) -> Path:
    shutil.make_archive(str(copy.parent / "archive"), "zip", copy.parent, "fastopt")
    return copy.parent / "archive.zip"


def as_bytecode(copy: Path) -> Path:
    compileall.compile_dir(copy, quiet=1, legacy=True)
    for source in copy.rglob("*.py"):
        source.unlink()
    return copy.parent


def as_source(copy: Path) -> Path:
    return copy.parent


@interpreted_suite_only
def test_zips_and_bytecode_have_content(copy: Path) -> None:
    bytecode = Path(shutil.copytree(copy, copy.parents[1] / "bytecode" / "fastopt"))
    as_bytecode(bytecode)
    with zipfile.ZipFile(zipped(copy)) as archive:
        assert digest_of(zipfile.Path(archive, "fastopt/")) == package()
    assert digest_of(bytecode) not in (None, package())
    changed = bytecode / "codecs/rounding.pyc"
    previous = digest_of(bytecode)
    changed.write_bytes(changed.read_bytes() + b" ")
    assert digest_of(bytecode) not in (None, previous)


@interpreted_suite_only
def test_nothing_has_no_content(copy: Path) -> None:
    """Where modules cannot be listed or read: an empty folder, one without this module, none at all."""
    assert digest_of(copy / "demo") is None
    assert digest_of(copy / "nowhere") is None
    (copy / "kernels/identity.py").unlink()
    assert digest_of(copy) is None


STEP = script(
    COUNT_PASSES,
    """
import numpy as np, fastopt
w = np.zeros(2, np.float32)
opt = fastopt.Optimizer(w, fastopt.transforms.scale_by_learning_rate(0.5), executor="serial")
opt.step(np.ones(2, np.float32))
assert fastopt.__file__.startswith(PLACE)
print(float(w[1]), compiled())
""",
)


def step(place: Path, cache: Path) -> str:
    code = f"PLACE = {str(place)!r}\n{STEP}"
    return run(code, cache, cwd=cache.parent, PYTHONPATH=str(place), PYTHONDONTWRITEBYTECODE="1")


@needs_jit
@pytest.mark.parametrize("install", [as_source, as_bytecode, zipped])
def test_however_it_is_installed_the_package_finds_its_code_again(
    copy: Path, tmp_path: Path, install: Callable[[Path], Path]
) -> None:
    place = install(copy)
    assert step(place, tmp_path / "cache") == "-0.5 True"
    assert step(place, tmp_path / "cache") == "-0.5 False"
    if install is as_source:  # the test above shows that the others change their keys
        body = copy / "kernels/chain_source.py"
        body.write_text(body.read_text("utf-8").replace("new = param - update", "new = param + update"))
        assert step(place, tmp_path / "cache") == "0.5 True"


@needs_jit
def test_code_that_cannot_be_read_is_not_kept(tmp_path: Path) -> None:
    code = """
    from importlib import resources
    from pathlib import Path
    files = resources.files
    resources.files = lambda package: Path("nowhere") if package == "fastopt" else files(package)
    PLACE = ""
    """
    code = script(code, STEP)
    assert run(code, tmp_path / "cache") == run(code, tmp_path / "cache") == "-0.5 True"
    assert not (tmp_path / "cache").exists()


@needs_jit
def test_random_bits_are_those_of_the_codecs(copy: Path, tmp_path: Path) -> None:
    """A constant of another folder than the compiler's, on a warm cache: the reference's bits."""
    code = """
    import numpy as np, fastopt
    def steps(executor):
        w = np.ones(300, np.float16)
        opt = fastopt.SGD(w, lr=1e-4, stochastic_rounding=True, executor=executor)
        opt.step(np.ones(300, np.float16))
        return w.tobytes()
    assert steps("serial") == steps("reference")
    print(hash(steps("reference")))
    """

    def bits() -> str:
        variables = {"PYTHONPATH": str(copy.parent), "PYTHONHASHSEED": "0"}
        variables["PYTHONDONTWRITEBYTECODE"] = "1"
        return run(script(code), tmp_path / "cache", cwd=tmp_path, **variables)

    previous = bits()
    rounding = copy / "codecs/rounding.py"
    rounding.write_text(rounding.read_text("utf-8").replace("(bits, 13)", "(bits, 12)"))
    assert bits() != previous
