"""`state_dir`: space that is there before the first step, safe names, nothing left after an error."""

import errno
import os
import subprocess
import sys

import numpy as np
import pytest

import fastopt
from fastopt.arrays import memory_maps
from tests.subprocesses import run, script

MEGABYTE = 1 << 20


def left(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root of Linux can mount a small file system")
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this root may not mount file systems")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_an_error_at_construction(small_disk):
    w = np.ones(MEGABYTE // 4, np.float32)
    with pytest.raises(OSError, match=r"000-square_avg-params\.npy") as caught:
        fastopt.RMSProp(w, state_dir=small_disk / "new" / "states")
    assert caught.value.errno == errno.ENOSPC
    assert left(small_disk) == []
    opt = fastopt.RMSProp(w[: w.size // 2], state_dir=small_disk / "new" / "states")
    opt.step(w[: w.size // 2].copy())
    assert left(small_disk) == ["new", "new/states", "new/states/000-square_avg-params.npy"]


def test_a_disk_that_only_the_first_state_fits_on(small_disk):
    w = np.ones(MEGABYTE // 6, np.float32)
    with pytest.raises(OSError, match="001-") as caught:
        fastopt.Adam(w, state_dir=small_disk)
    assert caught.value.errno == errno.ENOSPC
    assert left(small_disk) == []


def test_where_space_cannot_be_reserved_zeros_are_written(small_disk, monkeypatch):
    def cannot(*args):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    w = np.ones(MEGABYTE // 4, np.float32)
    for way in "refused", "absent":
        with monkeypatch.context() as patch:
            if way == "refused":
                patch.setattr(os, "posix_fallocate", cannot)
            else:
                patch.delattr(os, "posix_fallocate")
            with pytest.raises(OSError, match=r"000-square_avg-params\.npy") as caught:
                fastopt.RMSProp(w, state_dir=small_disk)
            assert caught.value.errno == errno.ENOSPC
            assert left(small_disk) == []


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system cannot reserve space")
def test_other_errors_of_reserving_are_not_hidden(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match=r"\.npy") as caught:
        fastopt.RMSProp(np.ones(9), state_dir=tmp_path / "states")
    assert caught.value.errno == errno.EDQUOT
    assert left(tmp_path) == []


@pytest.mark.parametrize("reserves", [True, False])
@pytest.mark.parametrize("size", [0, 1, 7, memory_maps.WRITTEN // 4 - 32, memory_maps.WRITTEN // 4 + 5])
def test_every_block_is_there(reserves, size, tmp_path, monkeypatch):
    if not reserves:
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    opt = fastopt.RMSProp(np.ones(size, np.float32), state_dir=tmp_path, executor="reference")
    (path,) = tmp_path.iterdir()
    status = path.stat()
    assert np.load(path).tobytes() == bytes(4 * size) == opt.state["square_avg"].tobytes()
    if hasattr(status, "st_blocks"):
        assert 512 * status.st_blocks >= status.st_size > 4 * size


@pytest.mark.skipif(os.name != "posix", reason="the limit on files is that of POSIX")
def test_a_limit_on_the_size_of_files(tmp_path):
    code = f"""
    import resource
    from pathlib import Path
    import numpy as np, fastopt
    folder = Path({str(tmp_path)!r}) / "states"
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        fastopt.Adam([np.ones(9), np.ones(20_000)], state_dir=folder, executor="reference")
    except OSError as error:
        print(error.errno, folder.exists())
    """
    assert run(script(code), tmp_path, FASTOPT_CACHE="0") == f"{errno.EFBIG} False"


KEYS = [
    "k" * 300,
    "\N{MATHEMATICAL SCRIPT CAPITAL A}" * 200,
    "a/b/../../c",
    "nul\0 and \ud800",
    "...",
    "",
    "layer",
    "LAYER",
    "straße",
    "STRASSE",
    "con",
    "a:b|c?*<>\\\n",
]


def test_keys_that_are_no_names_of_files(tmp_path):
    params = {key: np.ones(3) for key in KEYS}
    folder = tmp_path / "states"
    opt = fastopt.Adam(params, state_dir=folder, executor="reference")
    opt.step({key: np.full(3, float(number)) for number, key in enumerate(KEYS, 1)})
    for number, key in enumerate(KEYS, 1):
        assert np.allclose(opt.state["exp_avg"][key], number * 0.1)
    names = [path.name for path in folder.iterdir()]
    assert len({name.lower() for name in names}) == 2 * len(KEYS)
    assert all(name.isascii() and len(name) < 128 and name.endswith(".npy") for name in names)
    assert left(tmp_path) == sorted(["states", *(f"states/{name}" for name in names)])


def test_a_folder_that_cannot_be_made_leaves_no_parents(tmp_path):
    with pytest.raises(OSError, match="ccc"):
        fastopt.Adam(np.ones(3), state_dir=tmp_path / "a" / "b" / ("c" * 300))
    assert left(tmp_path) == []


def test_a_file_that_came_meanwhile_is_not_touched(tmp_path):
    class Late(memory_maps.StateFiles):
        """Another process made the first file after the folder was seen to be empty."""

        def __init__(self, folder):
            super().__init__(folder)
            (tmp_path / "000-exp_avg-params.npy").write_text("of others")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastopt.steps.build.StateFiles", Late)
        with pytest.raises(FileExistsError):
            fastopt.Adam(np.ones(3), state_dir=tmp_path)
    assert (tmp_path / "000-exp_avg-params.npy").read_text() == "of others"


def test_folders_that_others_have_begun_to_use_stay(tmp_path):
    class Busy(memory_maps.StateFiles):
        def zeros(self, *args):
            result = super().zeros(*args)
            (tmp_path / "run" / "of others").touch()
            return result

    w = np.ones(3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastopt.steps.build.StateFiles", Busy)
        with pytest.raises(ValueError, match="share memory"):
            fastopt.Adam([w, w], state_dir=tmp_path / "run" / "states")
    assert left(tmp_path) == ["run", "run/of others"]
