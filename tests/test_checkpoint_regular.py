"""The place of `save` and `load` in the file system: permissions, links, pipes, folders of others."""

import os
import stat
import struct
import threading
import zipfile

import numpy as np
import pytest

import fastopt
from fastopt.arrays import archive, regular_files
from tests.runs import make, snapshot, structure, train
from tests.subprocesses import LIMIT

posix = pytest.mark.skipif(os.name != "posix", reason="permissions, links and pipes of POSIX")


@pytest.fixture
def saved(tmp_path):
    opt = make("adam", structure("list"))
    train(opt, range(3))
    path = tmp_path / "state.npz"
    opt.save(path)
    return opt, path


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


@posix
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644, 0o666, 0o400])
def test_a_file_saved_over_keeps_its_mode(mode, saved):
    opt, path = saved
    path.chmod(mode)
    opt.save(path)
    assert mode_of(path) == mode
    make("adam", structure("list")).load(path)


@posix
def test_a_private_file_is_private_while_it_is_written(saved, monkeypatch):
    """Also over what a kill left, which others could read."""
    opt, path = saved
    path.chmod(0o600)
    temporary = path.with_name("state.npz.saving")
    temporary.touch(0o644)
    fsync, seen = os.fsync, []

    def look(handle):
        seen.append(stat.S_IMODE(os.fstat(handle).st_mode))
        fsync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", look)
        opt.save(path)
    assert seen[0] == 0o600
    assert mode_of(path) == 0o600


@posix
def test_a_new_file_has_the_mode_of_the_umask_and_links_stay(saved, tmp_path):
    opt, path = saved
    link = tmp_path / "latest"
    link.symlink_to("state.npz")
    path.unlink()
    old = os.umask(0o027)
    try:
        opt.save(link)
    finally:
        os.umask(old)
    assert mode_of(path) == 0o640
    assert link.is_symlink()
    make("adam", structure("list")).load(link)


@posix
def test_the_owner_stays_where_that_is_allowed(saved, monkeypatch):
    opt, path = saved
    calls = []

    def note(handle, user, group):
        calls.append((user, group))

    real = os.stat

    def of_another(file, *args, **kwargs):
        status = real(file, *args, **kwargs)
        if str(file) != str(path):
            return status
        return os.stat_result([*status[:4], 12345, 54321, *status[6:]])

    path.chmod(0o640)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fchown", note)
        patch.setattr(os, "stat", of_another)
        opt.save(path)
    assert calls == [(12345, 54321)]
    assert mode_of(path) == 0o640


@posix
def test_a_group_that_cannot_be_kept_hands_on_no_rights(saved, monkeypatch):
    opt, path = saved
    real = os.stat

    def of_another(file, *args, **kwargs):
        status = real(file, *args, **kwargs)
        return os.stat_result([*status[:5], 54321, *status[6:]]) if str(file) == str(path) else status

    def refuse(*_):
        raise PermissionError

    path.chmod(0o664)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fchown", refuse)
        patch.setattr(os, "stat", of_another)
        opt.save(path)
    assert mode_of(path) == 0o604


