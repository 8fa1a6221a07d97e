"""Code in processes of its own, with a time limit, and what shows whether Numba compiled something."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numba
import pytest

needs_jit = pytest.mark.skipif(
    bool(numba.config.DISABLE_JIT), reason="NUMBA_DISABLE_JIT is set: nothing is compiled"
)

# Before the code under test. A compilation of whatever kind runs passes; loading from disk runs none.
COUNT_PASSES = """
from numba.core import event
_passes = event.RecordingListener()
event.register("numba:run_pass", _passes)
def compiled():
    return bool(_passes.buffer)
"""

LIMIT = 300.0  # seconds, against hangs alone: a machine may be slow, and others may be at work on it

_ROOT = Path(__file__).parents[1]
_OURS = ("FASTOPT_", "NUMBA_", "OMP_", "PYTHON")


def script(*blocks: str) -> str:
    """Code in several blocks, each indented as it likes."""
    return "\n".join(map(textwrap.dedent, blocks))


def start(
    code: str, cache: Path | str, *, cwd: Path | None = None, **variables: str
) -> subprocess.Popen[str]:
    """Start Python on `code`, with fastopt's cache in `cache` and only these variables of ours."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(_OURS)}
    environment |= {"FASTOPT_CACHE_DIR": str(cache), "PYTHONPATH": str(_ROOT), **variables}
    # A session of its own, so that its children end with it.
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env=environment,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    """What the process printed; it must end in time with status 0, and warn of nothing."""
    try:
        output, complaints = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, complaints = process.communicate()
        pytest.fail(f"hangs\n{output}\n{complaints}")
    assert (process.returncode, complaints) == (0, ""), f"{complaints}\n{output}"
    return output.strip()


def run(code: str, cache: Path | str, *, cwd: Path | None = None, **variables: str) -> str:
    """Run `code` in a new process; what it printed."""
    return finish(start(code, cache, cwd=cwd, **variables))
