"""Memory maps as parameters, gradients and states: the same bits, and no second copy in memory."""

import sys

import numpy as np
import pytest

import fastopt
from fastopt import transforms as t
from tests.runs import assert_same, make, structure, train
from tests.subprocesses import needs_jit, run, script


def mapped(path, array):
    result = np.lib.format.open_memmap(path, "w+", array.dtype, array.shape)
    result[...] = array
    return result


@pytest.mark.parametrize("name", ["adam", "options", "nadam"])
def test_the_same_bits_as_in_memory(name, tmp_path):
    plain = make(name, structure("array"))
    w = mapped(tmp_path / "w.npy", structure("array"))
    opt = make(name, w, state_dir=tmp_path / "state")
    for step in range(4):
        g = np.random.default_rng(step).normal(size=w.shape).astype(w.dtype)
        opt.step(mapped(tmp_path / f"g{step}.npy", g))
        plain.step(g)
    assert_same(opt, plain)
    assert opt.params is w
    assert all(isinstance(state, np.memmap) for state in opt.state.values())
    assert len(list((tmp_path / "state").iterdir())) == len(opt.state)
    w.flush()
    assert np.load(tmp_path / "w.npy").tobytes() == plain.params.tobytes()


def test_gradients_may_be_read_only(tmp_path):
    g = np.ones(7, np.float32)
    mapped(tmp_path / "g.npy", g).flush()
    opt, plain = make("adam", structure("array")), make("adam", structure("array"))
    opt.step(np.load(tmp_path / "g.npy", mmap_mode="r"))
    plain.step(g)
    assert_same(opt, plain)


def test_parameters_must_be_writeable(tmp_path):
    mapped(tmp_path / "w.npy", structure("array")).flush()
    with pytest.raises(ValueError, match="writeable"):
        make("adam", np.load(tmp_path / "w.npy", mmap_mode="r"))


def test_states_of_the_callers(tmp_path):
    plain = make("sgd", structure("array"))
    buffer = mapped(tmp_path / "m.npy", np.zeros(7, np.float32))
    opt = make("sgd", structure("array"), state={"momentum_buffer": buffer})
    train(plain, range(3))
    train(opt, range(3))
    assert opt.state["momentum_buffer"] is buffer
    assert_same(opt, plain)
    buffer.flush()
    assert np.load(tmp_path / "m.npy").tobytes() == plain.state["momentum_buffer"].tobytes()


@pytest.mark.parametrize("kind", ["list", "dict", "groups"])
def test_many_arrays(kind, tmp_path):
    plain, opt = make("options", structure(kind)), make("options", structure(kind), state_dir=tmp_path)
    train(plain, range(4))
    train(opt, range(4))
    assert_same(opt, plain)


def test_names_that_look_alike(tmp_path):
    params = {"a.b": np.ones(3), "a_b": np.ones(3), "a/b": np.ones(3)}
    opt = fastopt.Adam(params, state_dir=tmp_path)
    assert len(list(tmp_path.iterdir())) == 6
    opt.step({"a.b": np.ones(3), "a_b": None, "a/b": None})
    assert [bool(array.any()) for array in opt.state["exp_avg"].values()] == [True, False, False]


def test_a_used_folder_is_refused(tmp_path):
    folder = tmp_path / "state"
    opt = make("adam", structure("list"), state_dir=folder)
    train(opt, range(2))
    previous = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ValueError, match="state_dir must be a new or empty folder"):
        make("adam", structure("list"), state_dir=str(folder))
    assert previous == {path: path.read_bytes() for path in folder.iterdir()}


def test_what_is_no_folder_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="state_dir must be a folder"):
        make("adam", structure("list"), state_dir=tmp_path / "file")
    with pytest.raises(TypeError):
        make("adam", structure("list"), state_dir=3)


@pytest.mark.parametrize("exists", [True, False])
def test_nothing_is_left_after_an_error(exists, tmp_path):
    """So that the next attempt finds an empty folder."""
    folder = tmp_path / "state"
    if exists:
        folder.mkdir()
    w = np.ones(3)
    with pytest.raises(ValueError, match="share memory"):
        fastopt.Adam([w, w], state_dir=folder)
    with pytest.raises(ValueError, match="copy"):
        fastopt.Adam([w, w.copy()], state_dir=folder, copy_to=[w.copy(), np.ones(4)])
    assert folder.exists() == exists
    assert len(list(tmp_path.glob("state/*"))) == 0


def test_initial_values(tmp_path):
    chain = fastopt.chain(t.scale_by_rss(initial_accumulator=0.5), t.average_params(0.9))
    w = structure("array")
    opt = fastopt.Optimizer(w, chain, state_dir=tmp_path)
    assert opt.state["sum"].tolist() == [0.5] * w.size
    assert opt.state["average"].tobytes() == w.tobytes()


@needs_jit
@pytest.mark.skipif(sys.platform != "linux", reason="the limit on private memory is Linux's")
def test_memory_does_not_grow_with_the_buffers(tmp_path):
    """Under a limit on memory that is not a file's, a small part of the buffers' size."""
    code = f"""
    import os, resource
    from pathlib import Path
    import numpy as np, fastopt

    folder, n = Path({str(tmp_path)!r}), 25_000_000  # 100 MB

    def private():
        lines = dict(line.split(":") for line in open("/proc/self/status"))
        return int(lines["VmData"].split()[0]) * 1024

    def run(w, g, **means):
        opt = fastopt.RMSProp(w, lr=0.1, momentum=0.5, clip_norm=1e9, executor="serial", **means)
        opt.step(g)
        opt.save(folder / "saved.npz")
        opt.step(g)
        opt.load(folder / "saved.npz")
        opt.load_state_dict(opt.state_dict())
        return opt

    run(np.zeros(10, np.float32), np.ones(10, np.float32))  # everything is loaded
    limit = private() + 32_000_000
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    try:
        np.zeros(n, np.float32)
    except MemoryError:
        print("limited")
    create = np.lib.format.open_memmap
    w, g = (create(folder / f"{{name}}.npy", "w+", np.float32, (n,)) for name in "wg")
    g[:] = 1
    opt = run(w, g, state_dir=folder / "state")
    assert opt.step_count == 1
    assert opt.state["square_avg"][0] == opt.state["square_avg"][-1] == np.float32(1 - 0.9)
    print("done")
    """
    try:
        assert run(script(code), tmp_path / "cache").split() == ["limited", "done"]
    finally:
        for path in tmp_path.rglob("*.np[yz]"):
            path.unlink()
