"""Compiled code uses only memory that was checked: headers that change after construction."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.sparse

import fastopt
from fastopt.steps.stepper import stepper_of
from tests.support import EXECUTORS

SIZE = 6


def resize_up(array: np.ndarray) -> None:
    array.resize(100_000, refcheck=False)


def resize_down(array: np.ndarray) -> None:
    array.resize(2, refcheck=False)


def reshape(array: np.ndarray) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        array.shape = (2, 3)


def retype(array: np.ndarray) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        array.dtype = np.dtype(np.int64)


def freeze(array: np.ndarray) -> None:
    array.flags.writeable = False


CHANGES = [resize_up, resize_down, reshape, retype, freeze]


class Case:
    """An optimizer whose every array is the caller's."""

    def __init__(self, executor: str, wrap: bool, **options: Any) -> None:
        names = "params", "low", "copy_to", "momentum_buffer", "average"
        self.arrays = {name: np.zeros(SIZE) for name in names}
        self.arrays["low"][:] = -100
        first = np.zeros(SIZE)
        arguments = {n: [first.copy(), a] if wrap else a for n, a in self.arrays.items()}
        self.grads: Any = [np.ones(SIZE), np.ones(SIZE)] if wrap else np.ones(SIZE)
        self.opt = fastopt.SGD(
            arguments["params"],
            lr=1.0,
            momentum=0.5,
            average_decay=0.5,
            bounds=(arguments["low"], None),
            copy_to=arguments["copy_to"],
            state={name: arguments[name] for name in ("momentum_buffer", "average")},
            executor=executor,
            **options,
        )
        self.first = [pair[0] for pair in arguments.values()] if wrap else []

    def content(self) -> list[bytes]:
        return [a.tobytes() for a in (*self.arrays.values(), *self.first)]


LABELS = {
    "params": r"params(\[1\])? must",
    "low": r"low(\[1\])? must",
    "copy_to": r"copy_to(\[1\])? must",
    "momentum_buffer": r"state\['momentum_buffer'\](\[1\])? must",
    "average": r"state\['average'\](\[1\])? must",
}


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("name", LABELS)
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("options", [{}, {"clip_norm": 1e9}, {"skip_nonfinite": True}], ids=str)
def test_an_array_that_was_replaced_is_not_written(
    executor: str, name: str, change: Callable[[np.ndarray], None], options: dict[str, Any]
) -> None:
    """The error names it, nothing is written: not even the array in front of it."""
    for wrap in False, True:
        for steps in 0, 2:
            case = Case(executor, wrap, **options)
            for _ in range(steps):
                case.opt.step(case.grads)
            change(case.arrays[name])
            previous = case.content()
            if name == "low" and change is freeze:  # it is only read
                case.opt.step(case.grads)
                assert case.opt.step_count == steps + 1
                continue
            for _ in range(2):
                with pytest.raises(ValueError, match=LABELS[name]):
                    case.opt.step(case.grads)
            assert case.content() == previous
            assert case.opt.step_count == steps


@pytest.mark.parametrize("executor", EXECUTORS)
def test_an_array_that_is_writeable_again_is_stepped(executor: str) -> None:
    case = Case(executor, False)
    case.opt.step(case.grads)
    case.arrays["params"].flags.writeable = False
    with pytest.raises(ValueError, match="params must be writeable"):
        case.opt.step(case.grads)
    case.arrays["params"].flags.writeable = True
    case.opt.step(case.grads)
    assert case.arrays["params"].tolist() == [-2.5] * SIZE


VIEWS: dict[str, Callable[[Any], Any]] = {
    "slice": lambda base: base[10:20],
    "buffer": lambda base: np.frombuffer(memoryview(base)[5:30])[5:15],
    "of a view": lambda base: np.asarray(memoryview(base[10:20])),
}


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_the_array_behind_a_view_may_not_be_resized(view: Callable[[Any], Any], executor: str) -> None:
    base = np.zeros(100)
    w = view(base)
    opt = fastopt.SGD(w, lr=1.0, executor=executor)
    opt.step(np.ones(10))
    base.resize(1_000_000, refcheck=False)
    with pytest.raises(ValueError, match="the array that params is a view of must keep its memory"):
        opt.step(np.ones(10))
    assert opt.step_count == 1


@pytest.mark.parametrize("executor", EXECUTORS)
def test_the_array_behind_a_view_may_have_another_shape(executor: str) -> None:
    base = np.zeros(100)
    opt = fastopt.SGD(base[10:20], lr=1.0, executor=executor)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        base.shape = (10, 10)
    opt.step(np.ones(10))
    assert base[1].tolist() == [-1.0] * 10


