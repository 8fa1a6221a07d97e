"""Parameters and states that belong together: in one file, or saved in an order that keeps them so."""

import copy
import pickle

import numpy as np
import pytest

import fastopt
from tests.runs import STRUCTURES, assert_same, make, snapshot, structure, train
from tests.support import parameters_of


def lagging(table=None, rows=(1,), steps=3, **settings):
    """Rows other than those of the gradients lag behind; with momentum their parameters do too."""
    table = np.ones((4, 2)) if table is None else table
    settings = {"lr": 0.5, "momentum": 0.5, "sparse": "exact", **settings}
    opt = fastopt.SGD(table, executor="reference", **settings)
    opt.step((np.arange(4), np.ones((4, 2))))
    for _ in range(steps):
        opt.step((np.array(rows), np.ones((len(rows), 2))))
    return opt


@pytest.mark.parametrize("name", ["adam", "options"])
@pytest.mark.parametrize("kind", STRUCTURES)
def test_a_file_with_the_parameters(kind, name, tmp_path):
    opt = make(name, structure(kind))
    train(opt, range(4))
    opt.save(tmp_path / "all.npz", params=True)
    fresh = make(name, structure(kind))
    train(fresh, range(1))
    arrays = list(parameters_of(fresh).leaves)
    fresh.load(tmp_path / "all.npz")
    assert all(leaf is other for leaf, other in zip(parameters_of(fresh).leaves, arrays, strict=True))
    assert_same(fresh, opt)
    train(opt, range(4, 7))
    train(fresh, range(4, 7))
    assert_same(fresh, opt)


def test_numpy_reads_the_parameters(tmp_path):
    w = {"a": np.arange(3.0), "b": np.full((2, 2), 0.5, np.float32)}
    fastopt.SGD(w, lr=0.1).save(tmp_path / "all.npz", params=True)
    with np.load(tmp_path / "all.npz", allow_pickle=False) as content:
        for index, array in enumerate(w.values()):
            np.testing.assert_array_equal(content[f"params/{index}"], array, strict=True)


def test_a_file_without_parameters_leaves_them(tmp_path):
    opt = make("adam", structure("list"))
    train(opt, range(2))
    opt.save(tmp_path / "state.npz")
    train(opt, range(2, 4))
    previous = [leaf.tobytes() for leaf in opt.params]
    opt.load(tmp_path / "state.npz")
    assert [leaf.tobytes() for leaf in opt.params] == previous


def test_parameters_go_by_path_too(tmp_path):
    opt = fastopt.SGD({"a": np.zeros(2), "b": np.ones(2)}, lr=0.1)
    opt.save(tmp_path / "all.npz", params=True)
    fresh = fastopt.SGD({"b": np.full(2, 7.0), "a": np.full(2, 7.0)}, lr=0.1)
    fresh.load(tmp_path / "all.npz")
    assert {name: leaf.tolist() for name, leaf in fresh.params.items()} == {"a": [0, 0], "b": [1, 1]}


def test_parameters_of_another_dtype_are_refused(tmp_path):
    """Also where there are no states to tell."""
    fastopt.SGD(np.zeros(2), lr=0.1).save(tmp_path / "all.npz", params=True)
    for other in (np.ones(2, np.float32), np.ones(3)):
        opt = fastopt.SGD(other, lr=0.1)
        previous = snapshot(opt)
        with pytest.raises(ValueError, match="'params/0'"):
            opt.load(tmp_path / "all.npz")
        assert snapshot(opt) == previous


def test_a_flag_and_a_free_name(tmp_path):
    def update(update, param, state, hyper):
        return update, state

    chain = fastopt.chain(fastopt.Transform(update, state={"params": 0.0}))
    opt = fastopt.Optimizer(np.ones(2), chain, executor="reference")
    with pytest.raises(ValueError, match="state of the name 'params'"):
        opt.save(tmp_path / "all.npz", params=True)
    with pytest.raises(TypeError, match="params must be True or False"):
        opt.save(tmp_path / "all.npz", params=1)
    opt.save(tmp_path / "state.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["state.npz"]


@pytest.mark.parametrize("call", ["save", "state_dict"])
def test_parameters_that_lag_behind_are_not_left_for_later(call, tmp_path):
    """Whoever has saved them before saved other ones than those that belong to the state."""
    opt = lagging()
    save = opt.state_dict if call == "state_dict" else lambda: opt.save(tmp_path / "state.npz")
    previous = parameters_of(opt).leaves[0].copy()
    with pytest.raises(ValueError, match=r"lag behind.*catch_up\(\) before.*params=True"):
        save()
    assert parameters_of(opt).leaves[0].tobytes() == previous.tobytes()
    assert not list(tmp_path.iterdir())
    opt.catch_up()
    assert parameters_of(opt).leaves[0].tobytes() != previous.tobytes()
    save()


@pytest.mark.parametrize("read", ["params", "state", "catch_up"])
def test_what_brings_rows_up_to_date_lets_them_be_saved(read, tmp_path):
    opt = lagging()
    value = getattr(opt, read)
    if callable(value):
        value()
    opt.save(tmp_path / "state.npz")


@pytest.mark.parametrize("settings", [{"momentum": 0.0}, {"sparse": "lazy"}, {"sparse": None}], ids=str)
def test_parameters_that_cannot_lag_are_not_asked_for(settings, tmp_path):
    if settings.get("sparse", "") is None:
        opt = fastopt.SGD(np.ones((4, 2)), lr=0.5, momentum=0.5, executor="reference")
        opt.step(np.ones((4, 2)))
    else:
        opt = lagging(**settings)
    opt.save(tmp_path / "state.npz")
    opt.state_dict()


def test_a_resumed_run_of_lagging_rows_has_the_same_bits(tmp_path):
    """In either order that is accepted."""
    opt = lagging()
    opt.save(tmp_path / "all.npz", params=True)
    first = lagging(np.full((4, 2), 9.0), steps=1)
    first.load(tmp_path / "all.npz")
    opt.catch_up()
    np.save(tmp_path / "w.npy", opt.params)
    opt.save(tmp_path / "state.npz")
    second = lagging(np.load(tmp_path / "w.npy"), steps=0)
    second.params[...] = np.load(tmp_path / "w.npy")
    second.load(tmp_path / "state.npz")
    every = [opt, first, second, copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))]
    for optimizer in every:
        optimizer.step((np.array([2]), np.ones((1, 2))))
        optimizer.step((np.array([0]), np.ones((1, 2))))
    assert len({optimizer.params.tobytes() for optimizer in every}) == 1
    assert len({optimizer.state["momentum_buffer"].tobytes() for optimizer in every}) == 1


def test_a_snapshot_of_memory_maps(tmp_path):
    """What is torn by a kill is put back from the last whole file."""
    w = np.lib.format.open_memmap(tmp_path / "w.npy", "w+", np.float32, (1000,))
    w[:] = 1
    opt = fastopt.SGD(w, lr=0.1, momentum=0.5, state_dir=tmp_path / "states", executor="reference")
    opt.step(np.ones(1000, np.float32))
    opt.save(tmp_path / "snapshot.npz", params=True)
    then = w.tobytes(), opt.state["momentum_buffer"].tobytes()
    opt.step(np.ones(1000, np.float32))
    w[500:] = 7  # as if killed within a step
    opt.load(tmp_path / "snapshot.npz")
    assert isinstance(opt.params, np.memmap)
    assert (w.tobytes(), opt.state["momentum_buffer"].tobytes()) == then
    assert opt.step_count == 1
