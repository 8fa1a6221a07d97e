"""Arrays of a checkpoint are found by the keys that lead to them, in whatever order they come."""

import copy
import enum
import io
import json
import zipfile

import numpy as np
import pytest

import fastopt
from fastopt.arrays import tree
from tests.runs import snapshot


def through_file(saved, fresh, folder, **options):
    saved.save(folder / "state.npz")
    fresh.load(folder / "state.npz", **options)


def through_dict(saved, fresh, folder, **options):
    fresh.load_state_dict(copy.deepcopy(saved.state_dict()), **options)


WAYS = pytest.mark.parametrize("move", [through_file, through_dict], ids=["file", "dict"])


def trained(params, kind=fastopt.SGD, steps=3, left_out=1, **settings):
    """An optimizer whose arrays all have different states, and of which one lags."""
    settings = {"lr": 0.1, **({"momentum": 0.5} if kind is fastopt.SGD else {}), **settings}
    opt = kind(params, executor="reference", **settings)
    leaves = [leaf for _, leaf in tree.leaves(opt.params)]
    for step in range(steps):
        grads = [np.full_like(leaf, i + 1) for i, leaf in enumerate(leaves)]
        if step < left_out and len(leaves) > 1:
            grads[0] = None
        opt.step(tree.rebuild(opt.params, iter(grads)))
    return opt


def assert_moved(saved, fresh, path_of=lambda path: path):
    """Each array of `fresh` has the states of the saved one at `path_of` its own path."""
    for name, structure in fresh.state.items():
        expected = dict(tree.leaves(saved.state[name]))
        for path, array in tree.leaves(structure):
            assert array.tobytes() == expected[path_of(path)].tobytes(), (name, path)
    old, new = (
        dict(zip((path for path, _ in tree.leaves(opt.params)), opt.state_dict()["lags"], strict=True))
        for opt in (saved, fresh)
    )
    assert new == {path: old[path_of(path)] for path in new}
    assert fresh.step_count == saved.step_count


def ones(**shapes):
    return {name: np.ones(shape) for name, shape in shapes.items()}


@WAYS
@pytest.mark.parametrize("kind", [fastopt.SGD, fastopt.Adam])
def test_keys_in_another_order(kind, move, tmp_path):
    opt = trained(ones(a=3, b=3, c=3), kind)
    assert opt.state_dict()["lags"] == [1, 0, 0]
    fresh = trained(ones(c=3, a=3, b=3), kind, steps=0)
    move(opt, fresh, tmp_path)
    assert_moved(opt, fresh)
    assert fresh.state_dict()["lags"] == [0, 1, 0]


@WAYS
def test_a_resumed_run_has_the_same_bits(move, tmp_path):
    opt = trained(ones(a=3, b=3), fastopt.Adam)
    now = copy.deepcopy(opt.params)
    fresh = trained({"b": now["b"], "a": now["a"]}, fastopt.Adam, steps=0)
    move(opt, fresh, tmp_path)
    grads = {"a": np.full(3, 0.5), "b": np.full(3, -2.0)}
    opt.step(grads)
    fresh.step(grads)
    for name in "ab":
        assert opt.params[name].tobytes() == fresh.params[name].tobytes()


@WAYS
def test_nested_structures_and_groups(move, tmp_path):
    def nested(*order):
        layers = {"one": ones(w=2, b=2), "two": ones(w=2, b=2)}
        return {name: [layers[name], np.ones(2)] for name in order}

    opt = trained(nested("one", "two"))
    fresh = trained(nested("two", "one"), steps=0)
    move(opt, fresh, tmp_path)
    assert_moved(opt, fresh)

    opt = trained([{"params": ones(a=2, b=2), "lr": 0.5}, {"params": ones(a=2, c=2)}])
    groups = [{"params": ones(b=2, a=2), "lr": 0.5}, {"params": ones(c=2, a=2)}]
    fresh = trained(groups, steps=0)
    move(opt, fresh, tmp_path)
    assert_moved(opt, fresh)
    other = trained([{"params": ones(c=2, a=2)}, {"params": ones(b=2, a=2)}], steps=0)
    with pytest.raises(ValueError, match=r"missing params\[0\]\['c'\], params\[1\]\['b'\], unknown"):
        move(opt, other, tmp_path)


class Part(enum.StrEnum):
    HEAD = "head"


ODD_KEYS = [
    "",
    "a/b",
    "../up",
    "nul\0l",
    "ä\N{SNOWMAN}\N{GRINNING FACE}",
    "\ud800",
    "x" * 100_000,
    "0",
    0,
    -1,
    10**30,
    ("a", 0),
    (("a", "0"), ()),
    "fastopt.json",
    "momentum_buffer/0",
]


@WAYS
def test_odd_keys(move, tmp_path):
    opt = trained({key: np.ones(2) for key in ODD_KEYS})
    fresh = trained({key: np.ones(2) for key in reversed(ODD_KEYS)}, steps=0)
    move(opt, fresh, tmp_path)
    assert_moved(opt, fresh)


