"""States on a device: live, saved and loaded, from the device to memory and back."""

import numpy as np
import pytest

import fastopt
from fastopt.arrays import tree
from tests import runs
from tests.device import assert_same_on_device, skip_without_device, to_device, to_host
from tests.support import assert_same_bits, problem

skip_without_device()


def moved(structure):
    """A structure of arrays in memory, on the device."""
    return tree.rebuild(structure, (to_device(leaf) for _, leaf in tree.leaves(structure)))


def host(structure):
    return [to_host(x) if hasattr(x, "copy_to_host") else x for _, x in tree.leaves(structure)]


def train(opt, steps, place):
    for step in steps:
        leaves = [leaf for _, leaf in tree.leaves(opt.params)]
        rng = np.random.default_rng(step)
        grads = [place(rng.normal(size=leaf.shape).astype(leaf.dtype)) for leaf in leaves]
        opt.step(tree.rebuild(opt.params, iter(grads)))


def in_memory(array):
    return array


WAYS = {
    "device to device": (to_device, to_device),
    "device to memory": (to_device, in_memory),
    "memory to device": (in_memory, to_device),
}


# Every two of them.
TOGETHER = [
    (name, ("array", "dict")[(i + j) % 2], way, (i + j) // 2 % 2 == 1)
    for i, name in enumerate(["adam", "schedules", "options"])
    for j, way in enumerate(WAYS)
]


@pytest.mark.parametrize(("name", "structure", "way", "by_file"), TOGETHER)
def test_resumed_run_has_the_bits_of_one_without_a_break(name, structure, way, by_file, tmp_path):
    first_place, second_place = WAYS[way]
    through = runs.make(name, runs.structure(structure))
    train(through, range(4), in_memory)

    def make(place, content):
        return runs.make(name, tree.rebuild(content, (place(x) for _, x in tree.leaves(content))))

    first = make(first_place, runs.structure(structure))
    train(first, range(2), first_place)
    content = tree.rebuild(first.params, iter(host(first.params)))
    second = make(second_place, content)
    if by_file:
        first.save(tmp_path / "state")
        second.load(tmp_path / "state")
    else:
        second.load_state_dict(first.state_dict())
    train(second, range(2, 4), second_place)
    assert second.step_count == through.step_count
    for key, expected in {"params": through.params, **through.state}.items():
        actual = second.params if key == "params" else second.state[key]
        for one, other in zip(host(actual), host(expected), strict=True):
            assert_same_bits(one, other, key)


def test_states_are_live():
    w, (g, *_) = problem(9, np.float32)
    opt, same = fastopt.RMSProp(to_device(w)), fastopt.RMSProp(w)
    opt.state["square_avg"].copy_to_device(np.full(9, 0.5, np.float32))
    same.state["square_avg"][:] = 0.5
    opt.step(to_device(g))
    same.step(g)
    assert_same_on_device(opt, w, same.state)


def test_states_of_the_callers_own():
    w, (g, *_) = problem(9, np.float32)
    v = to_device(np.full(9, 0.25, np.float32))
    opt = fastopt.RMSProp(to_device(w), state={"square_avg": v})
    assert opt.state["square_avg"] is v
    same = fastopt.RMSProp(w, initial_accumulator=0.25)
    opt.step(to_device(g))
    same.step(g)
    assert_same_on_device(opt, w, same.state)


@pytest.mark.parametrize("initial", [0.0, 0.7])
def test_new_states_are_filled(initial):
    opt = fastopt.RMSProp(to_device(np.ones((3, 5))), initial_accumulator=initial, average_decay=0.9)
    assert to_host(opt.state["square_avg"]).tolist() == [[initial] * 5] * 3
    assert to_host(opt.state["average"]).tolist() == [[1.0] * 5] * 3


def test_a_failed_load_changes_nothing(tmp_path):
    w, (g, *_) = problem(9, np.float32)
    opt, same = fastopt.Adam(to_device(w)), fastopt.Adam(w)
    fastopt.Adam(np.ones(8, np.float32)).save(tmp_path / "other")
    with pytest.raises(ValueError, match=r"with shape \(8,\)"):
        opt.load(tmp_path / "other")
    opt.step(to_device(g))
    same.step(g)
    assert_same_on_device(opt, w, same.state)


def test_no_files_for_states(tmp_path):
    with pytest.raises(ValueError, match="state_dir is for params in memory"):
        fastopt.Adam(to_device(np.ones(3)), state_dir=tmp_path / "states")
    assert not (tmp_path / "states").exists()
