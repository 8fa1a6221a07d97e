"""The kernels for sums on a CUDA device, as Python source.

`one` and `many` add the terms of the elements of one array and of chunks of many: a block of threads
has `SUM_BLOCK` elements, for which it computes the chain as far as the transform with the sums, without
storing anything, and stores one number for each sum. `conclude` adds these up, calls `from_sums`, and
stores the hyperparameters that follow where the kernels of the step read them.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastopt.executors.cuda.kernel_source import (
    SKIP,
    SKIPPED,
    KernelVariant,
    Names,
    function,
    head,
    indented,
    loads,
)
from fastopt.executors.cuda.tree_sum import ROWS
from fastopt.executors.norm import LANES
from fastopt.kernels.chain_source import arrays_read, sums_body, tuple_of
from fastopt.kernels.job import CORRECTION, Job
from fastopt.transforms.base import Part, sums_in

# A row of the table of `conclude`: address for hyperparameters, index of the first sum and number of
# sums, whether there is a gradient, index of the first carried number, and index of the first total of
# the step before and number of totals.
DECIDED, FIRST, COUNT, HAS_GRADIENT, CARRIED, TOTAL, TOTALS = range(7)
ROW_WORDS = 7

# Sums that one launch adds up: each takes 8 KiB of shared memory, of which there are 48.
MOST = 4

# What `conclude` does: all, only add, or only what follows, from sums that were added before.
ALL, ADD, FOLLOW = range(3)


def element(job: Job, form: KernelVariant) -> str:
    """The function `element`: from loaded elements and hyperparameters to the terms of all sums."""
    names = Names(job, form, summing=True)
    read = _loaded(job)
    body, terms = sums_body(job, bool(names.factor))
    unread = ["param = zero"] if "param" not in read else []
    terms = [f"float64({term})" for term in terms]
    arguments = ", ".join([*read, *names.hyper])
    return function(f"element({arguments})", [*unread, *body, f"return {tuple_of(terms)}"])


def one(job: Job, form: KernelVariant, columns: range) -> str:
    """The kernel for one array, and some of the sums."""
    names = Names(job, form, summing=True)
    body = [*head(names.indices, form), *loads(names.indices, form), *names.from_sums()]
    body += ["start = cuda.blockIdx.x * SUM_BLOCK", "count = min(length - start, SUM_BLOCK)"]
    body += ["position = first + cuda.blockIdx.x", *_added(job, names, columns)]
    arguments = ["sums_at", "capacity", "length", "first", *names.words, *names.common]
    return function(f"one({', '.join(arguments)})", body)


def many(job: Job, form: KernelVariant, columns: range) -> str:
    """The kernel for chunks of many arrays, and some of the sums."""
    names = Names(job, form, summing=True)
    body = [*head(names.indices, form), *loads(names.indices, form)]
    body += ["chunk = chunks_at + 8 * CHUNK_WORDS * cuda.blockIdx.x"]
    body += ["row, start = load_word(chunk, 0), load_word(chunk, 1)"]
    body += ["count, position = load_word(chunk, 2), load_word(chunk, 3)"]
    # The rows are those of the step, whose transforms may have more arrays.
    body += [f"{name} = load_word(row, {i})" for i, name in enumerate(names.addresses)]
    body += [f"{name} = load_word(row, decided_column)" for name in names.decided_at]
    body += [*names.from_sums(), *_added(job, names, columns)]
    arguments = ["sums_at", "capacity", "chunks_at", "decided_column", *names.common]
    return function(f"many({', '.join(arguments)})", body)


def _loaded(job: Job) -> list[str]:
    """The names of what is loaded: the correction of a parameter comes with it."""
    return [array.name for array in arrays_read(job) if array.kind != CORRECTION]


def _added(job: Job, names: Names, columns: range) -> list[str]:
    """Add the terms of a block of `count` elements from `start` on."""
    read = _loaded(job)
    loop = ["begin = start + group * GROUP"]
    loop += [f"{name}_scale = scale_{name}({name}_at, begin)" for name in names.blocked if name in read]
    for row in range(ROWS):
        # Of the end the last element is read again, and does not count.
        loop += [f"at{row} = begin + lane + {LANES * row}", f"i = min(at{row}, last)"]
        loop += [f"{name}_{row} = {names.load(name)}" for name in read]
    for row in range(ROWS):
        arguments = ", ".join([*(f"{name}_{row}" for name in read), *names.hyper])
        loop.append(f"terms{row} = element({arguments})")
    for k in columns:
        loop += [f"term{row} = terms{row}[{k}] if at{row} <= last else 0.0" for row in range(ROWS)]
        pairs = [f"(term{row} + term{row + 1})" for row in range(0, ROWS, 2)]
        sum_ = f"({pairs[0]} + {pairs[1]}) + ({pairs[2]} + {pairs[3]})"
        loop.append(f"sums[{k - columns.start} * SIZE + group * LANES + lane] = {sum_}")
    body = ["thread = cuda.threadIdx.x", "lane = thread % LANES", "last = start + count - 1"]
    body += ["groups = (count + GROUP - 1) // GROUP", "sums = cuda.shared.array(SHARED, float64)"]
    body += ["for group in range(thread // LANES, groups, THREADS // LANES):", *indented(loop)]
    body += ["add_neighbours(sums, SIZE, groups, LANES, thread, THREADS)"]
    body += ["add_neighbours(sums, SIZE, LANES, 1, thread, THREADS)"]
    store = (
        f"store_double(sums_at, ({columns.start} + thread) * capacity + position, sums[thread * SIZE])"
    )
    return [*body, f"if thread < {len(columns)}:", f"    {store}"]


def columns_added(part: Part) -> int:
    """How many sums `conclude` adds up at once: all that are of as many blocks, if there is room."""
    sums = sums_in(part)
    count = len(sums.names)
    return 1 if sums.after or count > MOST else count


def settings_of(part: Part) -> list[str]:
    """The names of what `conclude` gets from the host: the carried numbers to read, and `hyper`."""
    return ["slot", *(f"hyper{i}" for i in range(sums_in(part).from_host))]


def conclude_arguments(part: Part, form: KernelVariant, control: bool) -> list[str]:
    """The arguments of `conclude`, in order."""
    words = ["sums_at", "capacity", "table_at", "lines", "rows", "mode", "carried_at", "stride"]
    words += ["control_at"] * control
    words += ["totals_at", "totals_stride"] if sums_in(part).after else []
    words += ["kept_at", "position", "expected"] * form.recalls
    return words + (["hyper_at"] if form.capturable else settings_of(part))


def conclude(part: Part, form: KernelVariant, control: bool) -> str:
    """The kernel from sums to hyperparameters: a line of the table for each array, or one for all.

    With one line for all the rows from there on get the same hyperparameters. Where `from_sums` may
    leave out the step, one block of threads has all lines.
    """
    sums = sums_in(part)
    skips = sums.skips
    before_step, summed, carried = len(sums.summands), len(sums.names), len(sums.carried)
    settings = settings_of(part)
    hyper, totals = tuple_of(settings[1:]), tuple_of(f"totals[{k}]" for k in range(summed))
    previous = tuple_of(f"load_double(before, {c})" for c in range(carried))
    concluding = [f"result = from_sums({hyper}, {totals}, {previous})"]
    concluding += ["decided, following = result[0], result[1]"]
    concluding += ["if thread == 0:", *indented(_carried(carried, "float64(following[{}])"))]
    concluding += ["    skipped = skipped or result[2]"] if skips else ["    pass"]
    concluding += ["for row in range(thread, rows, SUM_THREADS):"]
    concluding += [f"    at = load_word(line + {8 * ROW_WORDS} * row, {DECIDED})"]
    concluding += [f"    store_decided(at, {i}, float64(decided[{i}]))" for i in range(part.hypers)]
    kept = ["if thread == 0:", *indented(_carried(carried, "load_double(before, {})")), "    pass"]
    walk = [f"line = table_at + {8 * ROW_WORDS} * number"]
    walk += [f"first, count = load_word(line, {FIRST}), load_word(line, {COUNT})"]
    walk += [f"if mode == {FOLLOW}:", "    count = 1"]
    if sums.after:
        walk += _totals(before_step, summed)
    columns = columns_added(part)
    for k in range(0, summed, columns):
        if k == before_step:
            walk += [f"count = 1 if mode == {FOLLOW} else load_word(line, {TOTALS})"]
        walk += [f"add_up(sums_at + 8 * ({k} * capacity + first), capacity, count, sums, thread)"]
        walk += ["if thread == 0:"]
        for column in range(columns):
            walk += [f"    totals[{k + column}] = sums[{column} * SUM_THREADS]"]
            walk += [
                f"    store_double(sums_at, {k + column} * capacity + first, totals[{k + column}])"
            ]
    walk += ["cuda.syncthreads()", f"if mode != {ADD}:"]
    walk += [f"    own_at = carried_at + 8 * load_word(line, {CARRIED})"]
    walk += ["    before, after = own_at + 8 * from_ * stride, own_at + 8 * to * stride"]
    walk += [f"    if load_word(line, {HAS_GRADIENT}) != 0:"]
    walk += indented(indented(["if thread == 0 or thread < rows:", *indented(concluding)]))
    walk += ["    else:", *indented(indented(kept)), "cuda.syncthreads()"]
    indices = {name: i for i, name in enumerate(settings)}
    body = [*head(indices, form), *loads(indices, form), "thread = cuda.threadIdx.x"]
    body += ["sums = cuda.shared.array(SUM_SHARED, float64)"]
    body += [f"totals = cuda.shared.array({summed}, float64)", "skipped = False"]
    body += ["from_ = 0 if slot == 0.0 else 1", "to = 1 - from_"]
    body += ["for number in range(cuda.blockIdx.x, lines, cuda.gridDim.x):", *indented(walk)]
    if skips:
        body += [f"if thread == 0 and mode != {ADD}:"]
        body += [f"    store_word(control_at, {SKIP}, 1 if skipped else 0)", "    if skipped:"]
        body += [f"        store_word(control_at, {SKIPPED}, load_word(control_at, {SKIPPED}) + 1)"]
    return function(f"conclude({', '.join(conclude_arguments(part, form, control))})", body)


def _totals(first: int, end: int) -> list[str]:
    """The lines that fetch what the step before has added up, of each array, to be added up."""
    fetch = [f"at = load_word(totals_at, load_word(line, {TOTAL}) + item)"]
    for k in range(first, end):
        number = f"load_double(at, {k - first} * totals_stride)"
        fetch.append(f"store_double(sums_at, {k} * capacity + first + item, {number})")
    body = [f"for item in range(thread, load_word(line, {TOTALS}), SUM_THREADS):", *indented(fetch)]
    return [f"if mode != {FOLLOW}:", *indented(body)]


def _carried(count: int, value: str) -> Sequence[str]:
    """The lines that store the carried numbers of the next step."""
    return [f"store_double(after, {c}, {value.format(c)})" for c in range(count)]
