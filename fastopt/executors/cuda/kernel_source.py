"""The kernels of a chain for a CUDA device, as Python source.

The mathematics of one element is one function, `element`, that all of them call. `wide` has a thread
for each group of elements that fills 16 bytes and one for each element of the tail; `scalar` has a
thread for each element, for arrays that are not aligned; `many` does both for chunks of many arrays,
by a table in device memory. Where a state is in blocks of 8-bit codes, all of them have a
warp for each block. None has a loop: a loop would be unrolled, with a division for its trip count and
more registers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from fastopt.codecs.base import BLOCK
from fastopt.executors.cuda import warp_sums
from fastopt.executors.cuda.device import WARP
from fastopt.kernels.chain_source import chain_body, hypers_read, tuple_of
from fastopt.kernels.job import CORRECTION, GRAD_FACTOR, NUMBERS, PHASE, Job

# What is decided about a step on the device, in words of 8 bytes: the factor of its gradients, in
# float64 and in float32, whether it is skipped, and how many steps were.
FACTOR, FACTOR32, SKIP, SKIPPED = range(4)
CONTROL_WORDS = 4


def factor_offset(dtype: str) -> int:
    """Where the factor in a dtype is, float32 or float64, in bytes from the first word."""
    return 8 * (FACTOR32 if dtype == "float32" else FACTOR)


# Which steps were skipped, and so the step count, is known on the device only. The kernel arguments
# have the hyperparameters for the case that none was skipped; if some were, those of an earlier launch
# are used, which are kept for this many launches.
KEPT = 1024

# Elements of each thread: a warp has a block of codes.
PER_THREAD = BLOCK // WARP

# A chunk of one of many arrays: address of its row, first element, end, and number of whole groups.
ROW, START, STOP, GROUPS = range(4)
CHUNK_WORDS = 4


class KernelVariant(NamedTuple):
    """The options that a kernel is compiled for besides its job."""

    clipped: bool = False  # reads the clip factor, and whether to skip, from device memory
    capturable: bool = False  # reads hyperparameters from device memory, not from arguments
    recalls: bool = False  # uses hyperparameters of an earlier launch after a skipped step
    hyper_in_rows: bool = False  # `many`: each array has its own, whose address is in its row
    skips: bool = False  # reads from device memory whether to skip

    @property
    def may_skip(self) -> bool:
        """Whether the step may have been skipped when the kernel starts."""
        return self.clipped or self.skips

    @property
    def reads_control(self) -> bool:
        """Whether the kernel reads what was decided on the device."""
        return self.may_skip or self.recalls


class Names:
    """The names in the kernels of a job: arrays and arguments.

    With `summing` these are the kernels for the sums of its last transform.
    """

    def __init__(self, job: Job, form: KernelVariant, summing: bool = False) -> None:
        self.kinds = {array.name: array.kind for array in job.arrays}
        self.arrays = list(self.kinds)
        self.loaded = [n for n, kind in self.kinds.items() if kind not in ("output", CORRECTION)]
        self.slots = [array.name for array in job.slots]
        self.addresses_of = {array.name: array.addresses for array in job.arrays}
        self.stored = ["param", *(name for name in self.slots if self.kinds[name] != "input")]
        self.dithered = {a.name for a in job.arrays if a.storage.dithered and not summing}
        self.blocked = [array.name for array in job.arrays if array.storage.in_blocks]
        host, self.decided = hypers_read(job, summing)
        # The index of each in the buffer of hyperparameters.
        self.indices = {"phase": PHASE} if self.dithered else {}
        self.indices |= {name: NUMBERS + index for name, index in host.items()}
        # A clipped step reads its factor from device memory.
        self.factor = ["grad_factor"] if job.scales or form.clipped else []
        if self.factor and not form.clipped:
            self.indices = {"grad_factor": GRAD_FACTOR, **self.indices}
        self.hyper = [*self.factor, *host, *self.decided]
        self.hyper_arguments = ["hyper_at"] if form.capturable else list(self.indices)
        self.control = ["control_at"] if form.reads_control else []
        self.recall = ["kept_at", "position", "expected"] if form.recalls else []
        # For random bits: the index of the first element among all, and the address of the table.
        self.first = ["first", "table"] if self.dithered else []
        self.decided_at = ["decided_at"] if self.decided else []
        # What the step adds up, and the address of an array's sums (see `warp_sums`).
        self.terms = [] if summing else [f"term{k}" for k in range(len(job.terms))]
        self.sums_at = ["sums_at"] if self.terms else []

    def load(self, name: str, wide: bool = False) -> str:
        """The expression that loads an element or a group."""
        more = f", {name}_scale" if name in self.blocked else ""
        return f"load_{'wide_' if wide else ''}{name}({self.addresses_of[name]}, i{more})"

    def store(self, name: str, value: str, wide: bool = False) -> str:
        """The statement that stores an element or a group."""
        more = f", {name}_scale" if name in self.blocked else ""
        more += self._random_bits(name)
        return f"store_{'wide_' if wide else ''}{name}({self.addresses_of[name]}, i, {value}{more})"

    def store_block(self, kind: str, name: str, position: str, values: str) -> str:
        """The statement that stores what a thread has of a block of codes, ``plain`` or ``other``."""
        more = f"{values}, {name}_scale{self._random_bits(name)}"
        return f"store_{kind}_{name}({name}_at, begin, {position}, {more})"

    def _random_bits(self, name: str) -> str:
        """Further arguments, for stochastic rounding."""
        if name not in self.dithered:
            return ""
        return f", {'first + begin' if name in self.blocked else 'first'}, table, phase"

    @property
    def addresses(self) -> list[str]:
        return [f"{name}_at" for name in self.arrays]

    @property
    def words(self) -> list[str]:
        """The arguments that each array has of its own."""
        return [*self.addresses, *self.first, *self.decided_at, *self.sums_at]

    @property
    def common(self) -> list[str]:
        """The arguments that all arrays of a launch have in common, which come last."""
        return [*self.control, *self.recall, *self.hyper_arguments]

    def from_sums(self) -> list[str]:
        """The lines that load the hyperparameters which were decided from sums."""
        return [f"{name} = load_number(decided_at, {i})" for i, name in enumerate(self.decided)]


def element(job: Job, form: KernelVariant) -> str:
    """The function `element`: from loaded elements and hyperparameters to those to be stored."""
    names = Names(job, form)
    body = chain_body(job, bool(names.factor))
    body.append(f"return {tuple_of(['new', *names.stored[1:], *names.terms])}")
    arguments = ", ".join([*names.loaded, *names.hyper])
    return function(f"element({arguments})", body)


def wide(job: Job, form: KernelVariant, width: int) -> str:
    """The kernel for one array whose addresses allow wide accesses: `groups` groups, then the tail."""
    names = Names(job, form)
    body = [*head(names.indices, form), *loads(names.indices, form), *names.from_sums()]
    body += _walk_alone(names, job, width)
    arguments = ["length", "groups", *names.words, *names.common]
    return function(f"wide({', '.join(arguments)})", body)


def scalar(job: Job, form: KernelVariant) -> str:
    """The kernel for one array at any address."""
    names = Names(job, form)
    body = [*head(names.indices, form), *loads(names.indices, form), *names.from_sums()]
    body += _walk_alone(names, job, 1)
    arguments = ["length", *names.words, *names.common]
    return function(f"scalar({', '.join(arguments)})", body)


def many(job: Job, form: KernelVariant, width: int) -> str:
    """The kernel for many arrays: each block of threads steps a chunk listed in the table."""
    names = Names(job, form)
    body = [*head(names.indices, form), f"chunk = chunks_at + {8 * CHUNK_WORDS} * cuda.blockIdx.x"]
    body += [f"row, start = load_word(chunk, {ROW}), load_word(chunk, {START})"]
    body += [f"stop, groups = load_word(chunk, {STOP}), load_word(chunk, {GROUPS})"]
    in_rows = names.hyper_arguments if form.hyper_in_rows else []
    body += [f"{name} = load_word(row, {i})" for i, name in enumerate([*names.words, *in_rows])]
    body += [*loads(names.indices, form), *names.from_sums()]
    if names.terms:
        body += _walk_and_add(names, job, width, "groups != 0 and ")
    else:
        body += _walk(names, job, width, "cuda.threadIdx.x", "start + ", "stop")
    arguments = ["chunks_at", *names.control, *names.recall]
    arguments += [] if form.hyper_in_rows else names.hyper_arguments
    return function(f"many({', '.join(arguments)})", body)


def _walk_alone(names: Names, job: Job, width: int) -> list[str]:
    """The body of each thread for one array."""
    if not names.terms:
        return _walk(names, job, width, "cuda.grid(1)", "", "length")
    return ["start, stop = cuda.blockIdx.x * PIECE, length", *_walk_and_add(names, job, width)]


def _walk_and_add(names: Names, job: Job, width: int, is_whole: str = "") -> list[str]:
    """The body of each thread for a piece, with its terms added up.

    A group is stepped by one thread also where it is not whole: other arithmetic than `_walk`, whose
    tail has a thread for each element, but then every thread knows where its elements are.
    """
    body, absent = ["thread = cuda.threadIdx.x"], [f"{term}_sum = -0.0" for term in names.terms]
    if names.blocked:
        body += [f"lane = thread & {WARP - 1}", f"begin = start + {BLOCK} * (thread // {WARP})"]
        body += _branch(
            "begin < stop", _block(names, job, 1, "stop"), [*absent, "sum_lane = lane_of1()"]
        )
        if width > 1:
            whole = f"{is_whole}begin + {BLOCK} <= stop"
            body[3:] = _branch(whole, _block(names, job, width, "stop"), body[3:])
        return [*body, *warp_sums.store_piece(names.terms)]
    each = range(warp_sums.unit_of(job)[0])
    body += [f"begin = start + {len(each)} * thread", f"absent = {warp_sums.absent('begin')}"]
    single: list[str] = []
    for lane in each:
        single += [f"i = begin + {lane}", *(f"{term}_{lane} = absent" for term in names.terms)]
        terms = (f"{term}_{lane} = {term}" for term in names.terms)
        single += _branch("i < stop", [*_single(names, job), *terms])
    if width > 1:
        whole = f"{is_whole}begin + {width} <= stop"
        body += _branch(whole, ["i = begin", *_loaded(names, each), *_group(names, job, each)], single)
    else:
        body += single
    body += warp_sums.add_rows(names.terms, each, 0)
    body += warp_sums.add_units(names.terms, [0], len(each))
    return [*body, *warp_sums.store_piece(names.terms)]


def _walk(names: Names, job: Job, width: int, thread: str, start: str, stop: str) -> list[str]:
    """The body of each thread for the elements up to `stop`, in whole groups and a tail.

    `start` is added to the indices of elements. With a width of 1 there are no groups.
    """
    if names.blocked:
        body = [f"lane = cuda.threadIdx.x & {WARP - 1}"]
        block = f"block = lower_word({thread} >> {WARP.bit_length() - 1})"
        body += [block, f"begin = {start}first_of_block(block)"]
        rest = _branch(f"begin < {stop}", _block(names, job, 1, stop))
        if width == 1:
            return body + rest
        return [*body, *_branch("block < lower_word(groups)", _block(names, job, width, stop), rest)]
    if width == 1:
        return [f"i = {thread}", *_branch(f"i < {stop}", _single(names, job))]
    tail = [f"i = {start}groups * {width} + (thread - groups)"]
    tail += _branch(f"i < {stop}", _single(names, job))
    lanes = range(width)
    whole = [f"i = {start}thread * {width}", *_loaded(names, lanes), *_group(names, job, lanes)]
    return [f"thread = {thread}", *_branch("thread < groups", whole, tail)]


def head(indices: Mapping[str, int], form: KernelVariant) -> list[str]:
    """The head of a kernel: return if the step is skipped, load factor and earlier hyperparameters.

    `indices` has the index of each in the buffer of hyperparameters.
    """
    body: list[str] = []
    kept = list(indices)
    if form.recalls and kept:
        body += ["if cuda.blockIdx.x == 0 and cuda.threadIdx.x == 0:"]
        row = f"position * {len(kept)}"
        body += indented(f"store_number(kept_at, {row} + {i}, {name})" for i, name in enumerate(kept))
    if form.may_skip:
        body += [f"if load_word(control_at, {SKIP}) != 0:", "    return"]
    if form.clipped:
        body += ["grad_factor = load_factor(control_at)"]
    if form.recalls and kept:
        body += [f"skipped = load_word(control_at, {SKIPPED}) - expected", "if skipped != 0:"]
        body += indented([f"row = ((position - skipped) & {KEPT - 1}) * {len(kept)}"])
        body += indented(f"{name} = load_number(kept_at, row + {i})" for i, name in enumerate(kept))
    return body


def loads(indices: Mapping[str, int], form: KernelVariant) -> list[str]:
    """Load the hyperparameters from the host, if they are in device memory; `indices` as of `head`."""
    if not form.capturable:
        return []
    return [f"{name} = load_number(hyper_at, {i})" for name, i in indices.items()]


def _loaded(names: Names, lanes: range) -> list[str]:
    """Load a group by wide accesses, but not what is in blocks."""
    wanted = [name for name in names.loaded if name not in names.blocked]
    return [f"{_each(name, lanes)} = {names.load(name, wide=True)}" for name in wanted]


def _group(names: Names, job: Job, lanes: range) -> list[str]:
    """Step a loaded group, and store it but for what is in blocks."""
    body = []
    for lane in lanes:
        arguments = ", ".join([*(f"{name}_{lane}" for name in names.loaded), *names.hyper])
        new = tuple_of(f"{name}_{lane}" for name in [*names.stored, *names.terms])
        body.append(f"{new} = element({arguments})")
    for name in names.stored:
        if name not in names.blocked:
            body.append(names.store(name, f"({_each(name, lanes)})", wide=True))
    if job.zero_grad:
        zeros = ", ".join(["zero"] * len(lanes))
        body.append(names.store("update", f"({zeros})", wide=True))
    return body


def _single(names: Names, job: Job) -> list[str]:
    """Step one element; new elements of blocks are not stored yet."""
    body = [f"{name} = {names.load(name)}" for name in names.loaded]
    new = tuple_of([*names.stored, *names.terms])
    body.append(f"{new} = element({', '.join([*names.loaded, *names.hyper])})")
    body += [names.store(name, name) for name in names.stored if name not in names.blocked]
    return [*body, names.store("update", "zero")] if job.zero_grad else body


def _block(names: Names, job: Job, width: int, stop: str) -> list[str]:
    """Step a block of codes by a warp: whole by wide accesses, or with a width of 1 up to `stop`.

    A partial block is padded with zeros.
    """
    body = [f"{name}_scale = scale_{name}({name}_at, begin)" for name in names.blocked]
    groups = [range(first, first + width) for first in range(0, PER_THREAD, width)]
    factor = f" * {width}" if width > 1 else ""
    positions = [f"{WARP * lanes[0]} + lane{factor}" for lanes in groups]
    every = range(PER_THREAD)
    if width > 1:
        # All loads come first, so that they are under way together.
        for name in names.blocked:
            body.append(f"{name}_codes = codes_{name}({name}_at, begin, {positions[0]})")
        for lanes, position in zip(groups, positions, strict=True):
            body += [f"i = begin + {position}", *_loaded(names, lanes)]
        for name in names.blocked:
            body.append(f"{_each(name, every)} = decode_{name}({name}_codes, {name}_scale)")
    for lanes, position in zip(groups, positions, strict=True):
        body.append(f"i = begin + {position}")
        if width > 1:
            body += _group(names, job, lanes)
        else:
            kept = [f"{name}_{lanes[0]}" for name in names.blocked]
            new = [f"{name}_{lanes[0]} = {name}" for name in (*names.blocked, *names.terms)]
            body += [f"{name} = zero" for name in kept]
            body += [f"{term}_{lanes[0]} = {warp_sums.absent('i')}" for term in names.terms]
            body += _branch(f"i < {stop}", [*_single(names, job), *new])
        body += warp_sums.add_rows(names.terms, lanes, lanes[0])
    if names.terms:
        body += warp_sums.add_units(names.terms, [lanes[0] for lanes in groups], width)
    for name in names.blocked:
        if width > 1:
            body += _store_block(names, name, positions[0])
        else:
            body += _new_scale(name)
            for lanes, position in zip(groups, positions, strict=True):
                body += [f"i = begin + {position}", names.store(name, f"{name}_{lanes[0]}")]
    return body


def _largest(name: str, verb: str) -> list[str]:
    """Find the largest of a block from the elements of all threads of a warp."""
    largest = f"{name}_largest"
    body = [f"{largest} = nothing"]
    body += [f"{largest} = {verb}_{name}({largest}, {name}_{lane})" for lane in range(PER_THREAD)]
    return [*body, f"{largest} = largest_of_warp({largest})"]


def _new_scale(name: str) -> list[str]:
    """Compute the scale of a block, and store it."""
    largest, plain = f"{name}_largest", f"{name}_plain"
    body = [*_largest(name, "larger"), f"{plain} = is_plain_{name}({largest})"]
    body += _branch(f"not {plain}", _largest(name, "larger_finite"))
    return [*body, *_store_scale(name, plain)]


def _store_scale(name: str, plain: str) -> list[str]:
    """Compute the scale of a block from its largest number, and store it."""
    body = [f"{name}_scale = new_scale_{name}({name}_largest, {plain})"]
    return body + _branch("lane == 0", [f"store_scale_{name}({name}_at, begin, {name}_scale)"])


def _store_block(names: Names, name: str, position: str) -> list[str]:
    """Compute the scale of a block and store its codes: one branch for each kind of block."""
    values = f"({_each(name, range(PER_THREAD))})"
    plain, other = (
        [*_store_scale(name, str(kind == "plain")), names.store_block(kind, name, position, values)]
        for kind in ("plain", "other")
    )
    other = [*_largest(name, "larger_finite"), *other]
    body = _largest(name, "larger")
    return body + _branch(f"is_plain_{name}({name}_largest)", plain, other)


def _each(name: str, lanes: range) -> str:
    return ", ".join(f"{name}_{lane}" for lane in lanes)


def _branch(condition: str, then: Iterable[str], other: Iterable[str] | None = None) -> list[str]:
    body = [f"if {condition}:", *indented(then)]
    return body if other is None else [*body, "else:", *indented(other)]


def function(head: str, body: Iterable[str]) -> str:
    return "\n".join([f"def {head}:", *indented(body)]) + "\n"


def indented(lines: Iterable[str]) -> list[str]:
    return [f"    {line}" for line in lines]
