"""Steps beside parallel functions of the user, under the layer that two must not enter at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.subprocesses import needs_jit, run, script

pytestmark = needs_jit

WORKQUEUE = {"NUMBA_NUM_THREADS": "4", "NUMBA_THREADING_LAYER": "workqueue"}

BEGIN = """
import _thread, ctypes, threading, time
import numba, numpy as np, fastopt
from fastopt.executors import dispatch, threads

SIZE = 3 * dispatch.AUTO_THRESHOLD + 7
GRAD = np.random.default_rng(0).standard_normal(SIZE, np.float32)
OPTIONS = dict(lr=0.1, momentum=0.9, clip_norm=1.0)

def stepped(steps, executor="auto"):
    w = np.full(SIZE, 1.0, np.float32)
    opt = fastopt.RMSProp(w, executor=executor, **OPTIONS)
    for _ in range(steps):
        opt.step(GRAD)
    return w

used = set()

def watch():
    '''From here on, note how many threads steps may use.'''
    parallel_turn = threads.parallel_turn

    def watched():
        count, turn = parallel_turn()
        used.add(count)
        return count, turn

    threads.parallel_turn = watched

@numba.njit(parallel=True, nogil=True)
def own(x):
    total = 0.0
    for i in numba.prange(x.size):
        total += x[i] ** 0.5
    return total

X = np.ones(30_000)
calls = 0
stop = False

def work():
    global calls
    while not stop:
        own(X)
        calls += 1

def finish():
    '''Steps until the other thread has been at work for a while, and whether they are right.'''
    global stop
    before, right = calls, True
    expected = stepped(5, "serial").tobytes()
    rounds = 0
    while calls < before + 300 or rounds < 10:
        right &= stepped(5).tobytes() == expected
        rounds += 1
    stop = True
    print(right, used, threads.layer())
"""

STARTS = {
    "threading": "threading.Thread(target=work).start()",
    "_thread": "_thread.start_new_thread(work, ())",
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled once for all subprocesses."""
    return tmp_path_factory.mktemp("cache")


def test_alone_a_step_uses_all_threads(cache: Path) -> None:
    code = """
    watch()
    right = stepped(5).tobytes() == stepped(5, "serial").tobytes()
    print(right, used, threads.layer())
    """
    assert run(script(BEGIN, code), cache, **WORKQUEUE) == "True {4} workqueue"


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_beside_a_thread_of_python(start: str, cache: Path) -> None:
    code = f"""
    own(X)
    {start}
    while not calls:
        time.sleep(0.001)
    watch()
    finish()
    """
    assert run(script(BEGIN, code), cache, **WORKQUEUE) == "True {1} workqueue"


@pytest.mark.skipif(os.name != "posix", reason="such a thread is made by pthread_create")
def test_beside_a_thread_of_c(cache: Path) -> None:
    code = """
    own(X)
    expected = stepped(1, "serial").tobytes()
    stepped(1)
    watch()

    @ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)
    def call(_):
        work()

    library, handle = ctypes.CDLL(None), ctypes.c_void_p()
    library.pthread_create(ctypes.byref(handle), None, call, None)
    while not calls:
        time.sleep(0.001)
    finish()
    library.pthread_join(handle, None)
    used.clear()
    print(stepped(1).tobytes() == expected, used)
    """
    lines = run(script(BEGIN, code), cache, **WORKQUEUE).splitlines()
    assert lines == ["True {1} workqueue", "True {4}"]
