"""Ranks under mpiexec, with a time limit: a hang fails."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.device import EMULATED
from tests.subprocesses import LIMIT
from tests.support import COMPILED

_ROOT = Path(__file__).parents[2]
_MPIEXEC = shutil.which(Path(sys.executable).with_name("mpiexec")) or shutil.which("mpiexec")

needs_mpi = pytest.mark.skipif(
    find_spec("mpi4py") is None or _MPIEXEC is None,
    reason="mpi4py or mpiexec is missing: pip install mpi4py mpich",
)

# Processes take a second to start, so what no kernel has a part in runs once.
compiled_suite_only = pytest.mark.skipif(
    not COMPILED, reason="files and scripts: the compiled suite runs the same"
)

every_number_of_ranks = pytest.mark.parametrize("ranks", [1, 2, 3, 4])


class Ended(NamedTuple):
    """How a run ended."""

    status: int
    output: str
    complaints: str


def launch(ranks: int, job: str, *arguments: object) -> Ended:
    """Run ``module.function(comm, *arguments)`` of this folder on so many ranks."""
    strict = "-W", "error", "-m", "tests.mpi.job", job
    return launch_python(ranks, *strict, *map(str, arguments))


def launch_python(ranks: int, *options: str) -> Ended:
    """Run Python with these options on so many ranks."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "PYTHON"))}
    # Two threads a rank, for the jobs that ask for them; more ranks than cores must not spin.
    paths = [str(_ROOT)]
    if EMULATED:  # a folder of its own on the path is what emulates
        paths += filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    path = os.pathsep.join(paths)
    environment |= {"NUMBA_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive", "PYTHONPATH": path}
    process = subprocess.Popen(
        [str(_MPIEXEC), "-n", str(ranks), sys.executable, *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    try:
        output, complaints = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGTERM)  # mpiexec ends its ranks
        output, complaints = process.communicate()
        pytest.fail(f"hangs\n{output}\n{complaints}")
    return Ended(process.returncode, output, complaints)


def run(ranks: int, job: str, *arguments: object) -> str:
    """The same for a job that must succeed; what it printed."""
    ended = launch(ranks, job, *arguments)
    assert (ended.status, ended.complaints) == (0, ""), f"{ended.complaints}\n{ended.output}"
    return ended.output.strip()
