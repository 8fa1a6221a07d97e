"""Cache files: which of them are run, how they are made, and that none of them is ever an error."""

from __future__ import annotations

import hashlib
import os
import pickle
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numba
import pytest
from numba.core import event

from fastopt.kernels import disk_cache, trusted_files
from fastopt.kernels.compiler import compile_function
from tests.subprocesses import needs_jit

pytestmark = pytest.mark.skipif(os.name != "posix", reason="owners and modes are POSIX's")
NOBODY = 65534

needs_root = pytest.mark.skipif(
    os.name != "posix" or os.geteuid() != 0, reason="only root can give files to others"
)


@pytest.fixture(autouse=True)
def _not_warned_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trusted_files, "_warned", False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file as fastopt makes it."""
    path = tmp_path / "fastopt" / "kernel.bin"
    trusted_files.write(path, b"code")
    assert trusted_files.read(path) == b"code"
    return path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(
    ("umask", "folders", "files"),
    [(0o000, 0o755, 0o644), (0o002, 0o755, 0o644), (0o022, 0o755, 0o644), (0o077, 0o700, 0o600)],
)
def test_modes(umask: int, folders: int, files: int, tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "kernel.bin"
    original = os.umask(umask)
    try:
        trusted_files.write(path, b"code")
        trusted_files.write(path, b"newer")
    finally:
        os.umask(original)
    assert (mode(path), mode(path.parent), mode(path.parent.parent)) == (files, folders, folders)
    assert trusted_files.read(path) == b"newer"
    assert [each.name for each in path.parent.iterdir()] == ["kernel.bin"]


def check_refused(path: Path, doubt: str, named: Path) -> None:
    """Warned of the first time, and not used."""
    with pytest.warns(RuntimeWarning, match=doubt) as caught:
        assert trusted_files.read(path) is None
    assert str(named) in str(caught[0].message)
    assert trusted_files.read(path) is None  # warnings are errors here


@pytest.mark.parametrize("writable", [0o664, 0o646, 0o666, 0o620])
def test_files_that_others_can_write_to(writable: int, file: Path) -> None:
    file.chmod(writable)
    check_refused(file, "others may write to it", file)
    trusted_files.write(file, b"new")
    assert trusted_files.read(file) == b"new"


@pytest.mark.parametrize("writable", [0o775, 0o757, 0o777, 0o2775])
def test_folders_that_others_can_write_to(writable: int, file: Path) -> None:
    file.parent.chmod(writable)
    check_refused(file, "others may write to it", file.parent)
    trusted_files.write(file, b"new")  # nobody would read it
    assert file.read_bytes() == b"code"


def test_a_sticky_folder_is_good_for_good_files(file: Path) -> None:
    file.parent.chmod(0o1777)
    assert trusted_files.read(file) == b"code"
    trusted_files.write(file, b"new")
    assert trusted_files.read(file) == b"new"
    file.chmod(0o666)
    check_refused(file, "others may write to it", file)


@needs_root
@pytest.mark.parametrize("sticky", [False, True])
def test_files_of_others(sticky: bool, file: Path) -> None:
    if sticky:
        os.chown(file.parent, NOBODY, NOBODY)
        file.parent.chmod(0o1777)
        assert trusted_files.read(file) == b"code"
    os.chown(file, NOBODY, NOBODY)
    check_refused(file, rf"belongs to another user \(uid {NOBODY}\)", file)


@needs_root
def test_folders_of_others(file: Path) -> None:
    os.chown(file.parent, NOBODY, NOBODY)
    check_refused(file, rf"belongs to another user \(uid {NOBODY}\)", file.parent)
    trusted_files.write(file, b"new")
    assert file.read_bytes() == b"code"


@needs_root
def test_another_user_trusts_root_and_oneself(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: NOBODY)
    assert trusted_files.read(file) == b"code"
    os.chown(file, NOBODY, NOBODY)
    assert trusted_files.read(file) == b"code"
    os.chown(file, NOBODY - 1, NOBODY - 1)
    check_refused(file, "belongs to another user", file)


def test_links_to_files_are_not_followed(file: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"of others")
    file.unlink()
    file.symlink_to(elsewhere)
    assert trusted_files.read(file) is None
    trusted_files.write(file, b"new")
    assert not file.is_symlink()
    assert (trusted_files.read(file), elsewhere.read_bytes()) == (b"new", b"of others")


def test_links_to_folders_are(file: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(file.parent)
    assert trusted_files.read(link / file.name) == b"code"


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_folder(path: Path) -> None:
    path.mkdir()
    (path / "of others").touch()


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)  # in the current folder: such a name must be short


def make_device(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make a device")
    try:
        os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 5))  # /dev/zero: reading never ends
    except PermissionError:
        pytest.skip("this root may not make devices")


@pytest.mark.parametrize("make", [make_fifo, make_folder, make_socket, make_device])
def test_what_is_no_regular_file(make: Any, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    file.unlink()
    make(file)
    if make is make_socket:
        assert trusted_files.read(file) is None  # it cannot even be opened
    else:
        check_refused(file, "not a regular file", file)
    trusted_files.write(file, b"new")
    if make is make_folder:
        assert [each.name for each in file.iterdir()] == ["of others"]
    else:
        assert trusted_files.read(file) == b"new"
    assert [each.name for each in file.parent.iterdir()] == [file.name]


def test_no_descriptors_are_left_open(file: Path, tmp_path: Path) -> None:
    bad = tmp_path / "fastopt" / "folder.bin"
    bad.mkdir()
    check_refused(bad, "not a regular file", bad)
    first = os.open(os.devnull, os.O_RDONLY)
    os.close(first)
    for path in (file, bad, tmp_path / "missing"):
        for _ in range(3):
            trusted_files.read(path)
            trusted_files.write(path, b"new")
    last = os.open(os.devnull, os.O_RDONLY)
    os.close(last)
    assert first == last


def test_no_warning_is_no_error_where_there_is_nothing(tmp_path: Path) -> None:
    for path in (
        tmp_path / "no folder" / "x.bin",
        tmp_path / ("f" * 300) / "x",
        tmp_path / ("n" * 300),
    ):
        assert trusted_files.read(path) is None
    trusted_files.write(tmp_path / ("f" * 300) / "x", b"code")
    trusted_files.write(tmp_path / ("n" * 300), b"code")
    assert list(tmp_path.iterdir()) == []


# What is in the file


@pytest.fixture
def compiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """``compiles()``: get a small function, by compilation or from its file; whether by compilation."""
    monkeypatch.setenv("FASTOPT_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("FASTOPT_CACHE", raising=False)
    passes = event.RecordingListener()

    def get() -> bool:
        passes.buffer.clear()
        with event.install_listener("numba:run_pass", passes):
            function = compile_function(lambda x: x + 1, numba.int64(numba.int64), "small")
        assert function(2) == 3
        return bool(passes.buffer)

    assert get()
    assert not get()
    return get


def checked(content: bytes) -> bytes:
    return hashlib.sha256(content).digest() + content


def entries_of(raw: bytes) -> Any:
    return pickle.loads(raw[disk_cache.CHECKSUM :])


class Unknown:
    """Of a module that there is not in another process."""

    def __reduce__(self) -> Any:
        return _raise, ()


def _raise() -> None:
    raise ImportError("no such module")


def with_payload(raw: bytes, payload: Any) -> bytes:
    ((stamp, _),) = entries_of(raw)
    return checked(pickle.dumps([(stamp, payload)]))


DAMAGES = {
    "empty": lambda raw: b"",
    "32 bytes": lambda raw: bytes(32),
    "a checksum of nothing": lambda raw: checked(b""),
    "short": lambda raw: raw[:31],
    "cut": lambda raw: raw[:-1],
    "a wrong bit": lambda raw: raw[:-9] + bytes([raw[-9] ^ 1]) + raw[-8:],
    "a pickle that is cut": lambda raw: checked(raw[disk_cache.CHECKSUM : len(raw) // 2]),
    "no pickle": lambda raw: checked(b"(cnot.a.module\nname\n"),
    "an error of its own": lambda raw: checked(pickle.dumps(Unknown())),
    "no list": lambda raw: checked(pickle.dumps(7)),
    "no pairs": lambda raw: checked(pickle.dumps([1, (2, 3, 4)])),
    "nothing": lambda raw: checked(pickle.dumps(None)),
    "other stamps": lambda raw: checked(pickle.dumps([(None, b""), ([], None)])),
    "an empty function": lambda raw: with_payload(raw, b""),
    "a function that is cut": lambda raw: with_payload(raw, entries_of(raw)[0][1][:-100]),
    "no function": lambda raw: with_payload(raw, pickle.dumps(["not", "one"])),
    "no bytes": lambda raw: with_payload(raw, None),
    "a function with an error": lambda raw: with_payload(raw, pickle.dumps(Unknown())),
}


@needs_jit
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_content_is_replaced(damage: Any, compiles: Any, tmp_path: Path) -> None:
    path = tmp_path / "fastopt" / "small.bin"
    raw = path.read_bytes()
    path.write_bytes(damage(raw))
    assert compiles()
    assert entries_of(path.read_bytes())[0][0] == entries_of(raw)[0][0]
    assert not compiles()
