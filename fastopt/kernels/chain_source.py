"""The body of every kernel, the chain applied to one element, as Python source."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING

from fastopt.transforms.base import sums_in

if TYPE_CHECKING:
    from fastopt.kernels.job import Job
    from fastopt.transforms.base import Part


def hypers_of(job: Job) -> list[str]:
    """The names of the transforms' hyperparameters."""
    return [f"hyper{i}" for i in range(sum(part.given + part.hypers for part in job.parts))]


def chain_body(job: Job, scales: bool) -> list[str]:
    """The lines from loaded elements to those to be stored, with the new parameter as `new`.

    `scales` says whether the gradient is multiplied by `grad_factor` first.
    """
    names = _Names(job)
    body = ["update = grad_factor * update"] if scales else []
    body += [line for index in range(len(job.parts)) for line in _applied(names, index)]
    if names.value == "update":
        body.append("new = param - update")
    return body


def sums_body(job: Job, scales: bool) -> tuple[list[str], list[str]]:
    """The lines that compute the update which the last transform gets, and the terms of its sums."""
    names, last = _Names(job), len(job.parts) - 1
    part, sums = job.parts[last], sums_in(job.parts[last])
    # At the head nothing is rounded to float32, and no gradient is too large to be squared.
    is_first = last == 0 and not part.after
    factor = "float64(grad_factor) * " if scales and is_first else ""
    body = ["update = grad_factor * update"] if scales and not is_first else []
    body += [line for index in range(last) for line in _applied(names, index)]
    body += names.subtracted(part.after)
    read, _ = names.arrays(part)
    state, hyper = _in_float64(read), _in_float64(islice(names.hypers, sums.given))
    arguments = f"{factor}float64({names.value}), float64(param), {state}, {hyper}"
    return body, [f"summand{k}({arguments})" for k in range(len(sums.names))]


class _Names:
    """What is left of the arrays and hyperparameters, and the name of the current value."""

    def __init__(self, job: Job) -> None:
        self.parts, self.value = job.parts, "update"
        self.slots, self.hypers = iter(job.slots), iter(hypers_of(job))

    def subtracted(self, after: bool) -> list[str]:
        """The line that gets the new parameter, before the first transform that needs it."""
        if not after or self.value == "new":
            return []
        self.value = "new"
        return ["new = param - update"]

    def arrays(self, part: Part) -> tuple[list[str], list[str]]:
        """The names of a transform's elements that are read, and of those that are written."""
        slots = list(islice(self.slots, len(part.slots)))
        read = [array.name for array in slots if array.kind != "output"]
        return read, [array.name for array in slots if array.kind != "input"]


def _applied(names: _Names, index: int) -> list[str]:
    """The lines that apply a transform."""
    part = names.parts[index]
    body = names.subtracted(part.after)
    read, written = map(tuple_of, names.arrays(part))
    hyper = tuple_of(islice(names.hypers, part.given, part.given + part.hypers))
    targets = f"{names.value}, {written if part.written else '_'}"
    call = f"transform{index}({names.value}, param, {read}, {hyper})"
    return [*body, f"{targets} = {call}  # {part.name}"]


def _in_float64(names: Iterable[str]) -> str:
    return tuple_of(f"float64({name})" for name in names)


def tuple_of(names: Iterable[str]) -> str:
    """The source of a tuple of names."""
    return "(" + "".join(f"{name}, " for name in names).rstrip() + ")"
