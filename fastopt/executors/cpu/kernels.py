"""The kernel of a chain for the CPU: generated source, and its machine code.

A kernel steps a stretch of one array and its states. It does not depend on threads or the number of
arrays (see `drivers`), so serial and parallel runs execute the same machine code. What compiles it,
`kernel_code`, is imported only where it is not on disk.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from fastopt.codecs.base import BLOCK
from fastopt.executors.cpu.pairs import in_pairs, pair_lines
from fastopt.kernels.chain_source import chain_body, hypers_of
from fastopt.kernels.disk_cache import obtain
from fastopt.kernels.job import CORRECTION, GRAD_FACTOR, NUMBERS, PHASE, Job, KernelArray
from fastopt.kernels.kernel_identity import Identity, identified
from fastopt.kernels.machine_code import MachineCode
from fastopt.kernels.processor import processor

if TYPE_CHECKING:
    from fastopt.kernels.lean_compilation import ObjectLibrary

# Elements that are stepped between two prefetches. The processor fetches ahead by itself, but stops at
# every page of 4 KiB. Measured on two cores of a Xeon, in rounds with C's loop: 10^7 elements take 0.86
# of C's time, and 1.01 if not fetched ahead; 10^8 0.97 and 1.07; 10^7 of float64 0.98 and 1.06.
# Prefetching a whole block at once was slower than none: 1.22 in float64. 32 elements are as good, but
# so short a loop is unrolled before LLVM vectorizes it (SGD); one of 64 is not. Short stretches are not
# prefetched: a thousand arrays take 0.58 ms with it and 0.53 without.
PREFETCH_STEP = 64
WORTH_FETCHING = 65_536


# The prefetch distance: near if all arrays but one at most are float32, else far, and farthest if all
# have 16 bits at most. Measured there with 6 * 10^7 elements, as multiples of the time of C's RMSProp
# in the same rounds; c is centered with momentum and decay, and 8-bit states had codes that took more
# instructions:
#
#      steps | RMSProp |  Adam |     c | float16 | 8-bit state | float16 + 8 bit | Adam, 8 bit
#          2 |   0.978 | 1.317 | 1.692 |   0.635 |       0.722 |           0.602 |       1.059
#          3 |   1.002 | 1.306 | 1.686 |   0.638 |       0.732 |           0.588 |       1.009
#          4 |   1.013 | 1.342 | 1.782 |   0.598 |       0.756 |           0.541 |       1.003
#          8 |   1.042 | 1.405 | 1.774 |   0.568 |       0.745 |           0.524 |       0.957
#
# On another Xeon 8 and 12 steps took, as multiples of the time with 10: 1.017 and 1.005 for float16,
# 1.064 and 1.017 for float16 with an 8-bit state and `fast`, 1.016 and 1.010 for split weights of 24
# bits with both; but 10 took 1.12 of the time with 8 for float64.
#
# Terms keep the processor busy for longer: with three norms 3, 4 and 6 steps took 1.065, 1.034 and
# 1.082 of the time of RMSProp alone.
NEAR, WITH_TERMS, FAR, FARTHEST = (steps * PREFETCH_STEP for steps in (3, 4, 8, 10))


def ahead(job: Job) -> int:
    """The number of elements that a kernel prefetches ahead."""
    formats = [array.storage for array in job.arrays]
    if sum(stored.codec != "float32" for stored in formats) <= 1:
        return WITH_TERMS if job.terms else NEAR
    return FARTHEST if all(stored.bytes_in_block <= 2 * BLOCK for stored in formats) else FAR


# Some processors see streams coming by themselves, across pages too. Measured on one core of a Zen 5
# with 4 * 10^7 and 6 * 10^7 elements, as multiples of the time with prefetches, by distance:
#
#       near | RMSProp 0.94, Adam 0.95, c 0.97, 8-bit state 0.94, three norms 0.90, SGD 0.96; the
#            | gradient in float16 0.95; the benchmarks' phase 1.00, with a copy to float64 1.07
#   farthest | float16 0.90, fast 0.92, with an 8-bit state 0.97, Adam 0.97; bfloat16 0.95
#        far | RMSProp in float64 0.98, Adam 1.18, Adam with 8-bit states 1.30, with bfloat16 1.17,
#            | split weights 1.08 to 1.10
#
# In its caches 10^6 and 10^7 elements took 0.93 to 0.97 near, and 0.89 to 0.97 farthest.
#
# On a Zen 3 with 3 * 10^7 elements on one core, and 10^8 on two: RMSProp 0.91 to 0.99, Adam 0.90, c
# 0.97, 8-bit state 0.95, SGD 0.94, float16 0.93 to 0.98, with an 8-bit state 0.96; RMSProp in float64
# 0.93 to 0.95, Adam 0.86, with bfloat16 0.90; only Adam with 8-bit states took longer, 1.02 to 1.05.
def prefetches(job: Job) -> bool:
    """Whether a kernel prefetches at all."""
    formats = [array.storage for array in job.arrays]
    match processor():
        case "znver3":
            return sum(stored.in_blocks for stored in formats) > 1
        case "znver5":
            return ahead(job) == FAR or any(stored.bytes_in_block > 4 * BLOCK for stored in formats)
    return True


@dataclass(frozen=True)
class Kernel:
    """Machine code of one job."""

    address: int
    source: str
    library: ObjectLibrary | None  # what was compiled; None if it came from disk

    @property
    def assembly(self) -> str:
        """The machine code as text; empty when it came from the cache, which keeps none."""
        return "" if self.library is None else str(self.library.get_asm_str())


def load(array: KernelArray, plain: bool) -> str:
    """The statement that loads an element; with `plain` from a plain block of codes."""
    name = array.name
    if array.storage.in_blocks:
        load = f"load_plain_{name}" if plain else f"load_{name}"
        return f"{name} = {load}({name}_codes, i - block, {name}_scale)"
    return f"{name} = load_{name}({array.addresses}, i)"


def _store(array: KernelArray, value: str) -> str:
    name = array.name
    if array.storage.in_blocks:
        return f"store_{name}({name}_new, i - block, {value})"
    random = "i - block, random" if array.storage.dithered else "0, 0"
    return f"store_{name}({array.addresses}, i, {value}, {random})"


def loads_hyper(job: Job) -> list[str]:
    """The statements that load the hyperparameters."""
    head = [f"grad_factor = hyper[{GRAD_FACTOR}]"] if job.scales else []
    return head + [f"{name} = hyper[{i}]" for i, name in enumerate(hypers_of(job), NUMBERS)]


def source(job: Job) -> str:
    """The loop over one stretch of one array, as Python source."""
    arrays = job.arrays
    blocked = [array for array in arrays if array.storage.in_blocks]
    head = [f"{array.name}_at = addresses[{i}]" for i, array in enumerate(arrays, 1)]
    dithers = any(array.storage.dithered for array in arrays)
    if dithers:
        head.append(f"first, phase = addresses[0], phase_bits(hyper[{PHASE}])")
    head += loads_hyper(job)
    if in_pairs(job):
        head.append("minus_zero = minus_zero_of(start)")
    if blocked:
        head.append("random_before = nothing")
    for name in (array.name for array in blocked):
        head.append(f"{name}_new, {name}_before = scratch(), nowhere()")
        head.append(f"{name}_new_scale = plain")

    names = [array.name for array in blocked]
    old_codes = "{0}_before, {0}_new, {0}_new_scale, random_before"
    loads, plain_loads = (
        [load(array, plain) for array in arrays if array.kind not in ("output", CORRECTION)]
        for plain in (False, True)
    )
    body = chain_body(job, job.scales)
    body.append(_store(arrays[0], "new"))
    if job.zero_grad:
        body.append(_store(arrays[1], "zero"))
    body += [_store(array, array.name) for array in job.slots if array.kind != "input"]
    terms = range(len(job.terms))
    body += [f"store_term{k}(terms{k}, i - begin, term{k})" for k in terms]
    added = [f"store_group(groups{k}, terms{k}, (begin - block) // GROUP)" for k in terms]
    if terms:
        head.append(f"sums = addresses[{len(arrays) + 1}]")
    for k in terms:
        head.append(f"terms{k}, groups{k}, blocks{k} = group_terms(), group_sums(), block_sums()")

    lines = ["def kernel(addresses, hyper, start, stop):"]
    lines += [f"    {line}" for line in head]
    fetched = arrays if prefetches(job) else []
    lines += ["    fetches = stop - start >= WORTH_FETCHING"] if fetched else []
    lines += ["    for block in range(start, stop, BLOCK):"]
    lines += ["        end = min(block + BLOCK, stop)"]
    if dithers:
        lines += ["        random = random_of(first + block, phase)"]
    for name in names:
        lines += [f"        {name}_codes = codes_of({name}_at, block)"]
        lines += [f"        {name}_scale = scale_{name}({name}_at, block)"]
    is_full_block = ["end - block == BLOCK", *(f"is_plain_{name}({name}_scale)" for name in names)]
    lines += [f"        whole = {' and '.join(is_full_block)}"]
    if blocked:
        plain = [f"is_plain_{name}({name}_new_scale)" for name in names]
        lines += [f"        if not (whole and {' and '.join(plain)}):"]
        lines += ["            # No step here to alternate with encoding the previous block."]
    for name in names:
        lines += [f"            encode_all_{name}({old_codes.format(name)})"]
        lines += [f"            {name}_before, {name}_new_scale = nowhere(), plain"]
    lines += ["        if whole:"]
    lines += ["            for begin in range(block, block + BLOCK, PREFETCH_STEP):"]
    fetch_ahead = [
        "                if fetches:",
        "                    ahead = min(begin + AHEAD, stop - PREFETCH_STEP)",
    ]
    lines += fetch_ahead if fetched else []
    lines += [f"                    fetch_{array.name}({array.name}_at, ahead)" for array in fetched]
    for name in names:  # the previous block's elements that this block will overwrite in the scratch
        lines += ["                within = begin - block"]
        lines += ["                for position in range(within, within + PREFETCH_STEP, LANES):"]
        lines += [f"                    encode_{name}(position, {old_codes.format(name)})"]
    if in_pairs(job):
        lines += ["                for pair in range(PREFETCH_STEP // 2):"]
        lines += ["                    i = begin + 2 * pair"]
        lines += [f"                    {line}" for line in pair_lines(job)]
    else:
        lines += ["                for i in range(begin, begin + PREFETCH_STEP):"]
        lines += [f"                    {line}" for line in plain_loads + body]
    lines += [f"                {line}" for line in added]
    lines += ["        else:"]
    if terms:
        lines += ["            for begin in range(block, end, GROUP):"]
        lines += [f"                clear_terms(terms{k})" for k in terms]
        lines += ["                for i in range(begin, min(begin + GROUP, end)):"]
        lines += [f"                    {line}" for line in loads + body]
        lines += [f"                {line}" for line in added]
    else:
        lines += ["            for i in range(block, end):"]
        lines += [f"                {line}" for line in loads + body]
    if blocked and dithers:
        lines += ["        random_before = random"]
    for name in names:
        numbers = f"{name}_at, block, end, {name}_new"
        lines += [f"        {name}_new_scale = rescale_{name}({numbers})"]
        lines += [f"        {name}_before = {name}_codes"]
    position = "block % SUM_BLOCK // BLOCK"
    lines += [f"        store_block(blocks{k}, groups{k}, {position})" for k in terms]
    if terms:
        lines += ["        if end == stop or end % SUM_BLOCK == 0:"]
        lines += ["            count = (end - 1) % SUM_BLOCK // GROUP + 1"]
    for k in terms:
        position = f"block // SUM_BLOCK * {len(terms)} + {k}"
        lines += [f"            store_sum(blocks{k}, groups{k}, count, sums, {position})"]
    lines += [f"    encode_all_{name}({old_codes.format(name)})" for name in names]
    return "\n".join(lines) + "\n"


@cache
def kernel(job: Job) -> Kernel:
    """The compiled kernel of a job, from memory, from disk, or compiled now.

    It is never freed: tables and launches hold its address.

    Raises
    ------
    TypeError
        A transform cannot be compiled, or turns float32 into float64. The message names it.
    RuntimeError
        The processor lacks the instructions for one of the formats.
    """
    text, functions = source(job), [part.update for part in job.parts]
    identity = identified(job, [text], [*functions, *(term.function for term in job.terms)])

    def compiled() -> ObjectLibrary:
        from fastopt.executors.cpu.kernel_code import step_library

        return step_library(job, text, identity)

    return obtained(text, identity, compiled)


def obtained(text: str, identity: Identity, compile_: Callable[[], ObjectLibrary]) -> Kernel:
    """A kernel from disk, or compiled now."""
    libraries: list[ObjectLibrary] = []

    def compiled() -> MachineCode:
        libraries.append(compile_())
        return libraries[0].machine_code

    address = obtain(identity.name, identity.content, compiled)
    return Kernel(address, text, libraries[0] if libraries else None)
