"""One cache and several users, and users whose system gives them no good place for one."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.subprocesses import COUNT_PASSES, needs_jit, run, script

pytestmark = [
    needs_jit,
    pytest.mark.skipif(os.name != "posix", reason="owners and modes are POSIX's"),
]
needs_root = pytest.mark.skipif(
    os.name != "posix" or os.geteuid() != 0, reason="only root can become another user"
)

NOBODY, STRANGER = 65534, 54321  # the second has no entry in the table of users

# What the user `USER_ID` compiles, the least there is, and what was warned of.
STEP = script(
    COUNT_PASSES,
    """
import os, warnings
import numba, numpy as np, fastopt
fastopt.global_norm
if "USER_ID" in os.environ:
    numba.njit(lambda x: 0.5 * x)(1.0)  # imports the rest, from where the other user may not read it
    _passes.buffer.clear()
    os.setgid(int(os.environ["USER_ID"]))
    os.setuid(int(os.environ["USER_ID"]))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    norm = fastopt.global_norm(np.ones(4, np.float32))
print(norm, compiled(), *[str(one.message) for one in caught if one.category is RuntimeWarning])
""",
)
COMPILED, LOADED = "2.0 True", "2.0 False"

# The same as a user sees it.
OPTIMIZER = script(
    COUNT_PASSES,
    """
import os
import numba, numpy as np, fastopt
if "USER_ID" in os.environ:
    numba.njit(lambda x: 0.5 * x)(1.0)
    _passes.buffer.clear()
    os.setgid(int(os.environ["USER_ID"]))
    os.setuid(int(os.environ["USER_ID"]))
w = np.zeros(1, np.float32)
fastopt.SGD(w, lr=0.5, executor="serial").step(np.ones(1, np.float32))
print(w[0], compiled())
""",
)

# What another user may not read is imported before the step.
IMPORTS = """
from fastopt.cli import main
from fastopt.executors import threads
from fastopt.executors.cuda import availability
availability.describe(), threads.layer()
"""


def step_and_info(code: str, cache: Path | str, **variables: str) -> tuple[str, dict[str, str]]:
    """What a step prints, and then what `fastopt info` does, in the same process."""
    output = run(f"{IMPORTS}\n{code}\nmain(['info'])", cache, **variables)
    first, *lines = output.splitlines()
    return first, {name: value for name, _, value in (line.partition("  ") for line in lines)}


@pytest.fixture(scope="module")
def by_root() -> Iterator[Path]:
    """A cache that root has filled, for instance while making an image."""
    with tempfile.TemporaryDirectory() as private:  # folders that pytest makes are private
        Path(private).chmod(0o755)
        assert run(STEP, Path(private) / "by_root") == COMPILED
        assert run(OPTIMIZER, Path(private) / "by_root") == "-0.5 True"
        yield Path(private) / "by_root"


@needs_root
def test_a_cache_that_root_filled_serves_all(by_root: Path) -> None:
    previous = {path: path.stat().st_mtime_ns for path in by_root.rglob("*")}
    assert run(OPTIMIZER, by_root, USER_ID=str(NOBODY)) == "-0.5 False"
    assert {path: path.stat().st_mtime_ns for path in by_root.rglob("*")} == previous


@needs_root
def test_a_cache_that_another_user_filled_is_ignored_with_one_warning(by_root: Path) -> None:
    folder = by_root.with_name("of_another")
    shutil.copytree(by_root, folder)
    for path in (folder, *folder.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    assert run(STEP, folder, USER_ID=str(NOBODY)) == LOADED
    reason = f"it belongs to another user (uid {NOBODY})"
    for variables in {}, {"USER_ID": str(STRANGER)}:
        output, info = step_and_info(STEP, folder, **variables)
        assert output.startswith(f"{COMPILED} fastopt does not use the compiled code in ")
        assert output.count(reason) == 1
        assert info["cache"].strip() == f"NOT used, because {reason}"


@needs_root
def test_a_sticky_folder_for_all(by_root: Path) -> None:
    """The first attack that was seen: what another user put there ran as root."""
    folder = by_root.with_name("sticky")
    shutil.copytree(by_root, folder)
    (folder / "fastopt").chmod(0o1777)
    assert run(STEP, folder, USER_ID=str(NOBODY)) == LOADED
    for path in (folder / "fastopt").iterdir():
        os.chown(path, NOBODY, NOBODY)
    assert run(STEP, folder).startswith(f"{COMPILED} fastopt does not use")
    assert run(STEP, folder) == LOADED  # root may replace what others left


@needs_root
@pytest.mark.parametrize(
    ("home", "shown"),
    [
        ("", "none: this user has no home folder"),
        ("/nowhere/at/all", "0 kernels, 0.0 MB, NOT writable"),
    ],
)
def test_a_user_without_a_home(home: str, shown: str) -> None:
    variables = {"XDG_CACHE_HOME": "", "HOME": home, "USER_ID": str(STRANGER)}
    unset = "" if home else "import os; del os.environ['HOME']\n"
    output, info = step_and_info(unset + STEP, "", **variables)
    assert output == COMPILED
    assert any(shown in value for value in info.values()), info


@needs_root
def test_a_folder_without_permission_to_search(by_root: Path) -> None:
    folder = by_root.with_name("closed")
    shutil.copytree(by_root, folder)
    for closed, mode in ((folder / "fastopt", 0o644), (folder, 0o600)):
        closed.chmod(mode)
        output, info = step_and_info(STEP, folder, USER_ID=str(NOBODY))
        assert output == COMPILED
        assert "NOT usable: Permission denied" in info["cache"]


def test_a_path_that_is_too_long(tmp_path: Path) -> None:
    for folder in (tmp_path / ("n" * 300), Path(str(tmp_path) + "/long" * 1000)):
        output, info = step_and_info(STEP, folder)
        assert output == COMPILED
        assert "NOT usable: File name too long" in info["cache"]


# A path with a byte that is no UTF-8, as file systems of Latin-1 have them.
LATIN = os.fsdecode(b"caf\xe9")
MODULE = """
def halved_update(update, param, state, hyper):
    return 0.5 * update, state

