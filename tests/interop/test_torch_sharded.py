"""Sharded tensors (`DTensor`, as `fully_shard` makes them), stepped by two and three processes."""

import functools

import pytest
import torch
from torch.multiprocessing import spawn

from tests.interop.sharded_jobs import JOBS, run

# With three processes some have no elements of a parameter.
JOBS_OF = {2: tuple(JOBS), 3: ("every_class", "norms", "checkpoints")}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The folder with what went wrong, by the number of processes."""

    @functools.cache
    def run_jobs(size):
        folder = tmp_path_factory.mktemp("processes")
        spawn(run, (size, str(folder), JOBS_OF[size]), nprocs=size)
        return folder

    return run_jobs


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch is built without distributed")
@pytest.mark.parametrize(
    ("size", "job"), [(size, job) for size, jobs in JOBS_OF.items() for job in jobs]
)
def test_sharded(results, size, job):
    assert (results(size) / job).read_text("utf-8") == ""
