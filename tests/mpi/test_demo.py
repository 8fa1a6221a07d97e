"""``mpiexec -n 2 fastopt demo --mpi`` learns as one process does."""

import re

import pytest

from tests.mpi.launch import compiled_suite_only, launch_python, needs_mpi

pytestmark = [needs_mpi, compiled_suite_only]


@pytest.mark.parametrize("ranks", [1, 2])
def test_demo(ranks):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    options = ["demo", "--mpi", "--epochs", "4", "--hidden", "32"]
    ended = launch_python(ranks, "-m", "fastopt", *options)
    assert (ended.status, ended.complaints) == (0, "")
    name = "1 rank" if ranks == 1 else f"{ranks} ranks"
    rows = re.findall(r"^(\d ranks?(?: alone)?) +(\d\.\d{5}) +(\d+\.\d)%$", ended.output, re.MULTILINE)
    assert [row[0] for row in rows] == ([name] if ranks == 1 else [name, "1 rank alone"])
    losses = [float(row[1]) for row in rows]
    # The same batches: only the rounding of the sums is another.
    assert losses == pytest.approx([losses[0]] * len(losses), rel=1e-2)
    assert losses[0] < 0.5
    assert float(rows[0][2]) > 85
    if ranks == 1:
        assert "mpiexec -n 2 fastopt demo --mpi" in ended.output
