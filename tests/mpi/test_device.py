"""Sharded steps over arrays on a CUDA device give the bits of one optimizer in memory."""

import pytest

from tests.device import needs_driver
from tests.mpi.launch import needs_mpi, run

pytestmark = [needs_mpi, needs_driver]


@pytest.mark.parametrize("ranks", [1, 2])
def test_device(ranks, tmp_path):
    run(ranks, "device_jobs.all_of_them", tmp_path)
