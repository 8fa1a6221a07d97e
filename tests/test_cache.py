"""The cache on disk: found again in a new process, never stale, never in the way."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.subprocesses import COUNT_PASSES, finish, needs_jit, run, script, start

pytestmark = needs_jit

STEP = script(
    COUNT_PASSES,
    """
import numpy as np, fastopt
w = np.array([5.0], np.float32)
opt = fastopt.RMSProp(w, lr=0.1)
opt.step(2 * w)
print(round(float(w[0]), 4), compiled())
""",
)
COMPILED, LOADED = "4.6838 True", "4.6838 False"

# The least that is compiled, into one file.
NORM = script(
    COUNT_PASSES,
    """
import numpy as np, fastopt
print(fastopt.global_norm(np.ones(4, np.float32)), compiled())
""",
)

# A transform of the user's own. Every run takes one step from 0 with a gradient of 1.
MINE = """
import constants, helpers
from helpers import blend

FACTOR = 0.5

def averaged_update(update, param, state, hyper):
    (average,) = state
    average = blend(average, update)
    return FACTOR * average + 0.25 + constants.SHIFT + helpers.shift(0.0), (average,)
"""
HELPERS = """
SHARE = 0.5

def blend(old, new, more=0.0):
    return old + SHARE * new + more

def shift(x):
    return x + 0.0
"""
CONSTANTS = "SHIFT = 0.0\n"
RUN_MINE = script(
    COUNT_PASSES,
    """
import sys
sys.path.insert(0, ".")
sys.dont_write_bytecode = True
import numpy as np, fastopt, mine
w = np.zeros(2, np.float32)
opt = fastopt.Optimizer(w, fastopt.Transform(mine.averaged_update, state={"average": 0.0}))
opt.step(np.ones(2, np.float32))
print(float(w[1]), compiled())
""",
)


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that holds RMSProp and the driver; to be copied, not written to."""
    folder = tmp_path_factory.mktemp("cache")
    assert run(STEP, folder) == COMPILED
    return folder


