"""What ranks run for `test_checkpoint`."""

import os
import signal
from pathlib import Path

import numpy as np
from mpi4py import MPI

import fastopt
from fastopt.arrays import archive
from fastopt.interop.mpi import ShardedOptimizer, shard_files, shard_slice
from tests.mpi.error_jobs import assert_all_raise, assert_all_raise_alike, raised
from tests.mpi.step_jobs import assert_same, start
from tests.support import COMPILED, assert_same_bits

SIZE = 1100


def adam(params, **others):
    """With what depends on the number of the step."""
    lr = fastopt.schedules.exponential(0.1, 0.5)
    return fastopt.Adam(params, **{"lr": lr, "amsgrad": True, "average_decay": 0.5, **others})


def gradient(step):
    """The same on every rank."""
    return np.random.default_rng(step).integers(-64, 65, SIZE).astype(np.float32) / 32


def build(comm, replicated=True, make=adam, size=SIZE):
    w = start(size, np.float32)
    if not replicated:
        w = w[shard_slice(size, comm.rank, comm.size)].copy()
    return ShardedOptimizer(comm, w, make, replicated=replicated, overlap_chunks=2)


def train(opt, steps):
    for step in steps:
        opt.step(gradient(step))


def plain_after(steps, make=adam):
    """One optimizer over everything that was not interrupted."""
    opt = make(start(SIZE, np.float32))
    for step in range(steps):
        opt.step(gradient(step))
    return opt


def save(comm, folder, steps):
    opt = build(comm)
    train(opt, range(int(steps)))
    opt.save(folder)


def resume(comm, folder):
    """From whatever number of ranks; a new optimizer with other content resumes with the same bits."""
    plain = plain_after(5)
    for replicated in (True, False):
        opt = build(comm, replicated)
        opt.step(gradient(99))
        opt.load(folder)
        assert opt.step_count == 3
        train(opt, range(3, 5))
        assert_same(opt, plain, folder)
    # Owned shards are saved alike; a second save takes the place of the first and leaves none of it.
    again = Path(folder) / f"again-{comm.size}"
    opt.save(again)
    opt.save(again)
    other = build(comm)
    other.load(again)
    assert_same(other, plain, folder)
    if comm.rank == 0:
        assert len(list(again.iterdir())) == comm.size + 1
    opt.optimizer.beta1 = 0.5
    opt.save(again)
    other.load(again)
    assert other.optimizer.beta1 == 0.5
    if COMPILED:  # blocks of 8 bits, cut elsewhere on another number of ranks
        eight = lambda s: adam(s, state_dtype="8bit")  # noqa: E731
        one = build(comm.Split(comm.rank), make=eight, size=20_000)
        one.step(np.arange(20_000, dtype=np.float32))
        if comm.rank == 0:
            one.save(f"{again}-8bit")
        comm.Barrier()
        parts = build(comm, make=eight, size=20_000)
        parts.load(f"{again}-8bit")
        assert_same_bits(parts.params, one.params)
        whole = parts.gather(of=parts.optimizer.decoded("exp_avg"))
        assert_same_bits(whole, one.optimizer.decoded("exp_avg"))
    # More ranks than elements.
    few = build(comm, size=1)
    few.save(again)
    other = build(comm, size=1)
    other.step(np.ones(1, np.float32))
    other.load(again)
    assert_same_bits(other.params, few.params)
    assert other.step_count == 0


def of_each_size(comm):
    """The first 1, 2, 3... ranks, each as a communicator of their own, for those who are in it."""
    for ranks in range(1, comm.size + 1):
        part = comm.Split(0 if comm.rank < ranks else MPI.UNDEFINED)
        if part != MPI.COMM_NULL:
            yield part


def save_on_each(comm, folder):
    for part in of_each_size(comm):
        save(part, f"{folder}/by-{part.size}", 3)


def resume_on_each(comm, folder):
    for part in of_each_size(comm):
        for ranks in range(1, comm.size + 1):
            resume(part, f"{folder}/by-{ranks}")


def last_of(folder):
    return sorted(Path(folder).glob("shard-*"))[-1]


