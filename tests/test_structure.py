"""Structures are taken apart once; what becomes of the caller's containers does not matter."""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict, defaultdict
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

import fastopt
from fastopt import transforms as t
from fastopt.arrays import tree

EXECUTORS = ["serial", "reference"]


def arrays(*content: float) -> list[np.ndarray]:
    return [np.full(3, float(value)) for value in content]


@pytest.mark.parametrize("executor", EXECUTORS)
def test_gradients_are_found_by_key(executor: str) -> None:
    a, b = arrays(1, 1)
    opt = fastopt.SGD({"a": a, "b": b}, lr=1.0, executor=executor)
    for grads in (
        {"b": np.full(3, 20.0), "a": np.full(3, 1.0)},
        OrderedDict(b=np.full(3, 20.0), a=np.full(3, 1.0)),
        MappingProxyType({"b": np.full(3, 20.0), "a": np.full(3, 1.0)}),
    ):
        a[:], b[:] = 1, 1
        opt.step(grads)
        assert a.tolist() == [0] * 3
        assert b.tolist() == [-19] * 3


@pytest.mark.parametrize("executor", EXECUTORS)
def test_gradients_are_found_by_key_at_every_depth(executor: str) -> None:
    a, b, c, d = arrays(0, 0, 0, 0)
    opt = fastopt.SGD({"x": [{1: a, "one": b}], "y": ({"c": c}, d)}, lr=1.0, executor=executor)
    one, two, three, four = arrays(-1, -2, -3, -4)
    opt.step({"y": [{"c": three}, four], "x": ({"one": two, 1: one},)})
    assert [float(p[0]) for p in (a, b, c, d)] == [1, 2, 3, 4]


@pytest.mark.parametrize("executor", EXECUTORS)
def test_the_order_of_the_callers_dict_may_change(executor: str) -> None:
    """States stay with their arrays: in steps, `decoded`, copies, pickles, and checkpoints."""
    params = dict(zip("ab", arrays(0, 0), strict=True))
    opt = fastopt.SGD(params, lr=1.0, momentum=0.5, executor=executor)
    opt.step(dict(zip("ab", arrays(1, 10), strict=True)))
    params["a"] = params.pop("a")
    assert list(params) == ["b", "a"]
    expected = {"a": [1.0] * 3, "b": [10.0] * 3}
    for twin in opt, copy.deepcopy(opt), copy.copy(opt), pickle.loads(pickle.dumps(opt)):
        for shown in (
            twin.state["momentum_buffer"],
            twin.decoded("momentum_buffer"),
            twin.state_dict()["state"]["momentum_buffer"],
        ):
            assert {key: array.tolist() for key, array in shown.items()} == expected
        assert {key: array.tolist() for key, array in twin.params.items()} == {
            "a": [-1.0] * 3,
            "b": [-10.0] * 3,
        }
    twin = copy.deepcopy(opt)
    opt.step(dict(zip("ba", arrays(10, 1), strict=True)))
    twin.step(dict(zip("ab", arrays(1, 10), strict=True)))
    assert params["a"].tolist() == twin.params["a"].tolist() == [-2.5] * 3
    assert params["b"].tolist() == twin.params["b"].tolist() == [-25.0] * 3


def containers() -> dict[str, Any]:
    return {
        "list": arrays(1, 1, 1),
        "dict": dict(zip("abc", arrays(1, 1, 1), strict=True)),
        "nested": {"layers": arrays(1, 1), "bias": np.ones(3)},
        "in a list": [dict(zip("ab", arrays(1, 1), strict=True)), np.ones(3)],
    }


def remove(params: Any) -> None:
    inner = params.get("layers", params) if isinstance(params, dict) else params
    inner.popitem() if isinstance(inner, dict) else inner.pop()


def add(params: Any) -> None:
    inner = params.get("layers", params) if isinstance(params, dict) else params
    inner.update(new=np.ones(5)) if isinstance(inner, dict) else inner.append(np.ones(5))


def replace(params: Any) -> None:
    inner = params[0] if isinstance(params, list) and isinstance(params[0], dict) else params
    inner = inner.get("layers", inner) if isinstance(inner, dict) else inner
    inner[next(iter(inner)) if isinstance(inner, dict) else 0] = np.full(7, 5.0)


