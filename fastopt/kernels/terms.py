"""Terms: the numbers that a step adds up over the elements while it goes over them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

from fastopt.transforms.base import Part
from fastopt.transforms.sums import Summand

Position: TypeAlias = Literal["transform", "gradient", "update", "param", "state"]


class Term(NamedTuple):
    """A function of one element, ``function(update, param, state, hyper) -> number`` in float64.

    At a transform it gets what the transform's `update` gets. Elsewhere its first argument is the
    gradient before it is multiplied by anything, the update that is subtracted, the new parameter or
    the new value of a state; `state` and `hyper` are empty.
    """

    function: Summand
    what: str  # for errors
    position: Position
    number: int = 0  # of the transform, or of the state's slot in the chain


def terms_of(parts: Sequence[Part], stats: Sequence[Term]) -> list[Term]:
    """All terms of a step: those of the transforms' sums, and of statistics."""
    return [*(term for i, part in enumerate(parts) for term in terms_after(part, i)), *stats]


def terms_after(part: Part, index: int) -> list[Term]:
    """The terms of the sums of a transform that are for the next step."""
    return [] if part.sums is None else _terms(part, index, part.sums.names_after, part.sums.after)


def terms_before(part: Part, index: int) -> list[Term]:
    """The terms of the sums of a transform that are for the same step."""
    return [] if part.sums is None else _terms(part, index, part.sums.names, part.sums.summands)


def _terms(part: Part, index: int, names: Sequence[str], functions: Sequence[Summand]) -> list[Term]:
    return [
        Term(function, f"sum {name!r} of transform {part.name!r}", "transform", index)
        for name, function in zip(names, functions, strict=False)
    ]


def lengths(term: Term, parts: Sequence[Part]) -> tuple[int, int]:
    """The number of states and of hyperparameters that the function of a term gets."""
    if term.position != "transform":
        return 0, 0
    part = parts[term.number]
    return part.read, part.hypers if part.sums is None else part.from_host