def damage(comm, folder):
    """Whoever needs what is damaged has the error, the others are told; nothing is changed."""
    opt = build(comm)
    train(opt, range(3))
    opt.save(folder)
    comm.Barrier()
    shard, index = last_of(folder), Path(folder) / shard_files.INDEX
    whole = {path: path.read_bytes() for path in (shard, index)}
    previous = opt.params.tobytes(), opt.gather(of=opt.optimizer.state["exp_avg"]).tobytes()

    def refused(kind, words, path, content, everywhere=False):
        """With this content of a file, or without it."""
        comm.Barrier()
        if comm.rank == 0:
            path.unlink()
            if content is not None:
                path.write_bytes(content)
        comm.Barrier()
        if everywhere:
            assert_all_raise_alike(kind, words, lambda: opt.load(folder))
        else:
            assert_all_raise(comm, comm.size - 1, kind, words, lambda: opt.load(folder))
        comm.Barrier()
        if comm.rank == 0:
            path.write_bytes(whole[path])
        comm.Barrier()

    refused(FileNotFoundError, [shard.name, "missing"], shard, None)
    for keep in (0, 1, 100, len(whole[shard]) // 2, len(whole[shard]) - 1):
        refused(ValueError, [shard.name, "damaged"], shard, whole[shard][:keep])
    flipped = bytearray(whole[shard])
    flipped[flipped.rindex(b"\x93NUMPY") + 130] ^= 1  # the data behind a header of 128 bytes
    refused(ValueError, [shard.name, "damaged"], shard, bytes(flipped))
    refused(ValueError, [shard.name, "damaged"], shard, b"x" * 1000)

    def changed(old, new):
        assert old in whole[index]
        return whole[index].replace(old, new)

    bad_indices = [
        (FileNotFoundError, ["no checkpoint", "index.json"], None),
        (ValueError, ["damaged"], whole[index][:-20]),
        (ValueError, ["damaged"], b""),
        (ValueError, ["not written by"], b"[1]"),
        (ValueError, ["not written by"], changed(b"fastopt shards", b"other")),
        (ValueError, ["version 2"], changed(b'"version": 1,\n "save"', b'"version": 2,\n "save"')),
        (ValueError, ["lacks", "length"], changed(b'"length"', b'"width"')),
        (ValueError, ["damaged", "shards"], changed(b'"start"', b'"begin"')),
        (ValueError, ["does not follow"], changed(b'"start": 0', b'"start": 1')),
        (ValueError, ["does not follow"], changed(b"shard-", b"../shard-")),
    ]
    for kind, words, content in bad_indices:
        refused(kind, words, index, content, everywhere=True)
    # A shard of another save.
    elsewhere = Path(folder) / "elsewhere"
    opt.save(elsewhere)
    comm.Barrier()
    refused(ValueError, [shard.name, "another checkpoint"], shard, last_of(elsewhere).read_bytes())

    # Other optimizers.
    def other(words, **others):
        mismatched = build(comm, **others)
        assert_all_raise_alike(ValueError, words, lambda: mismatched.load(folder))
        assert mismatched.step_count == 0

    other(["optimizer", "SGD"], make=fastopt.SGD)
    other(["transforms"], make=lambda s: adam(s, weight_decay=0.1))
    other(["length 1100", "1101"], size=1101)
    wide = ShardedOptimizer(comm, np.zeros(SIZE), adam)
    assert_all_raise_alike(ValueError, ["dtype float32", "float64"], lambda: wide.load(folder))
    assert_all_raise_alike(FileNotFoundError, ["no checkpoint"], lambda: opt.load(f"{folder}/none"))

    assert previous == (opt.params.tobytes(), opt.gather(of=opt.optimizer.state["exp_avg"]).tobytes())
    opt.load(folder)
    train(opt, range(3, 5))
    assert_same(opt, plain_after(5), "resumed")


def failing_save(comm, folder):
    """One rank cannot write: an error on all, and the last checkpoint stays."""
    opt = build(comm)
    opt.save(folder)
    comm.Barrier()
    names = sorted(path.name for path in Path(folder).iterdir())
    train(opt, range(2))
    culprit = comm.size - 1
    write_shard = shard_files.write_shard

    def full(*_):
        raise OSError(28, "No space left on device")

    if comm.rank == culprit:
        shard_files.write_shard = full
    assert_all_raise(comm, culprit, OSError, ["No space left"], lambda: opt.save(folder))
    shard_files.write_shard = write_shard
    comm.Barrier()
    assert sorted(path.name for path in Path(folder).iterdir()) == names
    write_index = shard_files.write_index
    shard_files.write_index = full
    assert_all_raise(comm, 0, OSError, ["No space left"], lambda: opt.save(folder))
    shard_files.write_index = write_index
    comm.Barrier()
    assert sorted(path.name for path in Path(folder).iterdir()) == names
    fresh = build(comm)
    fresh.load(folder)
    assert fresh.step_count == 0
    comm.Barrier()
    (Path(folder) / "file").touch()
    assert_all_raise_alike(ValueError, ["must be a folder"], lambda: opt.save(f"{folder}/file"))


def interrupted_load(comm, folder):
    """One rank fails while it puts its shard in place: no rank steps until all have loaded."""
    opt = build(comm)
    train(opt, range(3))
    opt.save(folder)
    train(opt, range(3, 4))
    culprit = comm.size - 1
    read_into = archive.Archive.read_into

    def fails(*_):
        raise OSError(5, "Input/output error")

    if comm.rank == culprit:
        archive.Archive.read_into = fails
    assert_all_raise(comm, culprit, OSError, ["Input/output error"], lambda: opt.load(folder))
    archive.Archive.read_into = read_into
    comm.Barrier()
    words = ["loading was interrupted"]
    if comm.rank == culprit:
        # The others have loaded all of theirs, but have not gathered: they refuse too.
        assert raised(opt.optimizer.state_dict) is not None
    assert_all_raise_alike(RuntimeError, words, lambda: opt.step(gradient(4)))
    assert_all_raise_alike(RuntimeError, words, lambda: opt.save(f"{folder}/other"))
    opt.load(folder)
    train(opt, range(3, 5))
    assert_same(opt, plain_after(5), "resumed")


def private(comm, folder):
    """What replaces a private checkpoint is private: the index, and the shards that it names."""
    opt = build(comm)
    opt.save(folder)
    comm.Barrier()
    if comm.rank == 0:
        for path in Path(folder).iterdir():
            path.chmod(0o600)
        (Path(folder) / "shard-of-a-kind").mkdir()  # which cannot be unlinked, and is no error
    comm.Barrier()
    opt.save(folder)
    comm.Barrier()
    if comm.rank == 0:
        (Path(folder) / "shard-of-a-kind").rmdir()
    comm.Barrier()
    modes = {path.stat().st_mode & 0o777 for path in Path(folder).iterdir()}
    assert modes == {0o600}, modes


def pipes(comm, folder):
    """Neither an index nor a shard that is a pipe is waited for."""
    opt = build(comm)
    opt.save(folder)
    comm.Barrier()
    for path, everywhere in ((last_of(folder), False), (Path(folder) / shard_files.INDEX, True)):
        if comm.rank == 0:
            path.unlink()
            os.mkfifo(path)
        comm.Barrier()
        if everywhere:
            assert_all_raise_alike(ValueError, ["pipe"], lambda: opt.load(folder))
        else:
            assert_all_raise(comm, comm.size - 1, ValueError, ["pipe"], lambda: opt.load(folder))
        comm.Barrier()


def all_that_goes_wrong(comm, folder):
    damage(comm, f"{folder}/damage")
    failing_save(comm, f"{folder}/failing")
    interrupted_load(comm, f"{folder}/interrupted")
    private(comm, f"{folder}/private")
    pipes(comm, f"{folder}/pipes")


def killed_while_saving(comm, folder, stage):
    """One save that succeeds; then the last rank, or the first with the index, dies in the next."""
    opt = build(comm)
    train(opt, range(3))
    opt.save(folder)
    train(opt, range(3, 5))

    def dies(function, culprit, after):
        def wrapped(*arguments):
            if comm.rank == culprit:
                if after:
                    function(*arguments)
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments)

        return wrapped

    last = comm.size - 1
    if stage == "shard":
        shard_files.write_shard = dies(shard_files.write_shard, last, after=False)
    elif stage == "written":
        shard_files.write_shard = dies(shard_files.write_shard, last, after=True)
    elif stage == "index":
        shard_files.write_index = dies(shard_files.write_index, 0, after=False)
    elif stage == "committed":
        shard_files.write_index = dies(shard_files.write_index, 0, after=True)
    opt.save(folder)
