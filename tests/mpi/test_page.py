"""The code of the page about MPI, and that the rest of fastopt does without it."""

from pathlib import Path

import pytest

from tests import subprocesses
from tests.device import needs_driver
from tests.mpi.launch import compiled_suite_only, launch_python, needs_mpi
from tests.test_readme import blocks

PAGE = Path(__file__).parents[2] / "docs" / "mpi.md"


@needs_mpi
@compiled_suite_only
@pytest.mark.parametrize("ranks", [1, 2])
def test_code_runs(ranks, tmp_path):
    script = tmp_path / "train.py"
    script.write_text("\n".join(blocks(PAGE)))
    ended = launch_python(ranks, "-W", "error", "-m", "mpi4py", str(script))
    assert (ended.status, ended.complaints) == (0, "")


@needs_mpi
@needs_driver
@pytest.mark.parametrize("ranks", [1, 2])
def test_code_for_devices_runs(ranks, tmp_path):
    script = tmp_path / "train.py"
    (code,) = blocks(PAGE, "py")
    script.write_text(blocks(PAGE)[0] + code)
    ended = launch_python(ranks, "-W", "error", "-m", "mpi4py", str(script))
    assert (ended.status, ended.complaints) == (0, "")


def test_nothing_of_mpi_is_imported(tmp_path):
    """Not by fastopt, nor by what reads checkpoints without it."""
    code = """
        import sys
        import numpy as np
        import fastopt
        opt = fastopt.Adam(np.zeros(3))
        [getattr(fastopt, name) for name in fastopt.__all__]
        assert not any(name.startswith(("mpi4py", "fastopt.interop")) for name in sys.modules)
        from fastopt.interop.mpi import RankError, ShardedOptimizer, load_checkpoint, shard_slice
        try:
            load_checkpoint("nowhere", opt)
        except FileNotFoundError:
            pass
        assert "mpi4py" not in sys.modules
    """
    subprocesses.run(subprocesses.script(code), tmp_path)
