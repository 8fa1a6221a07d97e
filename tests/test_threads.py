"""Threads: how many are used, and that nothing that Python programs do with threads and forks harms."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest

import fastopt
from tests.subprocesses import LIMIT, needs_jit, run, script

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")

# More than this machine may have, so that there is something to choose.
THREADS = {"NUMBA_NUM_THREADS": "4"}

# Steps of a buffer on all threads, and the same on one thread from the same start.
STEPS = """
import os, signal, sys, threading, time, warnings
import numpy as np, numba, fastopt
from fastopt.executors import dispatch, threads

warnings.simplefilter("error")
SIZE = 3 * dispatch.AUTO_THRESHOLD + 7
GRAD = np.random.default_rng(0).standard_normal(SIZE, np.float32)

def stepped(seed, steps, executor="auto"):
    w = np.full(SIZE, seed, np.float32)
    opt = fastopt.RMSProp(w, lr=0.1, momentum=0.9, executor=executor)
    for _ in range(steps):
        opt.step(GRAD)
    return w

def right(w, seed, steps):
    return w.tobytes() == stepped(seed, steps, "serial").tobytes()
"""

IN_CHILD = """
def in_child(work):
    '''What `work` returned in a forked child, or what became of the child.'''
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of fork in a process with threads
        child = os.fork()
    if child == 0:
        try:
            os.write(writer, repr(work()).encode())
        except BaseException as error:
            os.write(writer, repr(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader) as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    return answer if status == 0 else f"status {status}"

def warned():
    '''Whether steps are right, and how many warnings they give.'''
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        w = stepped(1.0, 3)
    return right(w, 1.0, 3), [(one.category.__name__, "forked" in str(one.message)) for one in caught]
"""
ONCE = "(True, [('RuntimeWarning', True)])"
NEVER = "(True, [])"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled once for all subprocesses."""
    folder = tmp_path_factory.mktemp("cache")
    assert run(STEPS + "print(right(stepped(1.0, 2), 1.0, 2))", folder, **THREADS) == "True"
    return folder


@pytest.fixture(scope="module", params=["omp", "tbb", "workqueue"])
def layer(request: pytest.FixtureRequest, cache: Path) -> dict[str, str]:
    """Environment variables that choose one of Numba's threading layers."""
    variables = {**THREADS, "NUMBA_THREADING_LAYER": request.param}
    if request.param == "tbb" and sys.platform == "linux":
        variables["LD_LIBRARY_PATH"] = f"{sys.prefix}/lib"  # where pip puts it
    code = """
    try:
        print(right(stepped(1.0, 1), 1.0, 1))
    except ValueError as error:
        print(error)
    """
    answer = run(script(STEPS, code), cache, **variables)
    if "No threading layer could be loaded" in answer:
        pytest.skip(f"Numba finds no library for the threading layer {request.param}")
    assert answer == "True"
    return variables


def test_counts(tmp_path: Path) -> None:
    """Set for all, or in a block for the current thread; blocks nest and end, also by exceptions."""
    code = """
    import fastopt
    from concurrent.futures import ThreadPoolExecutor
    elsewhere = ThreadPoolExecutor(1)

    def show():
        print(fastopt.get_num_threads(), elsewhere.submit(fastopt.get_num_threads).result())

    show()
    fastopt.set_num_threads(3)
    show()
    with fastopt.threads(2):
        show()
        with fastopt.threads(4):
            show()
        show()
        fastopt.set_num_threads(1)
        show()
    try:
        with fastopt.threads(2):
            raise KeyError
    except KeyError:
        show()
    """
    counts = run(script(code), tmp_path, **THREADS).splitlines()
    assert counts == ["4 4", "3 3", "2 3", "4 3", "2 3", "2 1", "1 1"]


def test_count_belongs_to_the_asyncio_task() -> None:
    outside = fastopt.get_num_threads()

    async def inside(n: int) -> int:
        with fastopt.threads(n):
            await asyncio.sleep(0)  # the other task enters its block
            return fastopt.get_num_threads()

    async def both() -> list[int]:
        return await asyncio.gather(inside(1), inside(numba.config.NUMBA_NUM_THREADS))

    assert asyncio.run(both()) == [1, numba.config.NUMBA_NUM_THREADS]
    assert fastopt.get_num_threads() == outside


@pytest.mark.parametrize(
    ("n", "error"),
    [
        *((n, ValueError) for n in (0, -1, 10_000)),
        *((n, TypeError) for n in (1.0, "1", True, None, [1], np.ones(1, int), np.ones(2, int))),
        pytest.param(10**5000, ValueError, id="huge"),
    ],
)
def test_count_is_checked(n: Any, error: type[Exception]) -> None:
    original = fastopt.get_num_threads()
    with pytest.raises(error, match=r"^n must be"):
        fastopt.set_num_threads(n)
    with pytest.raises(error, match=r"^n must be"), fastopt.threads(n):
        pass
    assert fastopt.get_num_threads() == original


@needs_jit
def test_threads_step_at_once(layer: dict[str, str], cache: Path) -> None:
    """From the first parallel call on: one thread at a time is parallel, the others are serial.

    Under workqueue all are, since any of them could be in a parallel function of the user's own.
    """
    code = """
    from concurrent.futures import ThreadPoolExecutor

    SIZE, GRAD = 10 * SIZE, np.tile(GRAD, 10)  # long enough for other threads to come meanwhile
    parallel_turn, used = threads.parallel_turn, set()

    def watched():
        count, turn = parallel_turn()
        used.add(count)
        return count, turn

    threads.parallel_turn = watched
    barrier = threading.Barrier(8)

    def work(i):
        barrier.wait()
        return stepped(float(i), 40)

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(work, range(8)))
    print(all(right(w, float(i), 40) for i, w in enumerate(results)), used, numba.threading_layer())
    """
    name = layer["NUMBA_THREADING_LAYER"]
    expected = f"True { ({1} if name == 'workqueue' else {1, 4}) } {name}"
    assert run(script(STEPS, code), cache, **layer) == expected


@needs_jit
@needs_fork
def test_child_forked_after_a_parallel_step(layer: dict[str, str], cache: Path) -> None:
    """It steps on one core and says so once; so do its own children, and the parent continues."""
    code = """
    print(right(stepped(1.0, 2), 1.0, 2), numba.threading_layer())
    print(in_child(warned))
    print(in_child(lambda: in_child(warned)))
    print(in_child(lambda: (warned(), warned())))
    print(right(stepped(2.0, 2), 2.0, 2))
    """
    expected = [
        f"True {layer['NUMBA_THREADING_LAYER']}",
        ONCE,
        repr(ONCE),
        f"({ONCE}, {NEVER})",
        "True",
    ]
    assert run(script(STEPS, IN_CHILD, code), cache, **layer).splitlines() == expected


@needs_jit
@needs_fork
def test_child_forked_before_any_parallel_step(layer: dict[str, str], cache: Path) -> None:
    """It has threads of its own, which a grandchild has not."""
    code = """
    stepped(1.0, 1, "serial")
    print(in_child(lambda: (warned(), numba.threading_layer(), in_child(warned))))
    print(right(stepped(2.0, 2), 2.0, 2))
    """
    expected = [f"({NEVER}, '{layer['NUMBA_THREADING_LAYER']}', {ONCE!r})", "True"]
    assert run(script(STEPS, IN_CHILD, code), cache, **layer).splitlines() == expected


@needs_jit
@needs_fork
def test_child_forked_in_the_middle_of_a_step(layer: dict[str, str], cache: Path) -> None:
    code = """
    stop = threading.Event()
    results = []

    def work():
        w = np.full(SIZE, 1.0, np.float32)
        opt = fastopt.RMSProp(w, lr=0.1, momentum=0.9)
        while not stop.is_set():
            opt.step(GRAD)
        results.append((w, opt.step_count))

    stepped(1.0, 1)
    worker = threading.Thread(target=work)
    worker.start()
    for _ in range(10):
        soon = time.monotonic() + 0.2  # under workqueue no step is parallel while there are two threads
        while not threads._running.locked() and time.monotonic() < soon:
            pass
        print(in_child(warned))
    stop.set()
    worker.join()
    w, steps = results[0]
    print(right(w, 1.0, steps))
    """
    lines = run(script(STEPS, IN_CHILD, code), cache, **layer).splitlines()
    # TBB tells that it cannot stop its threads for the fork; they stay in the parent, and work on.
    lines = [line for line in lines if line and not line.startswith("Unable to join threads")]
    assert lines == [ONCE] * 10 + ["True"]


@needs_jit
@needs_fork
def test_child_forked_in_the_middle_of_a_compilation(layer: dict[str, str], cache: Path) -> None:
    """The child compiles too; it would wait forever for a lock that the other thread had taken."""
    code = """
    from numba.core.compiler_lock import global_compiler_lock

    taken = threading.Event()

    def work():
        with global_compiler_lock:
            taken.set()
            time.sleep(0.3)

    def compiled():
        w = np.zeros(3, np.float32)
        fastopt.SGD(w, lr=0.1, momentum=0.5).step(np.ones(3, np.float32))
        return w.tolist()

    worker = threading.Thread(target=work)
    worker.start()
    taken.wait()
    print(in_child(compiled) == repr(compiled()))
    worker.join()
    """
    assert run(script(STEPS, IN_CHILD, code), cache, **layer).splitlines()[-1] == "True"


@needs_jit
@needs_fork
def test_child_forked_while_numba_is_imported(tmp_path: Path) -> None:
    """By another thread, which compiles: the child imports it too, and compiles."""
    code = """
    # Imported while the fork waits, these complain of locks that they have not taken.
    import concurrent.futures.thread, logging
    import os, sys, threading, time
    import numpy as np, fastopt

    def stepped(optimizer):
        w = np.zeros(3, np.float32)
        optimizer(w, lr=0.1).step(np.ones(3, np.float32))
        return w.tolist()

    first, second = fastopt.SGD, fastopt.AdaGrad
    worker = threading.Thread(target=stepped, args=[first])
    worker.start()
    while "numba" not in sys.modules:
        time.sleep(0.001)
    print(in_child(lambda: stepped(second)) == repr(stepped(second)))
    worker.join()
    """
    assert run(script("import warnings", IN_CHILD, code), tmp_path) == "True"


@needs_jit
@needs_fork
def test_multiprocessing_by_fork(layer: dict[str, str], cache: Path) -> None:
    code = """
    import multiprocessing

    def work(_):
        return repr(warned())

    stepped(1.0, 2)
    warnings.simplefilter("ignore", DeprecationWarning)  # of fork in a process with threads
    with multiprocessing.get_context("fork").Pool(2) as pool:
        print(*pool.map(work, range(2), chunksize=2))  # both in one of the children
        pool.close()
        pool.join()
    """
    assert run(script(STEPS, IN_CHILD, code), cache, **layer) == f"{ONCE} {NEVER}"


@needs_jit
@pytest.mark.parametrize("executor", ["serial", "parallel"])
def test_kernels_release_the_gil(executor: str) -> None:
    """With a switch interval of hours, another thread runs during a step only if the step lets it."""
    w, g = np.zeros(1 << 22, np.float32), np.ones(1 << 22, np.float32)
    opt = fastopt.RMSProp(w, executor=executor)
    opt.step(g)
    inside = seen = False

    def steps() -> None:
        nonlocal inside
        end = time.monotonic() + LIMIT
        while not seen and time.monotonic() < end:
            inside = True
            opt.step(g)
            inside = False

    original = sys.getswitchinterval()
    sys.setswitchinterval(10_000)
    try:
        worker = threading.Thread(target=steps)
        worker.start()
        while worker.is_alive() and not seen:
            seen = inside
            time.sleep(0)
    finally:
        sys.setswitchinterval(original)
        worker.join()
    assert seen
