"""The body of every kernel, the chain applied to one element, as Python source."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastopt.kernels.job import Job


def hypers_of(job: Job) -> list[str]:
    """The names of the transforms' hyperparameters."""
    return [f"hyper{i}" for i in range(sum(part.hypers for part in job.parts))]


def chain_body(job: Job, scales: bool) -> list[str]:
    """The lines from loaded elements to those to be stored, with the new parameter as `new`.

    `scales` says whether the gradient is multiplied by `grad_factor` first.
    """
    slots, hypers = iter(job.arrays[2:]), iter(hypers_of(job))
    body = ["update = grad_factor * update"] if scales else []
    value = "update"
    for index, part in enumerate(job.parts):
        if part.after and value == "update":
            body.append("new = param - update")
            value = "new"
        arrays = list(islice(slots, len(part.slots)))
        passed = tuple_of(array.name for array in arrays if array.kind != "output")
        returned = tuple_of(array.name for array in arrays if array.kind != "input")
        hyper = tuple_of(islice(hypers, part.hypers))
        targets = f"{value}, {returned if part.written else '_'}"
        body.append(f"{targets} = transform{index}({value}, param, {passed}, {hyper})  # {part.name}")
    if value == "update":
        body.append("new = param - update")
    return body


def tuple_of(names: Iterable[str]) -> str:
    """The source of a tuple of names."""
    return "(" + "".join(f"{name}, " for name in names).rstrip() + ")"