@posix
def test_a_folder_that_cannot_be_opened(saved, monkeypatch):
    """The file is replaced; a folder that cannot be synchronized afterwards is no error."""
    opt, path = saved
    train(opt, range(3, 5))
    opened = os.open

    def refuse(name, *args, **kwargs):
        if os.path.isdir(name):
            raise PermissionError(13, "Permission denied", name)
        return opened(name, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        opt.save(path)
    fresh = make("adam", structure("list"))
    fresh.load(path)
    assert fresh.step_count == 5


@posix
def test_an_interrupt_right_after_the_file_was_moved_stays_the_interrupt(saved, monkeypatch):
    opt, path = saved
    train(opt, range(3, 5))
    replace = os.replace

    def interrupted(*paths):
        replace(*paths)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            opt.save(path)
    assert list(path.parent.iterdir()) == [path]


@posix
@pytest.mark.parametrize("action", ["load", "save"])
@pytest.mark.parametrize("what", ["pipe", "device", "directory"])
def test_what_is_no_regular_file_is_refused_at_once(what, action, tmp_path):
    path = tmp_path / what
    if what == "pipe":
        os.mkfifo(path)
    elif what == "directory":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    opt = make("adam", structure("list"))
    train(opt, range(2))
    previous = snapshot(opt)
    caught = []

    def call():
        try:
            getattr(opt, action)(path)
        except Exception as error:
            caught.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(LIMIT)
    assert not thread.is_alive(), "waits for a writer"
    assert isinstance(caught[0], ValueError)
    assert {"directory": "directory"}.get(what, "pipe") in str(caught[0])
    assert snapshot(opt) == previous
    assert [entry.name for entry in tmp_path.iterdir()] == [what]


@posix
def test_a_file_that_becomes_a_pipe_between_its_check_and_its_opening(tmp_path, monkeypatch):
    path, regular = tmp_path / "state.npz", tmp_path / "regular"
    os.mkfifo(path)
    regular.touch()
    monkeypatch.setattr(regular_files.os, "stat", lambda file: os.lstat(regular))
    with pytest.raises(ValueError, match="pipe"):
        regular_files.open_regular(path)


@posix
def test_a_pipe_where_save_writes_first(saved):
    opt, path = saved
    os.mkfifo(path.with_name("state.npz.saving"))
    with pytest.raises(ValueError, match="pipe"):
        opt.save(path)
    make("adam", structure("list")).load(path)


def directory_entry(content, name):
    """Where the zip directory's entry of a member begins."""
    at = content.index(b"PK\x01\x02")
    while True:
        length, extra, comment = struct.unpack_from("<HHH", content, at + 28)
        if content[at + 46 : at + 46 + length] == name.encode():
            return at
        at += 46 + length + extra + comment


def crafted(path, name, cut):
    """Rewrite the file so that the data of a member is shorter than its directory says."""
    with zipfile.ZipFile(path) as old:
        members = {member: old.read(member) for member in old.namelist()}
    whole = len(members[name])
    members[name] = members[name][:-cut]
    with zipfile.ZipFile(path, "w") as new:
        for member, data in members.items():
            new.writestr(member, data)
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, directory_entry(content, name) + 24, whole)  # before compression
    path.write_bytes(content)


@pytest.mark.parametrize("cut", [1, 4, 24])
@pytest.mark.parametrize("last", ["exp_avg/0.npy", "max_exp_avg_sq/2.npy"])
def test_a_member_shorter_than_its_directory_says(last, cut, saved):
    """The checksum is that of the short data, so that only counting finds it."""
    opt, path = saved
    crafted(path, last, cut)
    train(opt, range(3, 5))
    previous = snapshot(opt)
    with pytest.raises(ValueError, match="damaged"):
        opt.load(path)
    assert snapshot(opt) == previous
    train(opt, range(5, 6))


def test_the_description_has_a_limit(saved, monkeypatch):
    """A small file can unpack to any size."""
    opt, path = saved
    with zipfile.ZipFile(path) as old:
        members = {member: old.read(member) for member in old.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for member, data in members.items():
            more = bytes(1 << 27) if member == archive.DESCRIPTION else b""
            new.writestr(member, data + more)
    assert path.stat().st_size < 1 << 20
    previous = snapshot(opt)
    with pytest.raises(ValueError, match="description"):
        opt.load(path)
    assert snapshot(opt) == previous
    monkeypatch.setattr(archive, "LARGEST_DESCRIPTION", 100)
    with pytest.raises(ValueError, match="at most 100 bytes"):
        opt.save(path)
    assert list(path.parent.iterdir()) == [path]


def test_what_changes_while_it_is_saved_matches_its_checksum(tmp_path, monkeypatch):
    """As a step of another thread does: here between the checksum and the write, every time."""
    opt = fastopt.SGD(np.zeros(10_000), momentum=0.5)
    crc32 = zipfile.crc32
    path = tmp_path / "state.npz"

    def change(data, value=0):
        checksum = crc32(data, value)
        opt.state["momentum_buffer"][:] += 1
        return checksum

    with monkeypatch.context() as patch:
        patch.setattr(zipfile, "crc32", change)
        opt.save(path)
    assert opt.state["momentum_buffer"][0] > 0
    fresh = fastopt.SGD(np.zeros(10_000), momentum=0.5)
    fresh.load(path)
    assert len(set(fresh.state["momentum_buffer"])) == 1


def test_paths_with_a_null_character_are_refused(tmp_path):
    opt = fastopt.RMSProp(np.ones(3))
    path = f"{tmp_path}/a\0b"
    for call in opt.save, opt.load:
        with pytest.raises(ValueError, match="path must be a path without null characters, got"):
            call(path)
    with pytest.raises(ValueError, match="state_dir must be a path without null characters, got"):
        fastopt.RMSProp(np.ones(3), state_dir=path)
    assert not list(tmp_path.iterdir())
