"""What untouched rows add to sums: a step may read the touched ones only where that is zero.

The function of each term is called with an update of zero and with `Unknown` numbers in place of all
others, once for each way through its branches. It must return zero whatever these numbers are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from types import SimpleNamespace
from typing import Any

import numpy as np

from fastopt.executors.reference import numpy_math
from fastopt.kernels.specialize import specialize
from fastopt.kernels.terms import Term, lengths, terms_after, terms_before
from fastopt.steps.group import Group
from fastopt.steps.sparse.closed_form import PARAM, ZeroGradientStep
from fastopt.transforms.base import ONCE

MOST_WAYS, MOST_BRANCHES = 256, 64


class Branches:
    """One way after the other through the branches of a function."""

    def __init__(self) -> None:
        self._taken: list[bool] = []
        self._depth = 0

    def ways(self) -> Iterator[None]:
        """Before each way, which `choose` then takes."""
        yield
        while self._taken:
            if self._taken.pop():
                self._taken.append(False)
                self._depth = 0
                yield

    def choose(self) -> bool:
        """What the next condition is on this way."""
        if self._depth == len(self._taken):
            if self._depth == MOST_BRANCHES:
                raise OverflowError(f"more than {MOST_BRANCHES} conditions in a row")
            self._taken.append(True)
        self._depth += 1
        return self._taken[self._depth - 1]


class Unknown:
    """A number of which nothing is known, but that zero times it is zero, and zero divided by it.

    Whatever else is computed with it is unknown too, but the difference to the one that it is `like`.
    """

    __slots__ = "_branches", "_like"

    def __init__(self, branches: Branches, like: Unknown | None = None) -> None:
        self._branches, self._like = branches, like

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        return self._computed(ufunc.__name__, *inputs)

    def _computed(self, operation: str, *numbers: Any) -> Any:
        zeros = [not isinstance(number, Unknown) and number == 0 for number in numbers]
        if operation == "multiply" and any(zeros):
            return np.float64(0.0)
        if operation in ("divide", "true_divide") and zeros[0]:
            return np.float64(0.0)
        if operation == "subtract" and any(_are_alike(*pair) for pair in (numbers, numbers[::-1])):
            return np.float64(0.0)
        return Unknown(self._branches)

    def __bool__(self) -> bool:
        return self._branches.choose()

    def _with(operation: str) -> Callable[..., Any]:  # type: ignore[misc]
        return lambda self, *others: self._computed(operation, self, *others)

    def _reflected(operation: str) -> Callable[..., Any]:  # type: ignore[misc]
        return lambda self, other: self._computed(operation, other, self)

    __mul__, __rmul__ = _with("multiply"), _reflected("multiply")
    __truediv__, __rtruediv__ = _with("divide"), _reflected("divide")
    __sub__, __rsub__ = _with("subtract"), _reflected("subtract")
    __add__ = __radd__ = __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = _with("other")
    __pow__ = __rpow__ = __neg__ = __pos__ = __abs__ = _with("other")
    __lt__ = __le__ = __gt__ = __ge__ = __eq__ = __ne__ = _with("other")


def _are_alike(one: Any, other: Any) -> bool:
    return isinstance(one, Unknown) and one._like is not None and one._like is other


@cache
def _substitutes() -> dict[int, Any]:
    """The functions of ``math`` for numbers that may be unknown, by the ``id`` of the originals."""

    def for_unknown(function: Any) -> Any:
        def call(*numbers: Any) -> Any:
            for number in numbers:
                if isinstance(number, Unknown):
                    return number._computed("other")
            return function(*numbers)

        return call

    known = vars(numpy_math(np.dtype(np.float64)))
    functions = {name: for_unknown(f) if callable(f) else f for name, f in known.items()}
    by_id = {id(getattr(math, name)): f for name, f in functions.items() if callable(f)}
    return {id(math): SimpleNamespace(**functions), **by_id}


@lru_cache(512)
def may_add(function: Any, starts: tuple[float | str, ...], reads: int, hypers: int) -> str | None:
    """What an untouched row may add to a sum, to be put behind "which"; None if it adds nothing.

    Parameters
    ----------
    function : function
        Of a `Term`.
    starts : tuple of float or str
        Its first argument: numbers, "param" for a new parameter equal to the old one, or "unknown".
    reads, hypers : int
        How many states and hyperparameters it gets.
    """
    term = specialize(function, np.float64, replace=_substitutes())
    for start in starts:
        branches = Branches()
        try:
            for number, _ in enumerate(branches.ways()):
                if number == MOST_WAYS:
                    raise OverflowError(f"more than {MOST_WAYS} ways through its branches")
                added = _call(term, start, branches, reads, hypers)
                if isinstance(added, Unknown):
                    return "depends on its other arguments"
                if added != 0:
                    return f"can be {float(added)!r}"
        except Exception as error:
            return f"cannot be told ({type(error).__name__}: {error})"
    return None


def _call(term: Any, start: float | str, branches: Branches, reads: int, hypers: int) -> Any:
    param, other, *more = (Unknown(branches) for _ in range(2 + reads + hypers))
    known = {"param": Unknown(branches, like=param), "unknown": other}
    first = known[start] if isinstance(start, str) else np.float64(start)
    with np.errstate(all="ignore"):
        return term(first, param, tuple(more[:reads]), tuple(more[reads:]))


ZEROS = 0.0, -0.0


def check_sums(group: Group) -> None:
    """Check that rows without a gradient add nothing to any sum of a group, or raise ValueError."""
    for term, name in _named_terms(group):
        at = term.position
        starts: tuple[float | str, ...] = ZEROS
        if at == "param" or (at == "transform" and group.parts[term.number].after):
            starts = ("param",)  # the new one is the old one
        elif at == "state":
            starts = ("unknown",)
        if (reason := may_add(term.function, starts, *lengths(term, group.parts))) is not None:
            raise ValueError(
                f"sparse gradients leave most rows unread, but {name} is over all rows: for those "
                f"without a gradient it adds up what its function returns for an update of 0, which "
                f"{reason}; leave it out, give dense gradients (sparse=None), or let its function "
                "return 0.0 for an update of 0.0"
            )


def check_exact_sums(group: Group, step: ZeroGradientStep) -> None:
    """Check that updates are zero where sums see them if gradients are, or raise ValueError."""
    for term, name in _named_terms(group):
        after = term.position == "transform" and group.parts[term.number].after
        seen = step.update if term.position == "update" else step.seen[term.number]
        still = seen.is_just(PARAM) if after else not seen.terms
        still = still and not (after and ONCE in group.no_gradient[: term.number])
        if term.position in ("update", "transform") and not still:
            raise ValueError(
                f"{name} must be of updates that are 0 without a gradient with sparse='exact', but "
                "weight decay, momentum or bounds come before it, which move rows without one too; "
                "sparse='lazy' does without"
            )


def _named_terms(group: Group) -> Iterator[tuple[Term, str]]:
    """All terms of a group's sums, with what users call each."""
    for index, (part, transform) in enumerate(zip(group.parts, group.chain, strict=True)):
        if part.sums is not None:
            terms = [*terms_before(part, index), *terms_after(part, index)]
            for term, name in zip(terms, part.sums.names, strict=True):
                yield term, f"sum {name!r} of {transform.label}"
    for term in group.stats:
        yield term, term.what
