"""Sharded checkpoints: read by any number of ranks, whole after every crash, clear when damaged."""

import json

import numpy as np
import pytest

import fastopt
from fastopt.interop.mpi import load_checkpoint
from tests.mpi.launch import compiled_suite_only, every_number_of_ranks, launch, needs_mpi, run
from tests.support import assert_same_bits

pytestmark = [needs_mpi, compiled_suite_only]


def plain(steps):
    from tests.mpi import checkpoint_jobs

    return checkpoint_jobs.plain_after(steps)


def loaded(folder):
    """In one process, without MPI."""
    from tests.mpi import checkpoint_jobs

    opt = checkpoint_jobs.adam(np.zeros(checkpoint_jobs.SIZE, np.float32))
    load_checkpoint(folder, opt)
    return opt


def assert_same(opt, other):
    assert opt.step_count == other.step_count
    assert_same_bits(opt.params, other.params)
    for name, state in other.state.items():
        assert_same_bits(opt.state[name], state, name)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Checkpoints after three steps on 1 to 4 ranks."""
    folder = tmp_path_factory.mktemp("saved")
    run(4, "checkpoint_jobs.save_on_each", folder)
    return {ranks: folder / f"by-{ranks}" for ranks in (1, 2, 3, 4)}


def test_every_number_of_ranks_reads_every_other(saved):
    run(4, "checkpoint_jobs.resume_on_each", saved[1].parent)


@every_number_of_ranks
def test_one_process_reads_without_mpi(ranks, saved):
    opt = loaded(saved[ranks])
    assert_same(opt, plain(3))
    index = json.loads((saved[ranks] / "index.json").read_text())
    assert len(index["shards"]) == ranks


def test_one_process_refuses(saved):
    with pytest.raises(TypeError, match="optimizer must be one of fastopt's, not ndarray"):
        load_checkpoint(saved[2], np.zeros(1100, np.float32))
    with pytest.raises(TypeError, match="over a single array, not over several"):
        load_checkpoint(saved[2], fastopt.Adam([np.zeros(1100, np.float32)]))
    with pytest.raises(ValueError, match="length 1100, but these have 66"):
        load_checkpoint(saved[2], fastopt.Adam(np.zeros(66, np.float32)))
    with pytest.raises(FileNotFoundError, match="there is no checkpoint in"):
        load_checkpoint(saved[2] / "none", fastopt.Adam(np.zeros(1100, np.float32)))


@pytest.mark.parametrize("ranks", [2, 3])
def test_damage_and_failures_are_errors_on_every_rank(ranks, tmp_path):
    run(ranks, "checkpoint_jobs.all_that_goes_wrong", tmp_path)


@pytest.mark.parametrize("stage", ["shard", "written", "index", "committed"])
def test_a_kill_while_saving_leaves_a_whole_checkpoint(stage, tmp_path):
    ended = launch(2, "checkpoint_jobs.killed_while_saving", tmp_path, stage)
    assert ended.status != 0
    assert_same(loaded(tmp_path), plain(5 if stage == "committed" else 3))
    if stage == "written":  # what the crash left is gone after the next save
        assert len(list(tmp_path.iterdir())) > 3
        run(2, "checkpoint_jobs.save", tmp_path, 4)
        assert_same(loaded(tmp_path), plain(4))
        assert len(list(tmp_path.iterdir())) == 3