@WAYS
def test_keys_of_kinds_of_str_and_int(move, tmp_path):
    opt = trained({Part.HEAD: np.ones(2), np.int64(7): np.ones(2), True: np.ones(2)})
    fresh = trained({1: np.ones(2), 7: np.ones(2), "head": np.ones(2)}, steps=0)
    move(opt, fresh, tmp_path)
    assert_moved(opt, fresh)


@pytest.mark.parametrize("key", [None, 1.5, b"a", frozenset()])
def test_other_keys_are_refused(key, tmp_path):
    """But steps take them."""
    opt = trained({key: np.ones(2), "a": np.ones(2)})
    for call in (opt.state_dict, lambda: opt.save(tmp_path / "state.npz")):
        with pytest.raises(TypeError, match="params must have keys of str or int"):
            call()
    assert not list(tmp_path.iterdir())


RENAMED = {
    "another key": (ones(a=3, b=3), ones(a=3, z=3)),
    "list to dict": ([np.ones(3), np.ones(3)], ones(a=3, b=3)),
    "dict to list": (ones(a=3, b=3), [np.ones(3), np.ones(3)]),
    "deeper": (ones(a=3, b=3), {"model": ones(a=3, b=3)}),
    "alone": (ones(a=3), np.ones(3)),
    "text and number": ({0: np.ones(3)}, {"0": np.ones(3)}),
}


@WAYS
@pytest.mark.parametrize("what", RENAMED)
def test_other_paths_are_refused_and_position_is_offered(what, move, tmp_path):
    old, new = copy.deepcopy(RENAMED[what])
    opt, fresh = trained(old), trained(new, steps=1)
    previous = snapshot(fresh)
    with pytest.raises(ValueError, match=r'missing params.*unknown params.*match="position"'):
        move(opt, fresh, tmp_path)
    assert snapshot(fresh) == previous
    move(opt, fresh, tmp_path, match="position")
    old_paths = [path for path, _ in tree.leaves(opt.params)]
    new_paths = [path for path, _ in tree.leaves(fresh.params)]
    assert_moved(opt, fresh, dict(zip(new_paths, old_paths, strict=True)).get)


@WAYS
def test_position_checks_shapes_and_numbers_of_arrays(move, tmp_path):
    opt = trained(ones(a=3, b=4))
    for other, words in (
        (ones(b=4, a=3), "shape"),
        (ones(a=3), "arrays"),
        (ones(a=3, b=4, c=5), "arrays"),
    ):
        fresh = trained(other, steps=1)
        previous = snapshot(fresh)
        with pytest.raises(ValueError, match=words):
            move(opt, fresh, tmp_path, match="position")
        assert snapshot(fresh) == previous
        assert "position" in str(fresh.load.__doc__)


@WAYS
def test_match_is_one_of_two(move, tmp_path):
    opt = trained(ones(a=3))
    for match, error in [("keys", ValueError), (None, TypeError), (1, TypeError)]:
        with pytest.raises(error, match="match must be 'path' or 'position'"):
            move(opt, opt, tmp_path, match=match)


def test_the_message_is_short(tmp_path):
    opt = trained({f"a{i}": np.ones(1) for i in range(1000)})
    fresh = trained({f"b{i}": np.ones(1) for i in range(1000)}, steps=0)
    with pytest.raises(ValueError, match="and 995 more") as caught:
        through_file(opt, fresh, tmp_path)
    assert len(str(caught.value)) < 1000


BAD_PATHS = {
    "not a list": "a",
    "too few": [["a"]],
    "twice": [["a"], ["a"]],
    "not lists": ["a", "b"],
    "of something else": [["a"], [1.5]],
    "null": [["a"], [None]],
    "nested objects": [["a"], [{"b": 1}]],
}


@pytest.mark.parametrize("what", BAD_PATHS)
def test_malformed_paths(what):
    opt = trained(ones(a=3, b=3))
    state = copy.deepcopy(opt.state_dict())
    state["paths"] = BAD_PATHS[what]
    previous = snapshot(opt)
    with pytest.raises(ValueError, match="paths of 2 arrays"):
        opt.load_state_dict(state)
    assert snapshot(opt) == previous


def test_a_state_dict_whose_states_have_other_keys_than_its_paths():
    opt = trained(ones(a=3, b=3))
    state = copy.deepcopy(opt.state_dict())
    buffers = state["state"]["momentum_buffer"]
    buffers["c"] = buffers.pop("b")
    with pytest.raises(ValueError, match=r"state\['momentum_buffer'\]\['b'\]"):
        opt.load_state_dict(state)


# The first version of the format, which had no paths: written by hand, as it was.


