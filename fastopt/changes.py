"""Changes that are made as a whole: no interrupt comes between their parts.

Python serves Ctrl-C, and raises what a trace or another thread asks for, while it runs code of Python.
So what can fail is done first, to one side; what then is to change is listed as calls of functions of
C, and these are called by a loop of C.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from operator import call, setitem
from typing import Any, TypeAlias

Change: TypeAlias = Callable[[], object]


def put(target: object, values: object, where: object = ...) -> Change:
    """``target[where] = values``, for an array and values that fit."""
    return partial(setitem, target, where, values)


def assign(owner: object, name: str, value: object) -> Change:
    """``owner.name = value``, for an attribute that is no property."""
    return partial(setattr, owner, name, value)


def make(changes: Sequence[Change]) -> list[Any]:
    """Make all of them; what the calls returned."""
    return list(map(call, changes))


@contextmanager
def for_now(forth: Sequence[Change], back: Sequence[Change]) -> Iterator[None]:
    """Make changes for as long as a ``with`` lasts, then those that undo them.

    Changes back may be functions of Python, which can be interrupted: after any exception all of them
    are made once more, and then it is raised.
    """
    try:
        try:
            make(forth)
            yield
        finally:
            make(back)
    except BaseException:
        make(back)
        raise
