"""Steps on the toy device are steps in memory, bit for bit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastopt
from fastopt.arrays import tree
from fastopt.codecs.base import BLOCK
from fastopt.executors.norm import LOCAL
from fastopt.steps.stepper import stepper_of
from tests import cases
from tests.examples.toy_place import ToyArray, download, upload
from tests.refusals import refusal
from tests.support import assert_same_bits, problem

SIZE = 40


def on_host(structure: Any) -> list[np.ndarray]:
    return [
        download(leaf) if isinstance(leaf, ToyArray) else leaf for _, leaf in tree.leaves(structure)
    ]


def assert_same(toy: fastopt.Optimizer, memory: fastopt.Optimizer) -> None:
    assert toy.step_count == memory.step_count
    assert str(toy.last) == str(memory.last)  # NaN is not equal to itself
    pairs = [(toy.params, memory.params), *((toy.state[n], memory.state[n]) for n in memory.state)]
    for one, other in pairs:
        for actual, expected in zip(on_host(one), on_host(other), strict=True):
            assert_same_bits(actual, expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@cases.every_case([case for case in cases.CASES if not hasattr(case, "arrays")])
def test_same_bits(case: Any, dtype: type) -> None:
    w, grads = problem(SIZE, dtype)
    options = {"executor": "reference"}
    memory = case.make(w.copy(), **options)
    toy = case.make(upload(w))
    for g in grads:
        toy.step(upload(g), grad_scale=2.0)
        memory.step(g.copy(), grad_scale=2.0)
    assert_same(toy, memory)


MAKERS: dict[str, Callable[[Any], fastopt.Optimizer]] = {
    "clip": lambda w: fastopt.Adam(w, clip_norm=0.5),
    "skip": lambda w: fastopt.NAdam(w, skip_nonfinite=True),
    "clear": lambda w: fastopt.SGD(w, momentum=0.9, zero_grad=True),
    "8 bits": lambda w: fastopt.Adam(w, state_dtype="8bit"),
    "schedule": lambda w: fastopt.RMSProp(w, lr=fastopt.schedules.exponential(0.1, 0.5)),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_several_arrays_some_without_a_gradient(make: Callable[[Any], fastopt.Optimizer]) -> None:
    pairs = [problem(shape, np.float32, steps=4) for shape in ((3, 5), 4096, ())]
    toy = make([upload(w) for w, _ in pairs])
    memory = make([w.copy() for w, _ in pairs])
    for step in range(4):
        grads = [None if step == at else g[step] for at, (_, g) in enumerate(pairs)]
        if step == 3 and toy.skip_nonfinite:
            grads[0] = np.full((3, 5), np.nan, np.float32)
        uploaded = [None if g is None else upload(g) for g in grads]
        toy.step(uploaded)
        memory.step(grads)
        for actual, expected in zip(uploaded, grads, strict=True):
            if actual is not None:
                assert_same_bits(download(actual), expected)
    assert_same(toy, memory)


def test_stretches_of_a_part() -> None:
    w, grads = problem(3 * BLOCK, np.float16)
    options: dict[str, Any] = {"stochastic_rounding": True}
    toy, memory = fastopt.Adam(upload(w), **options), fastopt.Adam(w.copy(), **options)
    toy_stepper, same = stepper_of(toy)(), stepper_of(memory)()
    for stepper in toy_stepper, same:
        stepper.take_part(7 * BLOCK, LOCAL)
    for g in grads:
        for stepper, grad in (toy_stepper, upload(g)), (same, g):
            stepper.begin(grad, 1.0)
            assert stepper.decide()
            stepper.run(BLOCK, 3 * BLOCK)
            stepper.run(0, BLOCK)
            stepper.end()
    assert_same(toy, memory)


def test_saved_loaded_and_copied(tmp_path: Path) -> None:
    w, grads = problem(SIZE, np.float32, steps=4)
    toy, memory = fastopt.Adam(upload(w)), fastopt.Adam(w.copy())
    for g in grads[:2]:
        toy.step(upload(g))
        memory.step(g)
    toy.save(tmp_path / "toy", params=True)
    loaded, copied = fastopt.Adam(upload(w)), copy.deepcopy(toy)
    loaded.load(tmp_path / "toy")
    for g in grads[2:]:
        memory.step(g)
        for opt in loaded, copied:
            opt.step(upload(g))
    assert_same(loaded, memory)
    assert_same(copied, memory)


def test_refusals_change_nothing() -> None:
    w, (g, *_) = problem(SIZE, np.float32)
    param = upload(w)
    toy = fastopt.SGD(param, momentum=0.9)
    wrong: list[tuple[Any, type[Exception], list[str]]] = [
        (g, ValueError, ["grads", "in memory"]),
        (upload(g[1:]), ValueError, ["grads", "shape"]),
        (upload(g.astype(np.float64)), TypeError, ["grads", "dtype"]),
        (param, ValueError, ["grads", "share memory"]),
        ("no array", TypeError, ["grads"]),
    ]
    for grads, error, words in wrong:
        with refusal(error, words):
            toy.step(grads)
    with refusal(ValueError, ["stream"]):
        toy.step(upload(g), stream=1)
    assert_same_bits(download(param), w)
    assert toy.step_count == 0
    for options in {"sparse": "lazy"}, {"capturable": True}, {"executor": "serial"}:
        with refusal(ValueError, list(options)):
            fastopt.SGD(upload(w), **options)
    with refusal(ValueError, ["params[1]", "toy"]):
        fastopt.SGD([w, upload(w)])
    with refusal(ValueError, ["advance"]):
        toy.advance()