def d\N{LATIN SMALL LETTER E WITH ACUTE}croissance_update(update, param, state, hyper):
    return 0.5 * update, state
"""
USE_MODULE = script(
    COUNT_PASSES,
    """
import os, sys
sys.path.insert(0, os.environ["FOLDER"])
sys.dont_write_bytecode = True
import numpy as np, fastopt, halves
w, g = np.zeros(1, np.float32), np.ones(1, np.float32)
for name in sorted(name for name in dir(halves) if name.endswith("_update")):
    fastopt.Optimizer(w, fastopt.Transform(getattr(halves, name)), executor="serial").step(g)
print(w[0], compiled())
""",
)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not take such names")
def test_paths_that_are_no_unicode(tmp_path: Path) -> None:
    folder = tmp_path / LATIN
    folder.mkdir()
    (folder / "halves.py").write_text(MODULE, "utf-8")
    assert run(USE_MODULE, folder / "cache", FOLDER=str(folder)) == "-1.0 True"
    output, shown = step_and_info(USE_MODULE, folder / "cache", FOLDER=str(folder))
    assert output == "-1.0 False"
    assert shown["cache folder"].endswith("caf\\xe9/cache/fastopt")
    assert "3 kernels" in shown["cache"]


@pytest.mark.skipif(sys.platform != "linux", reason="how the C locale is coerced is Linux's here")
def test_a_terminal_and_files_of_ascii(tmp_path: Path) -> None:
    (tmp_path / "halves.py").write_text(MODULE, "utf-8")
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    assert run(USE_MODULE, tmp_path / "cache", FOLDER=str(tmp_path), **ascii_only) == "-1.0 True"
    assert run(USE_MODULE, tmp_path / "cache", FOLDER=str(tmp_path), **ascii_only) == "-1.0 False"
