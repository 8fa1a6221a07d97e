"""What every kernel does with the numbers of one element, as Python source."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastopt.kernels.job import Job


def hypers_of(job: Job) -> list[str]:
    """The names of the transforms' numbers."""
    return [f"hyper{i}" for i in range(sum(part.hypers for part in job.parts))]


def chain_body(job: Job, scales: bool) -> list[str]:
    """From numbers that were loaded to those that are stored; that of the parameter is `new` then.

    `scales` says whether the gradient is multiplied by `grad_factor` first.
    """
    slots, hypers = iter(job.arrays[2:]), iter(hypers_of(job))
    body = ["update = grad_factor * update"] if scales else []
    value = "update"
    for index, part in enumerate(job.parts):
        if part.after and value == "update":
            body.append("new = param - update")
            value = "new"
        own = list(islice(slots, len(part.slots)))
        given = tuple_of(array.name for array in own if array.kind != "output")
        returned = tuple_of(array.name for array in own if array.kind != "input")
        numbers = tuple_of(islice(hypers, part.hypers))
        targets = f"{value}, {returned if part.written else '_'}"
        body.append(f"{targets} = transform{index}({value}, param, {given}, {numbers})  # {part.name}")
    if value == "update":
        body.append("new = param - update")
    return body


def tuple_of(names: Iterable[str]) -> str:
    """A tuple of names."""
    return "(" + "".join(f"{name}, " for name in names).rstrip() + ")"
