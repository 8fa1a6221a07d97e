"""Sharded steps on 1 to 4 ranks give the bits of one optimizer over everything."""

from tests.mpi.launch import every_number_of_ranks, needs_mpi, run

pytestmark = needs_mpi


@every_number_of_ranks
def test_step(ranks):
    run(ranks, "step_jobs.all_of_them")