def empty(params: Any) -> None:
    params.clear()


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("kind", containers())
@pytest.mark.parametrize("change", [remove, add, replace, empty])
@pytest.mark.parametrize("steps_before", [0, 1])
@pytest.mark.parametrize("clip", [None, 1e9])
def test_changes_of_the_callers_containers_do_not_matter(
    executor: str, kind: str, change: Any, steps_before: int, clip: float | None
) -> None:
    params = containers()[kind]
    form = copy.deepcopy(params)  # a structure of the same form, that stays
    held = [leaf for _, leaf in tree.leaves(params)]
    opt = fastopt.SGD(params, lr=1.0, momentum=0.5, clip_norm=clip, executor=executor)
    grads = tree.rebuild(form, [np.full(3, float(i)) for i in range(3)])
    for _ in range(steps_before):
        opt.step(grads)
    change(params)
    new = [leaf for _, leaf in tree.leaves(params) if not any(leaf is array for array in held)]
    kept = [leaf.copy() for leaf in new]
    for _ in range(2 - steps_before):
        opt.step(grads)
    moved = 1 + 1 + 0.5  # steps of one and of one and a half gradients
    assert [leaf.tolist() for leaf in held] == [[1 - moved * i] * 3 for i in range(3)]
    assert [leaf.tolist() for leaf in new] == [leaf.tolist() for leaf in kept]
    shown = tree.leaves(opt.params)
    assert [path for path, _ in shown] == [path for path, _ in tree.leaves(form)]
    assert all(leaf is array for (_, leaf), array in zip(shown, held, strict=True))
    for twin in copy.deepcopy(opt), pickle.loads(pickle.dumps(opt)):
        assert [leaf.tolist() for _, leaf in tree.leaves(twin.params)] == [h.tolist() for h in held]
    previous = [leaf.copy() for leaf in held]
    if change in (remove, add, empty):  # the caller's form of now is another one
        with pytest.raises((ValueError, TypeError), match="params"):
            opt.step(tree.rebuild(params, [np.ones(leaf.shape) for _, leaf in tree.leaves(params)]))
        assert [leaf.tolist() for leaf in held] == [leaf.tolist() for leaf in previous]


def test_the_example_of_a_popped_layer() -> None:
    params = {"layers": [np.ones(3), np.ones(4)]}
    opt = fastopt.SGD(params, lr=0.1)
    params["layers"].pop()
    with pytest.raises(ValueError, match=r"grads\['layers'\] must have 2 entries like params, got 1"):
        opt.step({"layers": [np.ones(3)]})
    opt.step({"layers": [np.ones(3), np.ones(4)]})
    assert opt.params["layers"][1].tolist() == [0.9] * 4


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("count", [0, 1, 3])
def test_lists_of_another_length_are_refused(executor: str, count: int) -> None:
    params = arrays(1, 1)
    opt = fastopt.SGD(params, lr=1.0, executor=executor)
    for grads in [np.ones(3)] * count, (np.ones(3),) * count:
        with pytest.raises(ValueError, match=rf"grads must have 2 entries like params, got {count}"):
            opt.step(grads)
    assert [p.tolist() for p in params] == [[1.0] * 3] * 2


def test_a_missing_key_is_not_made() -> None:
    opt = fastopt.SGD(dict(zip("ab", arrays(1, 1), strict=True)), lr=1.0)
    grads = defaultdict(lambda: np.ones(3), a=np.ones(3), c=np.ones(3))
    with pytest.raises(ValueError, match=r"missing \['b'\], unknown \['c'\]"):
        opt.step(grads)
    assert set(grads) == {"a", "c"}


def changes(shown: Any) -> list[Any]:
    """Every way to change a container."""
    if isinstance(shown, dict):
        return [
            lambda: shown.__setitem__("a", 0),
            lambda: shown.__delitem__("a"),
            lambda: shown.update(a=0),
            lambda: shown.setdefault("z", 0),
            lambda: shown.pop("a"),
            shown.popitem,
            shown.clear,
            lambda: shown.__ior__({"a": 0}),
        ]
    return [
        lambda: shown.__setitem__(0, 0),
        lambda: shown.__delitem__(0),
        lambda: shown.append(0),
        lambda: shown.extend([0]),
        lambda: shown.insert(0, 0),
        lambda: shown.pop(),
        lambda: shown.remove(shown[0]),
        shown.reverse,
        shown.sort,
        shown.clear,
        lambda: shown.__iadd__([0]),
        lambda: shown.__imul__(2),
    ]


