"""The body of every kernel, the chain applied to one element, as Python source."""

from __future__ import annotations

import dis
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from fastopt.kernels.closure import python_of
from fastopt.kernels.job import CORRECTION
from fastopt.transforms.base import sums_in

if TYPE_CHECKING:
    from fastopt.kernels.job import Job, KernelArray
    from fastopt.kernels.terms import Position
    from fastopt.transforms.base import Part


def hypers_of(job: Job) -> list[str]:
    """The names of the transforms' hyperparameters."""
    return [f"hyper{i}" for i in range(sum(part.from_host + part.hypers for part in job.parts))]


def hypers_read(job: Job, summing: bool) -> tuple[dict[str, int], list[str]]:
    """The hyperparameters that a chain reads: from the host, by index among all, and from sums.

    With `summing` the last transform only has its sums added up.
    """
    host: dict[str, int] = {}
    from_sums: list[str] = []
    first = 0
    for position, part in enumerate(job.parts):
        settings = range(first, first + part.from_host)
        decided = range(first + part.from_host, first + part.from_host + part.hypers)
        first = decided.stop
        if part.sums is None:
            host |= {f"hyper{i}": i for i in decided}
        elif summing and position == len(job.parts) - 1:
            host |= {f"hyper{i}": i for i in settings}
        else:
            from_sums += [f"hyper{i}" for i in decided]
            if part.sums.after and not summing:  # which its terms take
                host |= {f"hyper{i}": i for i in settings}
    return host, from_sums


def chain_body(job: Job, scales: bool) -> list[str]:
    """The lines from loaded elements to those to be stored, with the new parameter as `new`.

    `scales` says whether the gradient is multiplied by `grad_factor` first. The number that the step
    adds up for the k-th term of the job is `term{k}`.
    """
    names, terms = _Names(job), _Terms(job)
    body = terms.of_value("gradient", "update")
    scaling = _scaling(scales)
    for index, part in enumerate(job.parts):
        if part.after and names.value == "update":
            body += [*scaling, *terms.of_value("update", "update"), *names.subtracted()]
            scaling = []
        elements = names.of(part)
        body += terms.lines("transform", _arguments(names, elements, bool(scaling)), index)
        body += [*scaling, _applied(names, index, elements)]
        scaling = []
    if names.value == "update":
        body += [*scaling, *terms.of_value("update", "update"), *names.subtracted()]
    body += terms.of_value("param", "new")
    for index, array in enumerate(job.slots):
        body += terms.of_value("state", array.name, index)
    return body


def sums_body(job: Job, scales: bool) -> tuple[list[str], list[str]]:
    """The lines that compute the update which the last transform gets, and the terms of its sums."""
    names, last = _Names(job), len(job.parts) - 1
    part, sums = job.parts[last], sums_in(job.parts[last])
    at_head = last == 0 and not part.after
    body = [] if at_head else _scaling(scales)
    for index, earlier in enumerate(job.parts[:last]):
        if earlier.after and names.value == "update":
            body += names.subtracted()
        body.append(_applied(names, index, names.of(earlier)))
    if part.after and names.value == "update":
        body += names.subtracted()
    elements, unread = names.of(part), _slots_unread(job)
    elements = elements._replace(read=["zero" if n in unread else n for n in elements.read])
    arguments = _arguments(names, elements, at_head and scales)
    return body, [f"summand{k}({arguments})" for k in range(len(sums.summands))]


def _scaling(scales: bool) -> list[str]:
    return ["update = grad_factor * update"] if scales else []


class _Elements(NamedTuple):
    """The names of a transform's elements and hyperparameters."""

    read: list[str]
    written: list[str]
    in_terms: list[str]  # hyperparameters that its terms take,
    in_update: list[str]  # and those that its update takes


def _is_read(function: object, position: int) -> bool:
    """Whether a function reads an argument."""
    code = python_of(function).__code__
    name = code.co_varnames[position]
    values = (instruction.argval for instruction in dis.get_instructions(code))
    return any(value == name or (type(value) is tuple and name in value) for value in values)