@pytest.mark.parametrize("executor", EXECUTORS)
def test_an_array_without_a_gradient_is_not_touched(executor: str) -> None:
    """It is not read either."""
    w, other = np.zeros(SIZE), np.zeros(SIZE)
    opt = fastopt.SGD([w, other], lr=1.0, executor=executor)
    other.flags.writeable = False
    opt.step([np.ones(SIZE), None])
    assert w.tolist() == [-1.0] * SIZE
    assert not other.any()
    with pytest.raises(ValueError, match=r"params\[1\] must be writeable"):
        opt.step([None, np.ones(SIZE)])


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("mode", ["exact", "lazy"])
@pytest.mark.parametrize("change", [resize_up, freeze])
def test_rows(executor: str, mode: str, change: Callable[[np.ndarray], None]) -> None:
    """Also where rows only catch up."""
    w = np.zeros((4, 2))
    opt = fastopt.SGD(w, lr=1.0, momentum=0.5, sparse=mode, executor=executor)
    batch = np.array([1]), np.ones((1, 2))
    opt.step(batch)
    change(w)
    previous = w.tobytes()
    calls: list[Callable[[], Any]] = [lambda: opt.step(batch), lambda: opt.step(np.ones((4, 2)))]
    if mode == "exact":
        calls += [opt.catch_up, lambda: opt.catch_up(np.array([0, 2])), lambda: opt.state]
        calls += [lambda: opt.params]
    for call in calls:
        with pytest.raises(ValueError, match="params must"):
            call()
    assert w.tobytes() == previous
    assert opt.step_count == 1


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("change", CHANGES)
def test_pieces(executor: str, change: Callable[[np.ndarray], None]) -> None:
    w = np.zeros(SIZE)
    pieces = stepper_of(fastopt.SGD(w, lr=1.0, executor=executor))()
    change(w)
    with pytest.raises(ValueError, match="params must"):
        pieces.begin(np.ones(SIZE), 1.0)


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("change", [reshape, retype, freeze])
def test_headers_of_states_that_fastopt_made_do_not_matter(
    executor: str, change: Callable[[np.ndarray], None]
) -> None:
    """What is shown of them is a view: the memory cannot be freed, the rest changes nothing."""
    w = np.zeros(SIZE)
    opt = fastopt.SGD(w, lr=1.0, momentum=0.5, executor=executor)
    opt.step(np.ones(SIZE))
    shown = opt.state["momentum_buffer"]
    with pytest.raises(ValueError, match="resize"):
        shown.resize(100_000, refcheck=False)
    shown[0] = 3.0  # but written to they can be
    change(shown)
    opt.step(np.ones(SIZE))
    assert w.tolist() == [-3.5] + [-2.5] * (SIZE - 1)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_schedule_that_resizes_is_noticed(executor: str) -> None:
    """Code of the caller's runs before the look, not between it and the step."""
    for name in "lr", "clip_norm":
        w = np.zeros(SIZE)

        def schedule(step: int, w: np.ndarray = w) -> float:
            if step == 1:
                w.resize(100_000, refcheck=False)
            return 1.0

        opt = fastopt.SGD(w, **{"lr": 1.0, name: schedule}, executor=executor)
        opt.step(np.ones(SIZE))
        with pytest.raises(ValueError, match="params must keep the shape"):
            opt.step(np.ones(SIZE))
        assert opt.step_count == 1


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_mapping_that_resizes_is_noticed(executor: str) -> None:
    w = np.zeros(SIZE)

    class Grads(dict[str, Any]):
        def __getitem__(self, key: str) -> Any:
            w.resize(100_000, refcheck=False)
            return super().__getitem__(key)

    opt = fastopt.SGD({"a": w}, lr=1.0, executor=executor)
    with pytest.raises(ValueError, match=r"params\['a'\] must keep the shape"):
        opt.step(Grads(a=np.ones(SIZE)))


class Overwritten(np.ndarray):
    """Numbers that another thread changes as soon as they were looked at."""

    def max(self, *args: Any, **kwargs: Any) -> Any:
        largest = super().max(*args, **kwargs)
        self.view(np.ndarray)[...] = 1 << 40
        return largest


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("form", ["pair", "unordered pair", "entries"])
def test_indices_that_change_after_their_check(form: str, executor: str) -> None:
    rows = np.array([1, 3, 3] if form == "unordered pair" else [1, 3])
    changed: Any = rows.view(Overwritten), np.ones((rows.size, 2))
    steady: Any = rows.copy(), np.ones((rows.size, 2))
    if form == "entries":
        changed, steady = (
            scipy.sparse.coo_array((np.ones(2), (rows, [0, 0])), (4, 2)) for _ in range(2)
        )
        changed.coords = tuple(indices.view(Overwritten) for indices in changed.coords)
    w, control = np.ones((4, 2)), np.ones((4, 2))
    for array, grad in (w, changed), (control, steady):
        fastopt.SGD(array, lr=1.0, sparse="lazy", executor=executor).step(grad)
    assert w.tolist() == control.tolist()


@pytest.mark.parametrize("entries", [2, 4, 6, 400])
def test_csr_arrays_with_pointers_for_other_rows_are_refused(entries: int) -> None:
    """Too many of them would be rows behind the end of the parameter."""
    w = np.zeros((4, 2))
    opt = fastopt.SGD(w, lr=1.0, sparse="lazy")
    grad = scipy.sparse.csr_array(np.ones((4, 2)))
    grad.indptr = np.minimum(np.arange(entries) * 2, 8).astype(np.int32)
    with pytest.raises(ValueError, match="indptr"):
        opt.step(grad)
    assert not w.any()
