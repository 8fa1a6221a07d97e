"""What `bench.mpi` times does what it says: it fails if a part of a step changes nothing."""

import json

from tests.mpi.launch import compiled_suite_only, launch_python, needs_mpi

pytestmark = [needs_mpi, compiled_suite_only]


def test_every_job_does_its_work():
    ended = launch_python(2, "-m", "bench.mpi.ranks", "100000", "1")
    assert ended.status == 0, ended.complaints
    seconds = json.loads(ended.output)["seconds"]
    assert {"step", "reduce", "local", "gather", "one_rank"} <= seconds.keys()
