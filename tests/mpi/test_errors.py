"""A fault on one rank is an exception on every rank, changes nothing, and is no deadlock."""

import numpy as np
import pytest

import fastopt
from fastopt.interop.mpi import load_checkpoint
from tests.mpi.launch import every_number_of_ranks, launch, needs_mpi, run

pytestmark = needs_mpi


@every_number_of_ranks
def test_errors(ranks):
    run(ranks, "error_jobs.all_of_them")


@pytest.mark.parametrize("ranks", [2, 3])
def test_a_rank_killed_in_mid_step_ends_the_job_and_loses_no_checkpoint(ranks, tmp_path):
    ended = launch(ranks, "error_jobs.killed_in_a_step", tmp_path)
    assert ended.status != 0
    assert "not reached" not in ended.output
    opt = fastopt.Adam(np.zeros(1100, np.float32), lr=0.1)
    load_checkpoint(tmp_path, opt)
    assert opt.step_count == 1
    assert opt.params.all()
