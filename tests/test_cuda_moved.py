"""The caller's arrays on a device must stay where they were: what moved is refused, before a step."""

import numpy as np
import pytest

import fastopt
from fastopt.arrays import placement
from fastopt.steps.stepper import stepper_of
from tests.device import needs_driver, to_device, to_host
from tests.refusals import refusal
from tests.test_cuda_gradients import KINDS, Wrapped, _libraries  # noqa: F401  # a fixture

pytestmark = [needs_driver, pytest.mark.usefixtures("_libraries")]

N = 8
every_kind = pytest.mark.parametrize("kind", ["interface", "cupy", "torch"])


def on_device(kind, numbers, dtype=np.float32):
    return KINDS[kind](to_device(np.full(N, numbers, dtype)))


def move(array, to):
    """Give an array the memory of another, as ``tensor.data = other`` does."""
    vars(array).update(vars(to))


def steps_begun(monkeypatch, opt):
    """Grows with each step that is not taken by one call of machine code."""
    kind, begun = type(stepper_of(opt)()), []
    begin = kind.begin
    monkeypatch.setattr(kind, "begin", lambda *arguments: (begun.append(1), begin(*arguments)))
    return begun


def optimizer(kind):
    """An optimizer all of whose arrays are the caller's, by name."""
    numbers = {"params": 1.0, "state['square_avg']": 0.0, "copy_to": 0.0}
    arrays = {name: on_device(kind, number) for name, number in numbers.items()}
    params, square_avg, copied = arrays.values()
    return fastopt.RMSProp(params, lr=0.1, state={"square_avg": square_avg}, copy_to=copied), arrays


@every_kind
@pytest.mark.parametrize("known", [False, True], ids=["anew", "known"])
@pytest.mark.parametrize("name", ["params", "state['square_avg']", "copy_to"])
def test_what_moved_is_refused(kind, known, name, monkeypatch):
    """Also if the gradients are those of the step before, which one call of machine code takes."""
    opt, arrays = optimizer(kind)
    g = to_device(np.ones(N, np.float32)) if known else on_device(kind, 1.0)
    begun = steps_begun(monkeypatch, opt)
    for _ in range(3):
        opt.step(g)
    assert len(begun) == (1 if known else 3)
    here = {key: to_host(array.array).copy() for key, array in arrays.items()}
    old = vars(arrays[name]).copy()
    move(arrays[name], on_device(kind, 5.0))
    for action in (lambda: opt.step(g), opt.state_dict):
        with refusal(ValueError, [name, "must keep its memory", "moved", "in place", "new optimizer"]):
            action()
    assert opt.step_count == 3
    assert to_host(arrays[name].array).tolist() == [5.0] * N
    vars(arrays[name]).update(old)  # where it was
    for key, array in arrays.items():
        np.testing.assert_array_equal(to_host(array.array), here[key])
    opt.step(g)
    assert opt.step_count == 4


@every_kind
@pytest.mark.parametrize(
    ("words", "other"),
    [
        (["params", "must keep the shape (8,) that it had", "(4,)"], lambda a: a[: N // 2]),
        (["params", "must keep the dtype float32 that it had", "int32"], lambda a: a.view(np.int32)),
    ],
)
def test_what_has_another_form_is_refused(kind, words, other):
    opt, arrays = optimizer(kind)
    g = on_device(kind, 1.0)
    opt.step(g)
    move(arrays["params"], KINDS[kind](other(arrays["params"].array)))
    with refusal(ValueError, words):
        opt.step(g)
    assert opt.step_count == 1


def test_what_is_said_besides_does_not_matter():
    """A stream in the interface is no memory."""
    w = on_device("interface", 1.0)
    opt = fastopt.SGD(w, lr=0.5)
    for changes in ({}, {"stream": 1}, {"stream": None}):
        w.changes = changes
        opt.step(to_device(np.ones(N, np.float32)))
    assert to_host(w.array).tolist() == [-0.5] * N


def test_one_of_many():
    params = {"a": on_device("torch", 1.0), "b": [on_device("interface", 1.0), on_device("cupy", 1.0)]}
    opt = fastopt.SGD(params, lr=0.5)
    grads = {"a": on_device("torch", 1.0), "b": [None, None]}
    opt.step(grads)
    move(params["b"][1], on_device("cupy", 5.0))
    with refusal(ValueError, ["params['b'][1]", "must keep its memory"]):
        opt.step(grads)
    assert isinstance(params["b"][0], Wrapped)
    assert to_host(params["a"].array).tolist() == [0.5] * N


def test_memory_that_was_freed():
    """As that of a tensor is whose storage was resized to nothing."""
    w = on_device("torch", 1.0)
    opt = fastopt.SGD(w, lr=0.5)
    w.data.ptr = 0
    w.changes = {"data": (0, False)}
    with refusal(ValueError, ["params", "must keep its memory"]):
        opt.step(to_device(np.ones(N, np.float32)))


@every_kind
def test_a_part_of_an_array(kind, monkeypatch):
    """As the ranks of an MPI job step."""
    w, g = on_device(kind, 1.0), to_device(np.ones(3, np.float32))
    opt = fastopt.SGD(placement.part(placement.enter("w", w), slice(2, 5)), lr=0.5)
    begun = steps_begun(monkeypatch, opt)
    for _ in range(3):
        opt.step(g)
    assert len(begun) == 1
    assert to_host(w.array).tolist() == [1.0, 1.0, -0.5, -0.5, -0.5, 1.0, 1.0, 1.0]
    move(w, on_device(kind, 5.0))
    with refusal(ValueError, ["params", "must keep its memory"]):
        opt.step(g)
