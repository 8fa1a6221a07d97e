"""Modules that another thread is importing right now: `sys.modules` has them, half empty."""

import os
import sys
from types import ModuleType

import numpy as np
import pytest

import fastopt
from fastopt.executors import thread_pool, threads
from tests.subprocesses import run, script

HALF = ["numpy.ma", "scipy.sparse", "numba.np.ufunc.parallel"]


@pytest.fixture(params=HALF)
def half_imported(request, monkeypatch):
    fastopt.minimize(lambda x: (x @ x, 2 * x), np.ones(2), jac=True, maxiter=1)  # imports the rest
    monkeypatch.setitem(sys.modules, request.param, ModuleType(request.param))


@pytest.mark.usefixtures("half_imported")
def test_steps_work_meanwhile():
    w, table = np.ones(3), np.ones((4, 2))
    opt = fastopt.SGD([w, table], lr=0.5, sparse="lazy", executor="reference")
    opt.step([np.ones(3), (np.array([2]), np.ones((1, 2)))])
    assert w.tolist() == [0.5] * 3
    assert table.tolist() == [[1.0, 1.0], [1.0, 1.0], [0.5, 0.5], [1.0, 1.0]]
    assert fastopt.global_norm([np.full(4, 2.0)]) == 4.0
    assert fastopt.minimize(lambda x: (x @ x, 2 * x), np.ones(2), jac=True, maxiter=1).x.size == 2
    with pytest.raises(TypeError, match="must be a NumPy array"):
        fastopt.SGD([1.0])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
@pytest.mark.parametrize("half_imported", ["numba.np.ufunc.parallel"], indirect=True)
@pytest.mark.usefixtures("half_imported")
def test_forks(monkeypatch):
    monkeypatch.setattr(threads, "_forked", False)
    monkeypatch.setattr(threads, "_running", threads._running)
    monkeypatch.setattr(thread_pool, "is_started", False)
    threads._before_fork()
    threads._after_fork_in_child()
    assert not threads._forked


def test_masked_arrays_are_refused_by_all():
    masked = np.ma.masked_array([1.0, 2.0], [True, False])
    with pytest.raises(TypeError, match="must not be a masked array"):
        fastopt.SGD(masked)
    with pytest.raises(TypeError, match="must not be a masked array"):
        fastopt.SGD(np.ones(2)).step(masked)
    with pytest.raises(TypeError, match="must not be a masked array"):
        fastopt.minimize(lambda x: (x @ x, 2 * x), masked, jac=True)


def test_threads_that_import_at_once(tmp_path):
    """Names of fastopt that are asked for for the first time, by eight threads."""
    code = """
    import sys, threading
    sys.setswitchinterval(1e-6)
    import numpy as np, fastopt

    start, errors = threading.Barrier(8), []

    def use(name):
        start.wait()
        try:
            w = np.ones(3)
            getattr(fastopt, name)(w, executor="reference").step(w.copy())
        except BaseException as error:
            errors.append((name, repr(error)))

    def imports():
        start.wait()
        import numpy.ma, scipy.sparse

    names = ["RMSProp", "Adam", "SGD", "NAdam", "AdaGrad", "AdamW"]
    running = [threading.Thread(target=use, args=(name,)) for name in names]
    running += [threading.Thread(target=imports) for _ in range(2)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    print(errors)
    """
    assert run(script(code), tmp_path, FASTOPT_CACHE="0") == "[]"
