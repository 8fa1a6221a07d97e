"""The kernels of a chain for a CUDA device, as Python source.

The mathematics of one element is one function, `element`, that all of them call. `wide` has a thread
for each group of elements that fills 16 bytes and one for each element of the tail; `scalar` has a
thread for each element, for arrays that are not aligned; `many` does both for pieces of many arrays,
by a table in the memory of the device. None of them has a loop: a loop would be unrolled, with a
division for its trip count and more registers.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import NamedTuple

from fastopt.executors.compiled import Job
from fastopt.layouts.columns import GRAD_FACTOR, NUMBERS, PHASE

# What decides over a step on the device itself, in words of 8 bytes (see `norm`).
NORM, FINITE, FACTOR, FACTOR32, SKIP, SKIPPED = range(6)
CONTROL_WORDS = 6

# Whether the steps just before were skipped is known on the device only, and so is the number of this
# one. The launch brings the numbers for the case that none was; if some were, those of an earlier
# launch are right, which are kept for so many steps.
KEPT = 1024

# A piece of many arrays: the address of its row, first and last element, and how many whole groups.
ROW, START, STOP, GROUPS = range(4)
PIECE_WORDS = 4


class Form(NamedTuple):
    """What a kernel is compiled for, beside its job."""

    watched: bool = False  # the factor, and whether to step at all, are found on the device
    capturable: bool = False  # the numbers are in the memory of the device, not in the launch
    recalls: bool = False  # the numbers of an earlier launch are taken after a step was skipped


class Names:
    """The names in the kernels of a job: its arrays, and which of them are read and written."""

    def __init__(self, job: Job, form: Form) -> None:
        self.kinds = {array.name: array.kind for array in job.arrays}
        self.arrays = list(self.kinds)
        self.loaded = [name for name, kind in self.kinds.items() if kind != "output"]
        self.slots = self.arrays[2:]
        self.stored = ["param", *(name for name in self.slots if self.kinds[name] != "input")]
        self.dithered = {array.name for array in job.arrays if array.storage.dithered}
        self.hypers = [f"hyper{i}" for i in range(sum(part.hypers for part in job.parts))]
        # The numbers of a step by their place in the buffer of hyperparameters.
        self.places = {"phase": PHASE} if self.dithered else {}
        self.places |= {name: place for place, name in enumerate(self.hypers, NUMBERS)}
        # A watched step has its factor from the device.
        self.factor = ["grad_factor"] if job.scales or form.watched else []
        if self.factor and not form.watched:
            self.places = {"grad_factor": GRAD_FACTOR, **self.places}
        self.numbers = [*self.factor, *self.hypers]
        self.given = ["numbers_at"] if form.capturable else list(self.places)
        self.control = ["control_at"] if form.watched else []
        self.recall = ["kept_at", "place", "expected"] if form.recalls else []
        # For random bits: the number of the first element among all, and where the table is.
        self.first = ["first", "table"] if self.dithered else []

    def store(self, name: str, value: str, wide: bool = False) -> str:
        """The statement that stores an element, or a group."""
        more = ", first, table, phase" if name in self.dithered else ""
        return f"store_{'wide_' if wide else ''}{name}({name}_at, i, {value}{more})"

    @property
    def addresses(self) -> list[str]:
        return [f"{name}_at" for name in self.arrays]


def element(job: Job, form: Form) -> str:
    """The mathematics: from the numbers of one element to those to be stored."""
    names = Names(job, form)
    slots, hypers = iter(names.slots), iter(names.hypers)
    body = ["update = grad_factor * update"] if names.factor else []
    value = "update"
    for index, part in enumerate(job.parts):
        if part.after and value == "update":
            body.append("new = param - update")
            value = "new"
        own = list(islice(slots, len(part.slots)))
        given = _tuple(name for name in own if names.kinds[name] != "output")
        returned = _tuple(name for name in own if names.kinds[name] != "input")
        numbers = _tuple(islice(hypers, part.hypers))
        targets = f"{value}, {returned if part.written else '_'}"
        body.append(f"{targets} = transform{index}({value}, param, {given}, {numbers})  # {part.name}")
    if value == "update":
        body.append("new = param - update")
    body.append(f"return {_tuple(['new', *names.stored[1:]])}")
    arguments = ", ".join([*names.loaded, *names.numbers])
    return _function(f"element({arguments})", body)


def wide(job: Job, form: Form, width: int) -> str:
    """One array whose addresses allow wide accesses: `groups` whole groups, then the tail."""
    names = Names(job, form)
    body = [*_head(names, form), "thread = cuda.grid(1)", "if thread < groups:"]
    body += _indented([f"i = thread * {width}", *_group(names, job, width)])
    body += ["else:"]
    body += _indented([f"i = groups * {width} + (thread - groups)", "if i < length:"])
    body += _indented(_indented(_single(names, job)))
    arguments = [
        "length",
        "groups",
        *names.addresses,
        *names.first,
        *names.control,
        *names.recall,
        *names.given,
    ]
    return _function(f"wide({', '.join(arguments)})", body)


def scalar(job: Job, form: Form) -> str:
    """One array at any address."""
    names = Names(job, form)
    body = [*_head(names, form), "i = cuda.grid(1)", "if i < length:"]
    body += _indented(_single(names, job))
    arguments = ["length", *names.addresses, *names.first, *names.control, *names.recall, *names.given]
    return _function(f"scalar({', '.join(arguments)})", body)


def many(job: Job, form: Form, width: int) -> str:
    """Many arrays: each block works on the piece that the table says."""
    names = Names(job, form)
    body = [*_head(names, form), f"piece = pieces_at + {8 * PIECE_WORDS} * cuda.blockIdx.x"]
    body += [f"row, start = load_word(piece, {ROW}), load_word(piece, {START})"]
    body += [f"stop, groups = load_word(piece, {STOP}), load_word(piece, {GROUPS})"]
    held = [*names.addresses, *names.first]
    body += [f"{name} = load_word(row, {i})" for i, name in enumerate(held)]
    body += ["thread = cuda.threadIdx.x", "if thread < groups:"]
    body += _indented([f"i = start + thread * {width}", *_group(names, job, width)])
    body += ["else:"]
    body += _indented([f"i = start + groups * {width} + (thread - groups)", "if i < stop:"])
    body += _indented(_indented(_single(names, job)))
    arguments = ["pieces_at", *names.control, *names.recall, *names.given]
    return _function(f"many({', '.join(arguments)})", body)


def _head(names: Names, form: Form) -> list[str]:
    """What comes first: whether there is a step at all, and the numbers that are not in the launch."""
    body: list[str] = []
    kept = list(names.places)
    if form.recalls and kept:
        body += ["if cuda.blockIdx.x == 0 and cuda.threadIdx.x == 0:"]
        row = f"place * {len(kept)}"
        body += _indented(f"store_number(kept_at, {row} + {i}, {name})" for i, name in enumerate(kept))
    if form.watched:
        body += [f"if load_word(control_at, {SKIP}) != 0:", "    return"]
        body += ["grad_factor = load_factor(control_at)"]
    if form.recalls and kept:
        body += [f"behind = load_word(control_at, {SKIPPED}) - expected", "if behind != 0:"]
        body += _indented([f"row = ((place - behind) & {KEPT - 1}) * {len(kept)}"])
        body += _indented(f"{name} = load_number(kept_at, row + {i})" for i, name in enumerate(kept))
    if form.capturable:
        body += [f"{name} = load_number(numbers_at, {i})" for name, i in names.places.items()]
    return body


def _group(names: Names, job: Job, width: int) -> list[str]:
    lanes = range(width)
    body = []
    for name in names.loaded:
        each = ", ".join(f"{name}_{lane}" for lane in lanes)
        body.append(f"{each} = load_wide_{name}({name}_at, i)")
    for lane in lanes:
        given = ", ".join([*(f"{name}_{lane}" for name in names.loaded), *names.numbers])
        new = _tuple(f"{name}_{lane}" for name in names.stored)
        body.append(f"{new} = element({given})")
    for name in names.stored:
        each = ", ".join(f"{name}_{lane}" for lane in lanes)
        body.append(names.store(name, f"({each})", wide=True))
    if job.zero_grad:
        zeros = ", ".join(["zero"] * width)
        body.append(names.store("update", f"({zeros})", wide=True))
    return body


def _single(names: Names, job: Job) -> list[str]:
    body = [f"{name} = load_{name}({name}_at, i)" for name in names.loaded]
    body.append(f"{_tuple(names.stored)} = element({', '.join([*names.loaded, *names.numbers])})")
    body += [names.store(name, name) for name in names.stored]
    return [*body, names.store("update", "zero")] if job.zero_grad else body


def _function(head: str, body: Iterable[str]) -> str:
    return "\n".join([f"def {head}:", *_indented(body)]) + "\n"


def _indented(lines: Iterable[str]) -> list[str]:
    return [f"    {line}" for line in lines]


def _tuple(names: Iterable[str]) -> str:
    return "(" + "".join(f"{name}, " for name in names).rstrip() + ")"