@pytest.mark.parametrize("kind", ["list", "dict"])
def test_what_is_shown_cannot_be_changed(kind: str) -> None:
    params = containers()[kind]
    opt = fastopt.SGD(params, lr=1.0, momentum=0.5)
    for shown in opt.params, opt.state["momentum_buffer"]:
        assert type(params) in type(shown).__mro__
        previous = list(shown)
        for change in changes(shown):
            with pytest.raises(TypeError, match="cannot be changed"):
                change()
        assert [id(x) for x in shown] == [id(x) for x in previous]
        for plain in copy.copy(shown), shown.copy(), copy.deepcopy(shown):
            assert type(plain) is type(params)
        assert type(pickle.loads(pickle.dumps(shown))) is type(params)
    with pytest.raises(TypeError):
        opt.state["momentum_buffer"] = params  # type: ignore[index]
    buffers = opt.state_dict()["state"]["momentum_buffer"]
    assert type(buffers) is type(params)


def test_groups_show_what_is_stepped() -> None:
    weights = {"a": np.ones(3)}
    group = {"params": weights, "lr": 1.0}
    single = np.ones(3)
    groups = [group, {"params": single}]
    opt = fastopt.SGD(groups, lr=0.5)
    kept = weights.pop("a")
    group["params"], group["lr"] = [np.ones(5)], 7.0
    groups.clear()
    opt.step([{"a": np.ones(3)}, np.ones(3)])
    assert opt.groups[0].params["a"] is opt.params[0]["a"] is kept
    assert opt.groups[1].params is opt.params[1] is single
    assert kept.tolist() == [0.0] * 3
    assert single.tolist() == [0.5] * 3
    with pytest.raises(TypeError, match="cannot be changed"):
        opt.groups[0].params["a"] = single


def test_a_single_array_stays_itself() -> None:
    w = np.ones(3)
    assert fastopt.SGD(w, lr=1.0).params is w


@pytest.mark.parametrize("named", [True, False])
def test_bounds_and_copies_are_taken_apart_too(named: bool) -> None:
    params = dict(zip("ab", arrays(0, 0), strict=True))
    low = dict(zip("ab", arrays(-1, -2), strict=True))
    target = dict(zip("ba", arrays(0, 0), strict=True))
    kept = dict(target)
    if named:
        opt: Any = fastopt.SGD(params, lr=1.0, bounds=(low, None), copy_to=target)
    else:
        parts = t.scale_by_learning_rate(1.0), t.at_least(low), t.copy_params(target)
        opt = fastopt.Optimizer(params, fastopt.chain(*parts))
    low["a"], target["a"] = np.zeros(7), np.zeros(7)
    del low["b"], target["b"]
    for twin in opt, copy.deepcopy(opt), pickle.loads(pickle.dumps(opt)) if named else opt:
        twin.step(dict(zip("ba", arrays(9, 9), strict=True)))
        assert {key: p.tolist() for key, p in twin.params.items()} == {"a": [-1] * 3, "b": [-2] * 3}
    assert kept["a"].tolist() == [-1] * 3
    assert kept["b"].tolist() == [-2] * 3


def test_rows_to_catch_up_are_found_by_key() -> None:
    params = {"a": np.zeros((4, 1)), "b": np.zeros((4, 1))}
    opt = fastopt.SGD(params, lr=1.0, momentum=0.5, sparse="exact")
    batch = np.array([1]), np.array([[1.0]])
    opt.step({"a": batch, "b": batch})
    params["a"] = params.pop("a")
    opt.step({"a": (np.array([2]), np.array([[1.0]])), "b": (np.array([2]), np.array([[1.0]]))})
    opt.catch_up({"b": None, "a": np.array([1])})
    assert params["a"][1] == -1.5
    assert params["b"][1] == -1.0


def test_states_are_given_by_key() -> None:
    params = dict(zip("ab", arrays(0, 0), strict=True))
    buffers = dict(zip("ba", arrays(2, 1), strict=True))
    opt = fastopt.SGD(params, lr=1.0, momentum=0.5, state={"momentum_buffer": buffers})
    a = buffers.pop("a")
    assert opt.state["momentum_buffer"]["a"] is a
    opt.step({"b": np.zeros(3), "a": np.zeros(3)})
    assert params["a"].tolist() == [-0.5] * 3
    assert params["b"].tolist() == [-1.0] * 3
