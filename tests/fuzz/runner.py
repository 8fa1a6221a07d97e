"""Cases in processes of their own, so that a crash is a finding and not the end."""

import json
import os
import selectors
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tests.fuzz.kinds import KINDS
from tests.fuzz.shrink import shrink

ROOT = Path(__file__).parents[2]
LIMIT = 300.0  # seconds for a case, against hangs alone: a machine may be slow
SHRINKS = 20.0


class Finding(NamedTuple):
    """What was found, and how to see it again."""

    kind: str
    case: Any  # a seed, or plain data
    what: str

    def __str__(self) -> str:
        return f"{self.what}\n    python -m tests.fuzz --case {f'{self.kind}:{self.case}'!r}"


def attempt(kind: str, case: Any) -> str | None:
    """Try a case here; what is wrong."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            KINDS[kind].try_case(case)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {error} ({Path(where.filename).name}, {where.name})"
    return None


def _likeness(what: str) -> tuple[str, str]:
    """What findings of one cause have in common: the type of the error, and where it was raised."""
    return what.split(":")[0], what.rsplit("(", 1)[1]


def simplest(kind: str, seed: int, what: str) -> Finding:
    """The simplest case that fails like that of a seed."""
    case = KINDS[kind].draw(seed)

    def fails(other: Any) -> bool:
        failure = attempt(kind, other)
        return failure is not None and _likeness(failure) == _likeness(what)

    small = shrink(case, fails, SHRINKS)
    if small is case:
        return Finding(kind, seed, what)
    return Finding(kind, small, f"{attempt(kind, small) or what} (from {kind}:{seed})")


def work(kind: str, first: int, count: int) -> None:
    """The process of its own: a line before each seed, and one after it."""
    known = set()
    for seed in range(first, first + count):
        _say({"begins": seed})
        what = attempt(kind, KINDS[kind].draw(seed))
        finding = None if what is None else Finding(kind, seed, what)
        if what is not None and _likeness(what) not in known:  # of those alike one is enough
            known.add(_likeness(what))
            finding = simplest(kind, seed, what)
        _say({"ended": seed, "finding": finding and [repr(finding.case), finding.what]})


def _say(message: Any) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def tries(kind: str, first: int, count: int, seconds: float = 1e9) -> Iterator[Finding | None]:
    """The outcome for each seed, until they are through or the time is."""
    stop, seed, last = time.monotonic() + seconds, first, first + count
    while seed < last and time.monotonic() < stop:
        for outcome in _one_process(kind, seed, last - seed, stop):
            yield outcome
            seed += 1


def _one_process(kind: str, first: int, count: int, stop: float) -> Iterator[Finding | None]:
    """The outcomes from one process; the last is that of the seed at which it ended, if it did."""
    variables = os.environ | {"PYTHONFAULTHANDLER": "1"}
    variables.setdefault("FASTOPT_CACHE_DIR", str(ROOT / "build" / "cache" / "fuzz"))
    command = [sys.executable, "-m", "tests.fuzz", "--work", kind, str(first), str(count)]
    process = subprocess.Popen(
        command, cwd=ROOT, env=variables, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1,
    )  # fmt: skip
    begun = None
    try:
        for message in _messages(process):
            if message is None:
                break
            begun = message.get("begins")
            if begun is None:
                finding = message["finding"]
                yield finding and Finding(kind, *finding)
                if time.monotonic() > stop:
                    return
        if message is None:
            yield Finding(kind, begun, f"hangs for {LIMIT} s")
        elif process.wait() != 0:
            yield Finding(kind, begun, f"ended with {_name(process.returncode)}\n{_tail(process)}")
    finally:
        _end(process)


def _messages(process: Any) -> Iterator[Any]:
    """What the process says; None at the end if it says nothing for too long."""
    message: Any = {}
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while message is not None:
            if not selector.select(LIMIT + SHRINKS):
                message = None
            elif not (line := process.stdout.readline()):
                return
            else:
                message = json.loads(line)
            yield message


def _name(status: int) -> str:
    return signal.Signals(-status).name if status < 0 else f"status {status}"


def _tail(process: Any) -> str:
    return "\n".join(process.stderr.read().splitlines()[-12:])


def _end(process: Any) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    process.stdout.close()
    process.stderr.close()