@pytest.fixture(scope="module")
def project(warm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The user's files, and a cache that holds their transform."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(warm, folder / "cache")
    for name, text in ("mine.py", MINE), ("helpers.py", HELPERS), ("constants.py", CONSTANTS):
        (folder / name).write_text(text)
    assert run(RUN_MINE, folder / "cache", cwd=folder) == "-0.5 True"
    return folder


@pytest.fixture
def cache(warm: Path, tmp_path: Path) -> Path:
    """A warm cache of the test's own."""
    return Path(shutil.copytree(warm, tmp_path / "cache"))


def files(folder: Path) -> dict[str, int]:
    """What is in a folder: names and times of the last change."""
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def test_second_process_compiles_nothing(cache: Path) -> None:
    previous = files(cache)
    assert len(previous) == 2  # the kernel and the driver
    assert run(STEP, cache) == LOADED
    assert files(cache) == previous


def test_own_transform_is_found_again(project: Path) -> None:
    known = files(project / "cache")
    assert run(RUN_MINE, project / "cache", cwd=project) == "-0.5 False"
    assert files(project / "cache") == known


@pytest.mark.parametrize(
    ("file", "old", "new", "result"),
    [
        ("mine.py", "0.25", "0.75", -1.0),
        ("mine.py", "FACTOR = 0.5", "FACTOR = 1.5", -1.0),
        ("helpers.py", "SHARE = 0.5", "SHARE = 1.5", -1.0),
        ("helpers.py", "old + SHARE", "old - SHARE", 0.0),
        ("helpers.py", "more=0.0", "more=1.0", -1.0),
        ("helpers.py", "x + 0.0", "x + 2.0", -2.5),
        ("constants.py", "SHIFT = 0.0", "SHIFT = 4.0", -4.5),
    ],
    ids=[
        "formula",
        "global",
        "helper's global",
        "helper",
        "default",
        "by module",
        "constant",
    ],
)
def test_own_transform_misses_after_an_edit(
    project: Path, tmp_path: Path, file: str, old: str, new: str, result: float
) -> None:
    cache = shutil.copytree(project / "cache", tmp_path / "cache")
    known = files(cache)
    text = (project / file).read_text()
    assert text.count(old) == 1
    try:
        (project / file).write_text(text.replace(old, new))
        assert run(RUN_MINE, cache, cwd=project) == f"{result} True"
    finally:
        (project / file).write_text(text)
    assert files(cache).keys() == known.keys()


def test_edits_do_not_fill_the_disk(cache: Path) -> None:
    """Twelve versions of a formula leave as much as nine."""
    code = """
    import os, numpy as np, fastopt
    from pathlib import Path

    def size(versions):
        for i in versions:
            exec(f"def f(update, param, state, hyper): return {i}.0 * update, state", scope := {})
            fastopt.Optimizer(np.zeros(1), fastopt.Transform(scope["f"]), executor="serial")
        files = list(Path(os.environ["FASTOPT_CACHE_DIR"]).rglob("*.*"))
        return len(files), sum(file.stat().st_size for file in files)

    print(*size(range(9)), *size(range(9, 12)))
    """
    files_of_9, bytes_of_9, files_of_12, bytes_of_12 = map(int, run(script(code), cache).split())
    assert files_of_12 == files_of_9
    assert bytes_of_12 < 1.1 * bytes_of_9  # a kernel is a few bytes longer or shorter than another


def test_variants_of_one_function_do_not_displace_each_other(cache: Path) -> None:
    code = script(
        COUNT_PASSES,
        """
import numpy as np, fastopt

def offset(amount):
    def offset_update(update, param, state, hyper):
        return update + amount, state
    return fastopt.Transform(offset_update)

w, g = np.zeros(1, np.float32), np.zeros(1, np.float32)
for amount in 1.0, 2.0, 3.0:
    fastopt.Optimizer(w, offset(amount)).step(g)
fastopt.RMSProp(w, eps_inside_sqrt=False)
fastopt.RMSProp(w)
print(w[0], compiled())
""",
    )
    assert run(code, cache) == "-6.0 True"
    assert run(code, cache) == "-6.0 False"


def test_cache_can_be_turned_off(tmp_path: Path) -> None:
    assert run(NORM, tmp_path, FASTOPT_CACHE="0") == "2.0 True"
    assert files(tmp_path) == {}


def test_numba_s_folder_is_used_where_there_is_no_own(tmp_path: Path) -> None:
    code = "from fastopt.kernels.disk_cache import folder; print(folder())"
    assert run(code, "", NUMBA_CACHE_DIR=str(tmp_path)) == str(tmp_path / "fastopt")
    assert run(code, tmp_path / "own", NUMBA_CACHE_DIR=str(tmp_path)) == str(tmp_path / "own/fastopt")


@pytest.mark.parametrize("where", ["below a file", "/proc/fastopt"])
def test_unwritable_folder_is_no_error(tmp_path: Path, where: str) -> None:
    (tmp_path / "below a file").write_text("")
    assert run(NORM, tmp_path / where) == "2.0 True"  # an absolute path stays as it is


def damage_truncate(content: bytes) -> bytes:
    return content[: len(content) // 2]


def damage_flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def damage_replace(content: bytes) -> bytes:
    return b"(cnot.a.module\nname\n" * 100


@pytest.mark.parametrize("damage", [damage_truncate, damage_flip, damage_replace])
def test_damaged_file_is_replaced(cache: Path, damage: Callable[[bytes], bytes]) -> None:
    (kernel,) = cache.rglob("rms*.bin")
    kernel.write_bytes(damage(kernel.read_bytes()))
    assert run(STEP, cache) == COMPILED
    assert run(STEP, cache) == LOADED


def test_transform_without_a_source_file_is_cached(cache: Path) -> None:
    code = script(
        COUNT_PASSES,
        '''
import numpy as np, fastopt

def typed(update, param, state, hyper):
    return 0.5 * update, state

exec("""
def executed(update, param, state, hyper):
    return 4.0 * update, state
""")
w = np.zeros(1, np.float32)
for function in typed, executed:
    fastopt.Optimizer(w, fastopt.Transform(function)).step(np.ones(1, np.float32))
print(w[0], compiled())
''',
    )
    assert run(code, cache) == "-4.5 True"
    known = files(cache)
    assert run(code, cache) == "-4.5 False"
    assert run(code.replace("0.5", "1.5"), cache) == "-5.5 True"
    assert files(cache).keys() == known.keys()


def test_processes_that_start_at_once(tmp_path: Path) -> None:
    """On a cold cache both compile, both save, and what is there at the end is whole."""
    both = [start(STEP, tmp_path), start(STEP, tmp_path)]
    assert {finish(process) for process in both} <= {COMPILED, LOADED}
    assert run(STEP, tmp_path) == LOADED
    assert len(files(tmp_path)) == 2


def test_code_of_several_processes_meets(tmp_path: Path) -> None:
    """Numba names code by a count of the process: two drivers of the norm had one name."""
    norm = "print(fastopt.global_norm(np.full(9, 2.0, np.{})))\n"
    head = "import numpy as np, fastopt\n"
    formats = "float16", "float32", "float64"
    for name in formats:
        assert run(head + norm.format(name), tmp_path) == "6.0"
    assert run(head + "".join(map(norm.format, formats)), tmp_path).split() == ["6.0"] * 3
