"""The number of threads of a step, and when it must run on one core.

Numba's threading layers cannot all be entered from two Python threads at once (``workqueue`` ends the
process), nor used in a forked child after the parent used them (GNU OpenMP kills the child, others
hang). So one step at a time is parallel in a process, and a concurrent step runs on its own core: with
the same bits, without waiting, and without more threads than cores. A forked child whose parent had
started the threads steps on one core.

Under ``workqueue`` a parallel function of the user's own may conflict too, and whether a thread is in
one cannot be determined; so steps are parallel there only while Python has no other thread.
Keeping the interpreter's lock would not help: Numba releases it around every parallel loop.
"""

from __future__ import annotations

import operator
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import cache
from typing import Any, TypeAlias

from fastopt.executors import thread_pool
from fastopt.validation import shown

Turn: TypeAlias = tuple[int, AbstractContextManager[object]]
ALONE: Turn = 1, nullcontext()

_chosen: int | None = None
_in_context: ContextVar[int | None] = ContextVar("fastopt_threads", default=None)
_running = threading.Lock()
_forking = threading.local()
_forked = False
_warned = False

# Locks that a child must not find taken, in the order in which they are taken, and where it says
# whether threads were started.
_LOCKS = (
    ("fastopt.kernels.machine_code", "linking"),
    ("numba.core.compiler_lock", "global_compiler_lock"),
)
_STARTED = (
    ("fastopt.executors.thread_pool", "is_started"),
    ("numba.np.ufunc.parallel", "_is_initialized"),
)


def _checked(n: Any) -> int:
    try:
        count = None if isinstance(n, bool) else operator.index(n)
    except TypeError:
        count = None
    if count is None:
        raise TypeError(f"n must be a whole number of threads, not {shown(n)}")
    if not 1 <= count <= thread_pool.available():
        raise ValueError(
            f"n must be between 1 and {thread_pool.available()}, the threads that Numba was started "
            f"with (environment variable NUMBA_NUM_THREADS), got {shown(n)}"
        )
    return count


def set_num_threads(n: int) -> None:
    """Let steps use `n` threads, in all Python threads of this process.

    Parameters
    ----------
    n : int
        From 1 to the number that Numba was started with: one a core, or ``NUMBA_NUM_THREADS``.

    Raises
    ------
    TypeError, ValueError
        `n` is not such a number.

    See Also
    --------
    threads : the same for a while, in the current context only.

    Examples
    --------
    >>> import fastopt
    >>> fastopt.set_num_threads(1)
    >>> fastopt.get_num_threads()
    1
    """
    global _chosen
    _chosen = _checked(n)


def get_num_threads() -> int:
    """The number of threads of a step of a large buffer, in the current context.

    Examples
    --------
    >>> import fastopt
    >>> with fastopt.threads(1):
    ...     fastopt.get_num_threads()
    1
    """
    return _in_context.get() or _chosen or thread_pool.available()


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Let steps inside the ``with`` block use `n` threads.

    It holds in the current thread (or asyncio task) only, and ends with the block. The result of a
    step does not depend on it, not even in the last bit.

    Parameters
    ----------
    n : int
        As in `set_num_threads`.

    Examples
    --------
    >>> import fastopt
    >>> with fastopt.threads(1):
    ...     fastopt.get_num_threads()
    1
    """
    token = _in_context.set(_checked(n))
    try:
        yield
    finally:
        _in_context.reset(token)


def parallel_turn() -> Turn:
    """The number of threads that a step may use now; more than one only for one step at a time.

    ``count, turn = parallel_turn()``, and the step is taken ``with turn``. That is entered and left by
    C: an interrupt cannot come in between and keep the lock. Of two steps that find it open in the same
    moment one waits for the other.
    """
    count = get_num_threads()
    if count == 1 or _in_forked_child() or _running.locked() or not _may_enter():
        return ALONE
    return count, _running


@cache
def layer() -> str:
    """The name of Numba's threading layer, which is chosen when its threads start; start them."""
    return thread_pool.start()


def _may_enter() -> bool:
    return layer() != "workqueue" or _only_thread()()


@cache
def _only_thread() -> Callable[[], bool]:
    """Return a function that tells whether this is Python's only thread.

    `threading` does not know those of `_thread`, nor those of C code that calls Python, and one that
    waits for the interpreter's lock has no frame yet; but the interpreter has a state of each.
    """
    import ctypes

    pointer, api = ctypes.c_void_p, ctypes.pythonapi
    interpreter = ctypes.PYFUNCTYPE(pointer)(("PyInterpreterState_Get", api))
    first = ctypes.PYFUNCTYPE(pointer, pointer)(("PyInterpreterState_ThreadHead", api))
    following = ctypes.PYFUNCTYPE(pointer, pointer)(("PyThreadState_Next", api))
    return lambda: following(first(interpreter())) is None


def _in_forked_child() -> bool:
    global _warned
    if _forked and not _warned:
        _warned = True
        warnings.warn(
            "fastopt: this process was forked after its parent had started Numba's threads, which "
            "cannot be used again here: steps run on one core. Start processes with 'spawn' or "
            "'forkserver' to use all cores in them.",
            RuntimeWarning,
            stacklevel=5,
        )
    return _forked


def _before_fork() -> None:
    """Wait for other threads that compile and link, whose locks nobody would release in the child."""
    _forking.locks = []
    for module, name in _LOCKS:
        lock = getattr(sys.modules.get(module), name, None)
        if lock is not None:
            lock.acquire()
            _forking.locks.append(lock)


def _after_fork() -> None:
    # Not there if the fork began before this was imported.
    for lock in reversed(getattr(_forking, "locks", ())):
        lock.release()


def _after_fork_in_child() -> None:
    global _forked, _running
    _after_fork()
    _running = threading.Lock()
    _forked = _forked or any(getattr(sys.modules.get(module), name, False) for module, name in _STARTED)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child
    )
