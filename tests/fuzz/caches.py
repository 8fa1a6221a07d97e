"""Damaged files in the cache of compiled code: loaded right or compiled anew, and never an error."""

import functools
import shutil
import tempfile
from pathlib import Path
from random import Random
from typing import Any

from tests import subprocesses
from tests.fuzz import numbers

DAMAGES = ("flip", "flip", "truncate", "empty", "short", "swap", "old", "folder", "garbage")

# A step whose result tells wrong code from right; a warning would be printed, and is an error.
STEP = """
import hashlib, numpy as np, fastopt
w = np.linspace(-1, 1, 1000, dtype=np.float32)
opt = fastopt.RMSProp([w, w.copy()], lr=0.1, clip_norm=1.0, momentum=0.5)
for scale in (1.0, -2.0, 0.5):
    opt.step([np.float32(scale) * w, w.copy()])
print(hashlib.sha256(w).hexdigest())
"""


def draw(seed: int) -> dict[str, Any]:
    """Which kind of damage, to how many files."""
    rng = numbers.choose(seed, "caches")
    return {"caches": rng.choice(DAMAGES), "files": rng.choice([1, 1, 2, 20]), "seed": seed}


@functools.cache
def filled() -> tuple[tempfile.TemporaryDirectory[str], str]:
    """A folder with the code of `STEP`, and what it prints."""
    folder = tempfile.TemporaryDirectory(prefix="fastopt-fuzz-")
    return folder, subprocesses.run(STEP, folder.name)


def try_case(case: dict[str, Any]) -> None:
    """Damage a copy of the folder, and run the step twice: the second time with what the first left."""
    rng = numbers.choose(case["seed"], "damage")
    good, expected = filled()
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "cache"
        shutil.copytree(good.name, folder)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        assert files, "nothing was cached"
        for path in rng.sample(files, min(case["files"], len(files))):
            damage(rng, case["caches"], path, rng.choice(files))
        # What is in the place of a file and is none is left there, and fastopt says so.
        warnings = {"PYTHONWARNINGS": "ignore" if case["caches"] == "folder" else "default"}
        for when in ("with damaged files", "after that"):
            actual = subprocesses.run(STEP, folder, **warnings)
            assert actual == expected, f"{actual} for {expected} {when}"


def damage(rng: Random, how: str, path: Path, other: Path) -> None:
    """Change one file."""
    content = bytearray(path.read_bytes())
    if how == "flip":
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    elif how == "truncate":
        del content[rng.randrange(len(content)) :]
    elif how in ("empty", "short"):
        del content[0 if how == "empty" else 32 :]
    elif how == "swap":
        content = bytearray(other.read_bytes())
    elif how == "old":  # the checksum of another content
        content[:32] = other.read_bytes()[:32]
    elif how == "garbage":
        content = bytearray(rng.randbytes(1000))
    else:
        path.unlink()
        path.mkdir()
        return
    path.write_bytes(content)
