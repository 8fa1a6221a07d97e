"""The file of `save`: what is in it, that damage is found, and that a crash never leaves half of it."""

import contextlib
import os
import sys
import zipfile

import numpy as np
import pytest

import fastopt
from tests.runs import make, snapshot, structure, train
from tests.subprocesses import needs_jit, run, script


@pytest.fixture
def saved(tmp_path):
    opt = make("adam", structure("list"))
    train(opt, range(3))
    path = tmp_path / "state.npz"
    opt.save(path)
    return opt, path


def test_numpy_reads_the_arrays(saved):
    opt, path = saved
    with np.load(path, allow_pickle=False) as content:
        for name, arrays in opt.state.items():
            for i, array in enumerate(arrays):
                np.testing.assert_array_equal(content[f"{name}/{i}"], array, strict=True)
        assert len(content.files) == 1 + 4 * len(opt.state)


def test_no_pickle_is_loaded(saved):
    """Not even where a file holds one."""
    opt, path = saved
    with np.load(path) as content:
        arrays = {name: content[name] for name in content.files if name != "fastopt.json"}
        description = content["fastopt.json"]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("fastopt.json", description)
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as member:
                np.save(member, array.astype(object))
    previous = snapshot(opt)
    with pytest.raises(ValueError, match="dtype object"):
        opt.load(path)
    assert snapshot(opt) == previous


def test_every_damaged_byte_is_found(tmp_path):
    """Or makes no difference: names of the tool that wrote the file, times, rights."""
    opt = fastopt.Adam(np.ones(3, np.float32))
    opt.step(np.ones(3, np.float32))
    opt.lr = 0.5
    path = tmp_path / "state.npz"
    opt.save(path)
    whole = path.read_bytes()
    fresh = fastopt.Adam(np.ones(3, np.float32))
    previous, harmless = snapshot(fresh), 0
    for i in range(len(whole)):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 0x55]) + whole[i + 1 :])
        with contextlib.suppress(ValueError):
            fresh.load(path)
        if snapshot(fresh) != previous:
            harmless += 1
            assert fresh.state_dict() | {"state": None} == opt.state_dict() | {"state": None}
            for name, expected in opt.state.items():
                assert fresh.state[name].tobytes() == expected.tobytes()
            fresh = fastopt.Adam(np.ones(3, np.float32))
    assert harmless < len(whole) / 4


def test_every_truncation_is_found(saved):
    opt, path = saved
    whole, previous = path.read_bytes(), snapshot(opt)
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"state\.npz"):
            opt.load(path)
    assert snapshot(opt) == previous


def _members(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _rewrite(path, change):
    content = _members(path)
    change(content)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)


def _replace(name, content):
    return lambda members: members.update({name: content})


FOREIGN = {
    "member": (lambda members: members.pop("exp_avg/2.npy"), "'exp_avg/2'"),
    "description": (lambda members: members.pop("fastopt.json"), "save"),
    "not json": (_replace("fastopt.json", b"{"), "damaged"),
    "json of something else": (_replace("fastopt.json", b"[1]"), "save"),
    "empty json": (_replace("fastopt.json", b"{}"), "lacks"),
    "not an array": (_replace("exp_avg/0.npy", b"hello"), "damaged"),
    "short array": (
        lambda members: members.update({"exp_avg/0.npy": members["exp_avg/0.npy"][:-4]}),
        "layout",
    ),
    "long array": (
        lambda members: members.update({"exp_avg/0.npy": members["exp_avg/0.npy"] + b"0000"}),
        "layout",
    ),
    "other array": (
        lambda members: members.update({"exp_avg/0.npy": members["exp_avg/2.npy"]}),
        "(2, 3)",
    ),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_foreign_files_are_refused(what, saved):
    opt, path = saved
    change, word = FOREIGN[what]
    _rewrite(path, change)
    previous = snapshot(opt)
    with pytest.raises(ValueError, match=r"state\.npz") as caught:
        opt.load(path)
    assert word in str(caught.value)
    assert snapshot(opt) == previous


def test_a_file_rewritten_by_other_tools_is_fine(saved):
    opt, path = saved
    _rewrite(path, lambda members: None)
    train(opt, range(3, 4))
    opt.load(path)
    assert opt.step_count == 3


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"PK\x05\x06" + bytes(18)])
def test_not_an_archive(content, tmp_path):
    path = tmp_path / "state.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"state\.npz"):
        make("adam", structure("list")).load(path)


