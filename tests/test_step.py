"""A step checks its gradients, by their headers or in Python, before anything is written."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

import fastopt
from fastopt.arrays import object_layout
from fastopt.steps import memory_stepper
from fastopt.steps.stepper import stepper_of
from tests.subprocesses import needs_jit

EXECUTORS = ["serial", "parallel"]


def test_headers_are_readable_here() -> None:
    """Steps are only quick where they are: a new layout should be noticed."""
    assert object_layout.headers_are_readable()


@pytest.mark.parametrize("count", [1, 5, 1000])
def test_items_of_a_list_are_found(count: int) -> None:
    objects: list[Any] = []
    for number in range(count):  # lists move when they grow
        objects.append(np.zeros(number % 3))
    objects[: count // 3] = [None] * (count // 3)
    ids = (ctypes.c_ssize_t * count).from_address(object_layout.items_of(objects))
    assert list(ids) == [id(item) for item in objects]


BAD: dict[str, tuple[Any, type[Exception]]] = {
    "list": ([1.0] * 6, TypeError),
    "dtype": (np.ones((2, 3)), TypeError),
    "integers": (np.ones((2, 3), np.int32), TypeError),
    "length": (np.ones(5, np.float32), ValueError),
    "shape": (np.ones((3, 2), np.float32), ValueError),
    "dimensions": (np.ones(6, np.float32), ValueError),
    "order": (np.asfortranarray(np.ones((2, 3), np.float32)), ValueError),
    "strides": (np.ones((2, 6), np.float32)[:, ::2], ValueError),
    "alignment": (np.ones(25, np.int8)[1:].view(np.float32).reshape(2, 3), ValueError),
    "byte order": (np.ones((2, 3), ">f4" if np.little_endian else "<f4"), ValueError),
    "mask": (np.ma.masked_array(np.ones((2, 3), np.float32), mask=True), TypeError),
}


@pytest.fixture(params=[True, False], ids=["by header", "in Python"])
def by_header(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """With the check in machine code, and as on a Python whose arrays are laid out otherwise."""
    if not request.param:
        monkeypatch.setattr(memory_stepper, "headers_are_readable", lambda: False)
    return bool(request.param)


@needs_jit
@pytest.mark.parametrize("executor", EXECUTORS)
def test_steps_are_the_same_with_and_without_headers(by_header: bool, executor: str) -> None:
    rng = np.random.default_rng(0)
    params = [rng.standard_normal(shape, np.float32) for shape in ((), (5,), (3, 4), (0, 2))]
    grads = [rng.standard_normal(p.shape, np.float32) for p in params]
    expected = [p.copy() for p in params]
    opt = fastopt.RMSProp(params, lr=0.1, executor=executor)
    reference = fastopt.RMSProp(expected, lr=0.1, executor="reference")
    assert stepper_of(opt)().by_header is by_header
    for _ in range(3):
        opt.step(grads)
        reference.step(grads)
    for p, e in zip(params, expected, strict=True):
        assert p.tobytes() == e.tobytes()
    assert opt.step_count == 3


@needs_jit
@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize(("bad", "error"), BAD.values(), ids=BAD)
def test_bad_gradients_are_refused(
    by_header: bool, executor: str, bad: Any, error: type[Exception]
) -> None:
    """By the same errors, before anything is written: not even the array in front of the bad one."""
    good = np.ones((2, 3), np.float32)
    params = [np.full((2, 3), 5.0, np.float32) for _ in range(2)]
    opt = fastopt.RMSProp(params, executor=executor)
    alone = fastopt.RMSProp(params[0], executor="reference")
    with pytest.raises(error) as expected:
        alone.step(bad)
    with pytest.raises(error) as got:
        opt.step([good, bad])
    assert str(got.value).replace("grads[1]", "grads") == str(expected.value)
    assert all((p == 5.0).all() for p in params)
    assert all((v == 0.0).all() for v in opt.state["square_avg"])
    assert opt.step_count == 0
    opt.step([good, good])
    assert opt.step_count == 1
    assert params[0].tobytes() == params[1].tobytes() != np.full((2, 3), 5.0, np.float32).tobytes()


@needs_jit
@pytest.mark.parametrize("executor", EXECUTORS)
def test_overlap_is_refused(by_header: bool, executor: str) -> None:
    memory = np.zeros(24, np.float32)
    w, v = memory[4:8], memory[12:16]
    opt = fastopt.RMSProp(w, state={"square_avg": v}, executor=executor)
    for start in range(21):
        overlaps = any(first - 4 < start < first + 4 for first in (4, 12))
        if overlaps:
            with pytest.raises(ValueError, match="must not share memory"):
                opt.step(memory[start : start + 4])
        else:
            opt.step(memory[start : start + 4])
    assert not memory.any()


@needs_jit
def test_a_gradient_of_a_subclass_is_checked_again(by_header: bool) -> None:
    """The header check knows plain arrays only; Python lets through what is one in substance."""

    class Named(np.ndarray):
        pass

    w, expected, g = np.zeros(6), np.zeros(6), np.ones(6)
    opt = fastopt.RMSProp(w, lr=0.1)
    opt.step(g.view(Named))
    fastopt.RMSProp(expected, lr=0.1, executor="reference").step(g)
    assert w.tobytes() == expected.tobytes()
    assert opt.step_count == 1
