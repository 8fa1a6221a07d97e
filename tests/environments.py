"""Checks in environments of their own: the wheel, the newest Python, the oldest dependencies.

`make wheel`, `make newest` and `make oldest` run this with the Pythons to look for, newest first, and
behind `--` with the options of pytest. Each environment is kept in `build/` and made again when what it
should have installed is another.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from email import message_from_bytes
from pathlib import Path
from zipfile import ZipFile

from tests.oldest import PYPROJECT, pins, project

ROOT = PYPROJECT.parent
BUILD, DIST = ROOT / "build", ROOT / "dist"
VERSION = "import sys; print('%d.%d' % sys.version_info[:2])"


def version_of(python: str | Path) -> str | None:
    """Which Python this command starts; None where it starts none, as pyenv's stand-ins do."""
    asked = subprocess.run([python, "-c", VERSION], capture_output=True, text=True, check=False)
    return asked.stdout.strip() if asked.returncode == 0 else None


def find(python: str, home: Path | None = None) -> str | None:
    """Where a Python such as python3.13 is: in PATH, or where pyenv and uv keep theirs."""
    home = home or Path.home()
    kept = [
        *home.glob(f".pyenv/versions/*/bin/{python}"),
        *home.glob(f".local/share/uv/python/*/bin/{python}"),
    ]
    for candidate in filter(None, [shutil.which(python), *map(str, sorted(kept, reverse=True))]):
        if version_of(candidate) == python.removeprefix("python"):
            return candidate
    return None


def newest(pythons: list[str], running: str) -> tuple[str | None, str]:
    """The newest Python found, or None and why there is nothing to do."""
    for name in pythons:
        if name == f"python{running}":
            return None, f"every other target ran under the newest Python found here, {running}"
        if python := find(name):
            return python, ""
    return None, f"none of {', '.join(pythons)} is found here"


def oldest(requires_python: str) -> tuple[str | None, str]:
    """The oldest Python allowed, or None and why there is nothing to do."""
    name = "python" + requires_python.removeprefix(">=")
    if python := find(name):
        return python, ""
    return None, f"the oldest dependencies have wheels for {name}, which is not found here"


def wheel() -> Path:
    """The wheel that `make wheel` built."""
    (wheel,) = DIST.glob("*.whl")
    return wheel


def run(folder: Path, *command: str, cwd: Path = ROOT) -> None:
    """A command of an environment; its failure ends everything."""
    cache = str(folder / "cache")
    variables = {"FASTOPT_CACHE_DIR": cache, "NUMBA_CACHE_DIR": cache}
    program = folder / "bin" / command[0]
    finished = subprocess.run([program, *command[1:]], cwd=cwd, env=os.environ | variables, check=False)
    if finished.returncode != 0:
        sys.exit(f"{folder.name}: {' '.join(command)} ended with status {finished.returncode}")


def prepare(folder: Path, python: str, extra: str, constraints: list[str]) -> None:
    """Make the environment, or keep it if it is the same, and install the wheel."""
    stamp = folder / "installed.txt"
    wanted = "\n".join([str(version_of(python)), extra, *constraints, PYPROJECT.read_text("utf-8")])
    pip = ("python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    if not stamp.exists() or stamp.read_text("utf-8") != wanted:
        subprocess.run([python, "-m", "venv", "--clear", folder], check=True)
        (folder / "constraints.txt").write_text("\n".join(constraints), "utf-8")
        run(folder, *pip, "-c", str(folder / "constraints.txt"), f"{wheel()}[{extra}]")
        stamp.write_text(wanted, "utf-8")
    run(folder, *pip, "--no-deps", "--force-reinstall", str(wheel()))


def smoke_test(folder: Path) -> None:
    """Use what is installed, far from the sources."""
    with tempfile.TemporaryDirectory() as elsewhere:
        where = "import fastopt, sys; assert fastopt.__file__.startswith(sys.prefix), fastopt.__file__"
        run(folder, "python", "-c", where, cwd=Path(elsewhere))
        run(folder, "fastopt", "info", cwd=Path(elsewhere))
        run(folder, "fastopt", "demo", "--elements", "1e6", "--epochs", "3", cwd=Path(elsewhere))


def check_metadata() -> None:
    """What an index would show: nothing that leads into a clone, every Python and the hints' marker."""
    with ZipFile(wheel()) as archive:
        names = archive.namelist()
        (path,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        metadata = message_from_bytes(archive.read(path))
    assert "fastopt/py.typed" in names
    assert {name.split("/")[0] for name in names} == {"fastopt", path.split("/")[0]}
    text = metadata.get_payload()
    for relative in ("](docs/", "](examples", "](CHANGELOG.md", '="docs/'):
        assert relative not in text, f"README in the metadata has the relative link {relative!r}"
    assert metadata.get_all("Classifier") == project()["classifiers"]


def main(name: str, pythons: list[str], options: list[str]) -> None:
    """Run the check of this name, or say why not."""
    folder, constraints = BUILD / name, []
    python: str | None = sys.executable
    if name == "newest":
        python, reason = newest(pythons, str(version_of(sys.executable)))
    if name == "oldest":
        python, reason = oldest(project()["requires-python"])
        constraints = pins("test")
    if python is None:
        print(f"skipped: {reason}")
        return
    if name == "wheel":
        shutil.rmtree(DIST, ignore_errors=True)
        for command in (["build"], ["twine", "check", "--strict"]):
            files = map(str, DIST.glob("*"))
            subprocess.run([sys.executable, "-m", *command, *files], cwd=ROOT, check=True)
        check_metadata()
        shutil.rmtree(folder, ignore_errors=True)
        prepare(folder, python, "demo", constraints)
    else:
        print(f"Python {version_of(python)}", *constraints)
        prepare(folder, python, "test", constraints)
        shutil.rmtree(folder / "cache", ignore_errors=True)
        run(folder, "python", "-m", "mypy", "--cache-dir", str(folder / "mypy"))
        run(folder, "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", *options)
    smoke_test(folder)


if __name__ == "__main__":
    arguments, _, behind = " ".join(sys.argv[2:]).partition("--")
    main(sys.argv[1], arguments.split(), behind.split())