def old_description(count, lags):
    common = {
        "lr": 0.1,
        "momentum": 0.5,
        "dampening": 0.0,
        "nesterov": False,
        "lr_in_momentum": False,
        "maximize": False,
        "clip_value": None,
        "weight_decay": 0.0,
        "decoupled_weight_decay": False,
        "average_decay": None,
    }
    return {
        "version": 1,
        "optimizer": "SGD",
        "transforms": [["trace_update", "scale_update"]],
        "clips_norm": False,
        "skips_nonfinite": False,
        "rounding": [None, 0],
        "step_count": count,
        "lags": lags,
        "settings": {"clip_norm": None, "common": common, "groups": [{}]},
    }


def old_file(path, arrays, lags):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("fastopt.json", json.dumps(old_description(7, lags)))
        for index, array in enumerate(arrays):
            content = io.BytesIO()
            np.save(content, array)
            archive.writestr(f"momentum_buffer/{index}.npy", content.getvalue())


def numbered(params):
    return [np.full_like(leaf, i + 1) for i, (_, leaf) in enumerate(tree.leaves(params))]


UNAMBIGUOUS = {
    "one array": np.ones(3),
    "one in a dict": ones(a=3),
    "list": [np.ones(3), np.ones(3), (np.ones(3), np.ones(2))],
    "dict of other shapes": ones(a=3, b=4, c=(3, 1)),
    "mixed": [np.ones(3), np.ones(3), ones(a=3, b=4)],
}


@pytest.mark.parametrize("what", UNAMBIGUOUS)
def test_files_without_paths_that_are_unambiguous(what, tmp_path):
    params = copy.deepcopy(UNAMBIGUOUS[what])
    opt = fastopt.SGD(params, lr=0.5, momentum=0.5)
    arrays = numbered(params)
    lags = [0] * (len(arrays) - 1) + [2]
    old_file(tmp_path / "old.npz", arrays, lags)
    opt.load(tmp_path / "old.npz")
    loaded = [leaf for _, leaf in tree.leaves(opt.state["momentum_buffer"])]
    assert [a.tolist() for a in loaded] == [a.tolist() for a in arrays]
    assert (opt.step_count, opt.lr, opt.state_dict()["lags"]) == (7, 0.1, lags)


AMBIGUOUS = {
    "dict": ones(a=3, b=3),
    "subtrees": {"one": ones(w=2, b=3), "two": ones(w=2, b=3)},
    "lists in a dict": {"one": [np.ones(2)], "two": [np.ones(2)]},
    "numbers as keys": {1: np.ones(2), 0: np.ones(2)},
}


@pytest.mark.parametrize("what", AMBIGUOUS)
def test_files_without_paths_that_are_ambiguous(what, tmp_path):
    params = copy.deepcopy(AMBIGUOUS[what])
    opt = fastopt.SGD(params, lr=0.5, momentum=0.5)
    arrays = numbered(params)
    old_file(tmp_path / "old.npz", arrays, [0] * len(arrays))
    previous = snapshot(opt)
    with pytest.raises(ValueError, match=r'without the paths.*match="position"'):
        opt.load(tmp_path / "old.npz")
    assert snapshot(opt) == previous
    opt.load(tmp_path / "old.npz", match="position")
    loaded = [leaf for _, leaf in tree.leaves(opt.state["momentum_buffer"])]
    assert [a.tolist() for a in loaded] == [a.tolist() for a in arrays]


def test_a_file_without_paths_in_another_order(tmp_path):
    """With shapes that all differ it is noticed."""
    old_file(tmp_path / "old.npz", [np.ones(3), np.ones(4)], [0, 0])
    opt = fastopt.SGD(ones(b=4, a=3), lr=0.5, momentum=0.5)
    previous = snapshot(opt)
    with pytest.raises(ValueError, match="shape"):
        opt.load(tmp_path / "old.npz")
    assert snapshot(opt) == previous


def test_a_state_dict_without_paths_has_them_in_its_states():
    params = ones(b=3, a=3)
    buffers = {"a": np.full(3, 1.0), "b": np.full(3, 2.0)}
    old = {**old_description(7, [2, 0]), "state": {"momentum_buffer": buffers}}
    opt = fastopt.SGD(params, lr=0.5, momentum=0.5)
    opt.load_state_dict(old)
    assert {name: buffer.tolist() for name, buffer in opt.state["momentum_buffer"].items()} == {
        "a": [1.0] * 3,
        "b": [2.0] * 3,
    }
    assert opt.state_dict()["lags"] == [0, 2]


@pytest.mark.parametrize("lags", [[0, 0], [3, 3], [0, 3]])
def test_lags_alone_without_paths(lags):
    """Of optimizers without states: they are unambiguous while they are equal."""
    old = old_description(7, lags)
    old["transforms"] = [["scale_update"]]
    old["settings"]["common"]["momentum"] = 0.0
    old["state"] = {}
    opt = fastopt.SGD(ones(b=3, a=3), lr=0.5)
    if lags[0] != lags[1]:
        with pytest.raises(ValueError, match="without the paths"):
            opt.load_state_dict(old)
        opt.load_state_dict(old, match="position")
    else:
        opt.load_state_dict(old)
    assert opt.state_dict()["lags"] == lags
