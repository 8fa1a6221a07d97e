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

from fastopt.transforms.base import Part

# What decides over a step on the device itself, in words of 8 bytes (see `norm`).
NORM, FINITE, FACTOR, FACTOR32, SKIP, SKIPPED = range(6)
CONTROL_WORDS = 6

# Whether the steps just before were skipped is known on the device only, and so is the number of this
# one. The launch brings the numbers for the case that none was; if some were, those of an earlier launch
# are right, which are kept for so many steps.
KEPT = 1024

# A piece of many arrays: the address of its row, first and last element, and how many whole groups.
ROW, START, STOP, GROUPS = range(4)
PIECE_WORDS = 4


class Form(NamedTuple):
    """What a kernel is compiled for, beside its chain and dtype."""

    zero_grad: bool = False
    scales: bool = False  # multiply the gradient by a factor
    watched: bool = False  # the factor, and whether to step at all, are found on the device
    capturable: bool = False  # the numbers are in the memory of the device, not in the launch
    recalls: bool = False  # the numbers of an earlier launch are taken after a step was skipped


class Names:
    """The names in the kernels of a chain: its arrays, and which of them are read and written."""

    def __init__(self, parts: tuple[Part, ...], form: Form) -> None:
        slots = [slot for part in parts for slot in part.slots]
        kinds = {"param": "state", "update": "state" if form.zero_grad else "input"}
        kinds |= {f"{slot.kind}{i}": slot.kind for i, slot in enumerate(slots)}
        self.arrays = list(kinds)
        self.loaded = [name for name, kind in kinds.items() if kind != "output"]
        self.slots = self.arrays[2:]
        self.kinds = kinds
        self.stored = ["param", *(name for name in self.slots if kinds[name] != "input")]
        self.hypers = [f"hyper{i}" for i in range(sum(part.hypers for part in parts))]
        # A watched step has its factor from the device.
        self.factor = ["grad_factor"] if form.scales or form.watched else []
        self.numbers = [*self.factor, *self.hypers]
        given = ([] if form.watched else self.factor) + self.hypers
        self.given = ["numbers_at"] if form.capturable else given
        self.control = ["control_at"] if form.watched else []
        self.recall = ["kept_at", "place", "expected"] if form.recalls else []

    @property
    def addresses(self) -> list[str]:
        return [f"{name}_at" for name in self.arrays]


def element(parts: tuple[Part, ...], form: Form) -> str:
    """The mathematics: from the numbers of one element to those to be stored."""
    names = Names(parts, form)
    slots, hypers = iter(names.slots), iter(names.hypers)
    body = ["update = grad_factor * update"] if names.factor else []
    value = "update"
    for index, part in enumerate(parts):
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


def wide(parts: tuple[Part, ...], form: Form, width: int) -> str:
    """One array whose addresses allow wide accesses: `groups` whole groups, then the tail."""
    names = Names(parts, form)
    body = [*_head(names, form), "thread = cuda.grid(1)", "if thread < groups:"]
    body += _indented([f"i = thread * {width}", *_group(names, form, width)])
    body += ["else:"]
    body += _indented([f"i = groups * {width} + (thread - groups)", "if i < length:"])
    body += _indented(_indented(_single(names, form)))
    arguments = ["length", "groups", *names.addresses, *names.control, *names.recall, *names.given]
    return _function(f"wide({', '.join(arguments)})", body)


def scalar(parts: tuple[Part, ...], form: Form) -> str:
    """One array at any address."""
    names = Names(parts, form)
    body = [*_head(names, form), "i = cuda.grid(1)", "if i < length:"]
    body += _indented(_single(names, form))
    arguments = ["length", *names.addresses, *names.control, *names.recall, *names.given]
    return _function(f"scalar({', '.join(arguments)})", body)


def many(parts: tuple[Part, ...], form: Form, width: int) -> str:
    """Many arrays: each block works on the piece that the table says."""
    names = Names(parts, form)
    body = [*_head(names, form), f"piece = pieces_at + {8 * PIECE_WORDS} * cuda.blockIdx.x"]
    body += [f"row, start = load_word(piece, {ROW}), load_word(piece, {START})"]
    body += [f"stop, groups = load_word(piece, {STOP}), load_word(piece, {GROUPS})"]
    body += [f"{name} = load_word(row, {i})" for i, name in enumerate(names.addresses)]
    body += ["thread = cuda.threadIdx.x", "if thread < groups:"]
    body += _indented([f"i = start + thread * {width}", *_group(names, form, width)])
    body += ["else:"]
    body += _indented([f"i = start + groups * {width} + (thread - groups)", "if i < stop:"])
    body += _indented(_indented(_single(names, form)))
    arguments = ["pieces_at", *names.control, *names.recall, *names.given]
    return _function(f"many({', '.join(arguments)})", body)


def _head(names: Names, form: Form) -> list[str]:
    """What comes first: whether there is a step at all, and the numbers that are not in the launch."""
    body = []
    if form.recalls:
        size = len(names.hypers)
        body += ["if cuda.blockIdx.x == 0 and cuda.threadIdx.x == 0:"]
        kept = [
            f"store_number(kept_at, place * {size} + {i}, {name})"
            for i, name in enumerate(names.hypers)
        ]
        body += _indented(kept or ["pass"])
    if form.watched:
        body += [f"if load_word(control_at, {SKIP}) != 0:", "    return"]
        body += ["grad_factor = load_factor(control_at)"]
    if form.recalls and names.hypers:
        body += [f"behind = load_word(control_at, {SKIPPED}) - expected", "if behind != 0:"]
        body += _indented([f"row = ((place - behind) & {KEPT - 1}) * {size}"])
        body += _indented(
            f"{name} = load_number(kept_at, row + {i})" for i, name in enumerate(names.hypers)
        )
    if form.capturable:
        if form.scales and not form.watched:
            body.append("grad_factor = load_number(numbers_at, 0)")
        body += [f"{name} = load_number(numbers_at, {i})" for i, name in enumerate(names.hypers, 1)]
    return body


def _group(names: Names, form: Form, width: int) -> list[str]:
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
        body.append(f"store_wide_{name}({name}_at, i, ({each}))")
    if form.zero_grad:
        zeros = ", ".join(["zero"] * width)
        body.append(f"store_wide_update(update_at, i, ({zeros}))")
    return body


def _single(names: Names, form: Form) -> list[str]:
    body = [f"{name} = load_{name}({name}_at, i)" for name in names.loaded]
    body.append(f"{_tuple(names.stored)} = element({', '.join([*names.loaded, *names.numbers])})")
    body += [f"store_{name}({name}_at, i, {name})" for name in names.stored]
    return [*body, "store_update(update_at, i, zero)"] if form.zero_grad else body


def _function(head: str, body: Iterable[str]) -> str:
    return "\n".join([f"def {head}:", *_indented(body)]) + "\n"


def _indented(lines: Iterable[str]) -> list[str]:
    return [f"    {line}" for line in lines]


def _tuple(names: Iterable[str]) -> str:
    return "(" + "".join(f"{name}, " for name in names).rstrip() + ")"