def test_no_file(tmp_path):
    opt = make("adam", structure("list"))
    with pytest.raises(FileNotFoundError, match="state"):
        opt.load(tmp_path / "state.npz")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        opt.save(tmp_path / "nowhere" / "state.npz")
    with pytest.raises(TypeError):
        opt.save(3)
    assert not list(tmp_path.iterdir())


def test_what_is_no_file_is_not_replaced(tmp_path):
    opt = make("adam", structure("list"))
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="folder is a directory"):
        opt.save(tmp_path / "folder")
    with pytest.raises(ValueError, match="device"):
        opt.save(os.devnull)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_failing_write_leaves_the_old_file(saved, monkeypatch):
    """Here because the disk cannot be synchronized; a full one fails before that."""
    opt, path = saved
    previous = path.read_bytes()
    train(opt, range(3, 5))

    def full(handle):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            opt.save(path)
    assert path.read_bytes() == previous
    assert list(path.parent.iterdir()) == [path]


def test_content_reaches_the_disk_before_the_name(saved, monkeypatch):
    opt, path = saved
    done = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (done.append("fsync"), fsync(handle)))
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append("replace"), replace(a, b)))
    opt.save(path)
    assert done[:2] == ["fsync", "replace"]
    assert done[2:] == (["fsync"] if os.name == "posix" else [])


def test_savers_to_one_path_do_not_meet(saved, monkeypatch):
    """The second one begins and ends while the first is in the middle."""
    opt, path = saved
    other = make("adam", structure("list"))
    fsync, files = os.fsync, []

    def meanwhile(handle):
        monkeypatch.setattr(os, "fsync", fsync)
        other.save(path)
        files.extend(sorted(entry.name for entry in path.parent.iterdir()))
        make("adam", structure("list")).load(path)
        fsync(handle)

    monkeypatch.setattr(os, "fsync", meanwhile)
    opt.save(path)
    assert files == ["state.npz", "state.npz.saving"]
    assert list(path.parent.iterdir()) == [path]
    fresh = make("adam", structure("list"))
    fresh.load(path)
    assert fresh.step_count == opt.step_count == 3


def test_what_a_kill_left_is_written_over(saved):
    opt, path = saved
    whole = path.read_bytes()
    left = path.with_name("state.npz.saving")
    left.write_bytes(bytes(10 * len(whole)))
    opt.save(path)
    assert not left.exists()
    assert len(path.read_bytes()) == len(whole)


KILLS = 30


@needs_jit
@pytest.mark.skipif(sys.platform != "linux", reason="forks and kills")
def test_kill_at_a_random_moment_of_save(tmp_path):
    """The file is one of the two states that are saved in turn, as a whole, every time."""
    code = f"""
    import os, random, signal, time
    from pathlib import Path
    import numpy as np, fastopt

    size, folder = 500_000, Path({str(tmp_path)!r})
    path = folder / "state.npz"

    def optimizer(value, steps):
        opt = fastopt.Adam(np.zeros(size, np.float32), lr=value, executor="serial")
        for array in opt.state.values():
            array[:] = value
        for _ in range(steps):
            opt.step(np.zeros(size, np.float32))
        return opt

    one, two, reader = optimizer(1.0, 1), optimizer(2.0, 2), optimizer(0.5, 0)
    start = time.perf_counter()
    one.save(path)
    duration = time.perf_counter() - start
    random.seed(1)
    kills = inside = 0
    seen = set()
    while kills < {KILLS} or seen != {{1, 2}} or inside <= 5:
        kills += 1
        if kills > {KILLS}:
            duration *= 1.1  # a save now takes longer than the first one took
        child = os.fork()
        if child == 0:
            while True:
                two.save(path)
                one.save(path)
        time.sleep(random.uniform(0, 4 * duration))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        names = sorted(os.listdir(folder))
        assert names in (["state.npz"], ["state.npz", "state.npz.saving"]), names
        inside += len(names) - 1
        reader.load(path)
        which = {{1: one, 2: two}}[reader.step_count]
        assert reader.lr == which.lr
        for name, array in which.state.items():
            assert array.tobytes() == reader.state[name].tobytes()
        seen.add(reader.step_count)
    one.save(path)
    print(os.listdir(folder))
    """
    assert run(script(code), tmp_path.parent / "cache") == "['state.npz']"