def _items_read(function: object, position: int) -> set[int] | None:
    """The items that a function reads of a tuple, an argument; None if that cannot be told."""
    code = python_of(function).__code__
    name, items = code.co_varnames[position], set[int]()
    steps = list(dis.get_instructions(code))
    for number, step in enumerate(steps):
        names = step.argval if type(step.argval) is tuple else (step.argval,)
        if name not in names:
            continue
        if not step.opname.startswith("LOAD_FAST") or names.index(name) != len(names) - 1:
            return None
        index, subscript = (*steps[number + 1 :], step, step)[:2]
        is_constant = index.opname in ("LOAD_CONST", "LOAD_SMALL_INT") and type(index.argval) is int
        is_item = subscript.opname == "BINARY_SUBSCR" or subscript.argrepr == "[]"
        if not (is_constant and is_item and index.argval >= 0):
            return None
        items.add(index.argval)
    return items


def _slots_unread(job: Job) -> set[str]:
    """The arrays of the last transform that none of its sums reads."""
    names, last = _Names(job), job.parts[-1]
    elements = [names.of(part) for part in job.parts][-1]
    items: set[int] = set()
    for summand in sums_in(last).summands:
        of_summand = _items_read(summand, 2)
        if of_summand is None:
            return set()
        items |= of_summand
    return {name for index, name in enumerate(elements.read) if index not in items}


def arrays_read(job: Job) -> list[KernelArray]:
    """The arrays that are read: not the parameter, nor states of the last transform, if no function
    needs them.
    """
    *earlier, last = job.parts
    sums, unread = sums_in(last), _slots_unread(job)
    functions = [*(part.update for part in earlier), *sums.summands]
    reads_param = last.after or any(part.after or _is_read(part.update, 1) for part in earlier)
    reads_param = reads_param or any(_is_read(function, 1) for function in functions)
    arrays = [array for array in job.arrays if array.kind != "output" and array.name not in unread]
    if reads_param:
        return arrays
    return [array for array in arrays[1:] if array.kind != CORRECTION]


class _Names:
    """What is left of the arrays and hyperparameters, and the name of the current value."""

    def __init__(self, job: Job) -> None:
        self.parts, self.value = job.parts, "update"
        self.slots, self.hypers = iter(job.slots), iter(hypers_of(job))

    def subtracted(self) -> list[str]:
        """The line that gets the new parameter."""
        self.value = "new"
        return ["new = param - update"]

    def of(self, part: Part) -> _Elements:
        """The names of the next transform's elements and hyperparameters."""
        slots = list(islice(self.slots, len(part.slots)))
        read = [array.name for array in slots if array.kind != "output"]
        written = [array.name for array in slots if array.kind != "input"]
        from_host = list(islice(self.hypers, part.from_host))
        in_update = list(islice(self.hypers, part.hypers))
        return _Elements(read, written, in_update if part.sums is None else from_host, in_update)


class _Terms:
    """The lines that compute the terms of a job."""

    def __init__(self, job: Job) -> None:
        self._terms = list(enumerate(job.terms))

    def lines(self, position: Position, arguments: str, index: int = 0) -> list[str]:
        """The lines of the terms at a position."""
        at = [k for k, term in self._terms if (term.position, term.number) == (position, index)]
        return [f"term{k} = observe{k}({arguments})" for k in at]

    def of_value(self, position: Position, name: str, index: int = 0) -> list[str]:
        """The same where the function gets one number."""
        return self.lines(position, f"float64({name}), float64(param), (), ()", index)


def _arguments(names: _Names, elements: _Elements, scales: bool) -> str:
    """What the terms of a transform get; with `scales` of the gradient before it is multiplied.

    So nothing is rounded to float32 at the head, and no gradient is too large to be squared.
    """
    factor = "float64(grad_factor) * " if scales else ""
    state, hyper = _in_float64(elements.read), _in_float64(elements.in_terms)
    return f"{factor}float64({names.value}), float64(param), {state}, {hyper}"


def _applied(names: _Names, index: int, elements: _Elements) -> str:
    """The line that applies a transform."""
    part = names.parts[index]
    targets = f"{names.value}, {tuple_of(elements.written) if part.written else '_'}"
    arguments = f"{names.value}, param, {tuple_of(elements.read)}, {tuple_of(elements.in_update)}"
    return f"{targets} = transform{index}({arguments})  # {part.name}"


def _in_float64(names: Iterable[str]) -> str:
    return tuple_of(f"float64({name})" for name in names)


def tuple_of(names: Iterable[str]) -> str:
    """The source of a tuple of names."""
    return "(" + "".join(f"{name}, " for name in names).rstrip() + ")"
