"""Damaged checkpoints: refused with nothing changed, or loaded as they were saved."""

import contextlib
import copy
import io
import json
import tempfile
import zipfile
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

import fastopt
from tests.fuzz import numbers
from tests.fuzz.compare import assert_same
from tests.fuzz.numbers import array

SHAPES = {"a": (5,), "b": (2, 3), "c": (5,), "d": ()}
DESCRIPTION = "fastopt.json"

RAW = ("flip", "flip", "truncate", "cut", "insert", "zeros", "empty", "twice")
MEMBERS = ("shorten", "lengthen", "dtype", "shape", "swap", "drop", "extra", "garbage", "json", "short")
WORDS = (None, -1, 1.5, "x", [], {}, True, 10**30, [[]], {"a": 1}, 2**63)


def draw(seed: int) -> dict[str, Any]:
    """What is saved, and how the file is damaged."""
    rng = numbers.choose(seed, "files")
    return {
        "files": rng.choice(["SGD", "RMSProp", "Adam"]),
        "steps": rng.randint(0, 3),
        "damage": rng.choice([*RAW, *MEMBERS]),
        "seed": seed,
    }


def optimizer(case: dict[str, Any], start: str) -> tuple[dict[str, np.ndarray], Any]:
    params = {name: array((start, name), shape, "float32") for name, shape in SHAPES.items()}
    settings = {"SGD": {"momentum": 0.9}, "RMSProp": {"centered": True}, "Adam": {"amsgrad": True}}
    kind = getattr(fastopt, case["files"])
    return params, kind(params, lr=0.1, executor="reference", **settings[case["files"]])


def step(opt: Any, name: Any) -> None:
    opt.step({key: array((name, key), shape, "float32") for key, shape in SHAPES.items()})


def content(opt: Any) -> tuple[Any, Any]:
    """All that a load may change, and no array twice."""
    description = copy.deepcopy(opt.state_dict())
    return description.pop("state"), {key: repr(description[key]) for key in sorted(description)}


def try_case(case: dict[str, Any]) -> None:
    """Save, damage, load."""
    rng = numbers.choose(case["seed"], "damage")
    params, saved = optimizer(case, "saved")
    for i in range(case["steps"]):
        step(saved, i)
    saved.lr = 0.25
    twin_params, twin = optimizer(case, "other")
    params, other = optimizer(case, "other")
    for opt in (twin, other):
        step(opt, "before")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "opt.npz"
        saved.save(path)
        path.write_bytes(damaged(rng, case["damage"], path.read_bytes()))
        previous = content(other)
        try:
            other.load(path)
        except (ValueError, TypeError, OSError):
            assert_same(list(content(other)), list(previous), "what a refused file changed")
        else:
            assert_same(list(content(other)), list(content(saved)), "what a damaged file loaded")
            twin.load_state_dict(saved.state_dict())
    step(other, "after")
    step(twin, "after")
    assert_same(params, twin_params, "a step later")


def damaged(rng: Random, how: str, whole: bytes) -> bytes:
    """The content of the file after the damage."""
    if how in MEMBERS:
        return with_members(rng, how, whole)
    first, last = sorted(rng.choices(range(len(whole)), k=2))
    if how == "flip":
        changed = bytearray(whole)
        for _ in range(rng.choice([1, 1, 2, 8])):
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        return bytes(changed)
    return {
        "truncate": whole[:first],
        "cut": whole[:first] + whole[min(last, first + 200) :],
        "insert": whole[:first] + rng.randbytes(rng.randint(1, 64)) + whole[first:],
        "zeros": whole[:first] + bytes(min(last - first, 200)) + whole[min(last, first + 200) :],
        "empty": b"",
        "twice": whole + whole,
    }[how]


def with_members(rng: Random, how: str, whole: bytes) -> bytes:
    """An archive in order, whose members are not."""
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice([name for name in members if name != DESCRIPTION])
    array = np.load(io.BytesIO(members[name]))
    if how == "shorten":
        members[name] = members[name][: -rng.randint(1, 3)] if array.size else members[name][:-1]
    elif how == "lengthen":
        members[name] += bytes(rng.choice([1, 4, 4096]))
    elif how == "dtype":
        members[name] = npy(array.astype(rng.choice(["f8", "f2", "i4", ">f4", "O"])))
    elif how == "shape":
        members[name] = npy(np.resize(array, rng.choice([(1,), (6,), (3, 2), (5, 1), (0,)])))
    elif how == "swap":
        kind = name.partition("/")[0]
        other = rng.choice([o for o in members if o.startswith(f"{kind}/") and o != name])
        if np.load(io.BytesIO(members[other])).shape != array.shape:
            members[name], members[other] = members[other], members[name]
        else:  # another order in the archive is no damage
            members = dict(list(members.items())[::-1])
    elif how == "drop":
        del members[rng.choice(list(members))]
    elif how == "extra":
        members[rng.choice(["another/0.npy", "../x.npy", name + ".npy"])] = npy(np.zeros(3))
    elif how == "garbage":
        members[rng.choice(list(members))] = rng.randbytes(rng.choice([0, 3, 32, 500]))
    elif how == "json":
        members[DESCRIPTION] = other_json(rng, members[DESCRIPTION])
    missing = rng.randint(1, 4) if how == "short" else 0
    if missing:
        members[name] = members[name][:-missing]
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for key, data in members.items():
            archive.writestr(key, data)
        if missing:
            archive.getinfo(name).file_size += missing  # as the directory has it
    return file.getvalue()


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def other_json(rng: Random, text: bytes) -> bytes:
    """The description with one entry, at whatever depth, missing or something else."""
    whole = json.loads(text)
    branch, key = whole, rng.choice(list(whole))
    while isinstance(branch[key], (dict, list)) and branch[key] and rng.random() < 0.7:
        branch = branch[key]
        key = rng.choice(list(branch)) if isinstance(branch, dict) else rng.randrange(len(branch))
    if rng.random() < 0.2:
        branch.pop(key)
    else:
        old, branch[key] = branch[key], rng.choice(WORDS)
        if repr(old) == repr(branch[key]) or isinstance(old, float):
            branch[key] = float("nan")  # another number would be as good
    with contextlib.suppress(ValueError):
        return json.dumps(whole).encode()
    return b"{"
